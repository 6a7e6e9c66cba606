"""A flow run that waits for a human: paused in Prefect until somebody decides."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

from flows.orchestration.run_page import show_verdict
from flows.orchestration.servers import answers, prefect_environment, running_server
from tasks.system.locks import held, is_free

if TYPE_CHECKING:
    from prefect.client.schemas.objects import State

# A nightly run that passed at three can be decided until the afternoon. The version waits longer.
WAIT_SECONDS = 12 * 3600
_POLL_SECONDS = 5


def await_decision(home: Path, result: dict[str, Any], seconds: int = WAIT_SECONDS) -> None:
    """Pause the flow run until its version is decided on; the result then has the outcome.

    The decision comes from Prefect's UI (the paused run's form) or from `instar promote`, which
    moves the version itself and then resumes this run. Undecided in time, the version goes on
    waiting.

    Args:
        home: The checkout that keeps the promotion log.
        result: What the flow returns (`tasks.execution.retraining_run.Retraining.result`).
        seconds: How long.
    """
    from prefect import get_run_logger, pause_flow_run
    from prefect.exceptions import FlowPauseTimeout
    from prefect.input import RunInput
    from prefect.runtime import flow_run

    from tasks.promotion.approval import decide, note_waiting, verdict_on

    class Approval(RunInput):
        approve: bool = False
        reason: str = ""
        your_name: str = ""

    reference = reference_of(result)
    if not note_waiting(home, reference, str(flow_run.get_id())):
        _tell(home, result)
        return
    get_run_logger().info("%s waits: %s", reference, command_of(reference))
    asked = Approval.with_initial_data(
        description=f"**{reference} passed the gate.** Into Production?\n\n"
        + "\n".join(f"- {reason}" for reason in result["gate"]["reasons"])
    )
    try:
        with held(_sign_of_life(home, str(flow_run.get_id())), "a decision"):
            answer = pause_flow_run(asked, timeout=seconds, poll_interval=_POLL_SECONDS)
    except FlowPauseTimeout:
        answer = None
    if verdict_on(home, reference).outcome == "waiting":
        if answer is None:
            get_run_logger().warning("undecided; %s", command_of(reference))
            return
        who = f"{answer.your_name or 'somebody'} in Prefect's UI"
        decide(home, reference, answer.approve, answer.reason or "no reason given", who)
    _tell(home, result)


def resume(root: Path, flow_run: str, approve: bool, reason: str) -> bool:
    """Let the flow run that waits for a decision go on; False if none does.

    One whose process was killed is marked as crashed instead: resumed, it would run for ever.
    """
    url = os.environ.get("PREFECT_API_URL") or running_server(root)
    if url is None or not answers(f"{url.rstrip('/')}/health"):
        return False
    os.environ.update(prefect_environment(root))
    os.environ["PREFECT_API_URL"] = url
    from prefect.client.orchestration import get_client
    from prefect.states import Crashed

    # Left behind by a process of this checkout that died; one of another checkout has none here.
    sign = _sign_of_life(root, flow_run)
    died = sign.exists() and is_free(sign)
    # The version has moved already: a run that cannot be resumed changes nothing of that.
    with contextlib.suppress(Exception), get_client(sync_client=True) as client:
        found = client.read_flow_run(UUID(flow_run))
        if found.state is None or not found.state.is_paused():
            return False
        if died:
            state: State[None] = Crashed(message="Its process was killed while it waited.")
            client.set_flow_run_state(found.id, state, force=True)
            sign.unlink()
            return False
        client.resume_flow_run(found.id, run_input={"approve": approve, "reason": reason})
        return True
    return False


def _tell(home: Path, result: dict[str, Any]) -> None:
    """Say the outcome in the run's result, log and page."""
    from prefect import get_run_logger

    from tasks.promotion.approval import verdict_on

    verdict = verdict_on(home, reference_of(result))
    result["gate"] = json.loads(json.dumps(dataclasses.asdict(verdict), default=str))
    get_run_logger().info("%s: %s", reference_of(result), "; ".join(verdict.reasons))
    with contextlib.suppress(Exception):  # it is decided, shown or not
        show_verdict(result["gate"])


def _sign_of_life(home: Path, flow_run: str) -> Path:
    """The lock that a waiting flow run holds."""
    return home / ".instar" / "locks" / f"waiting-{flow_run}.lock"


def reference_of(result: dict[str, Any]) -> str:
    """`NAME@VERSION` of a run's version."""
    return f"{result['registered']['name']}@{result['registered']['version']}"


def command_of(reference: str) -> str:
    """What to type to decide."""
    return f"instar promote {reference} --approve --reason …   (or --reject)"
