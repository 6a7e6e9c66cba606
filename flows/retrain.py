"""The flow `retrain`: data and 1% of labels in, a registered and judged model out.

It computes nothing itself: every step is a function of `tasks`, wrapped with Prefect's `task`.
DVC is the one cache (`NO_CACHE` everywhere): a repeated run asks DVC again and costs seconds.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from prefect import Flow, State, flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run
from prefect.states import Completed

from flows.orchestration.approval import await_decision
from flows.orchestration.concurrency import one_of_the_model
from flows.orchestration.crashed_runs import mark_dead_runs
from flows.orchestration.cron import CronLine
from flows.orchestration.deployments import deploy
from flows.orchestration.run_page import show_on_page
from tasks.errors import ServerAwayError, TaskError
from tasks.execution.preflight import new_run_id, require_project
from tasks.execution.retraining_run import Retraining, require_ready
from tasks.execution.skip_unchanged import repeated_run, source_key
from tasks.execution.workspace import isolated as isolated_workspace
from tasks.execution.workspace import locked
from tasks.layout import STAGES
from tasks.settings.editing import change_settings
from tasks.settings.project_files import require_merged
from tasks.tracking.client import explained, tracking_uri_of
from tasks.tracking.run_records import RunRecord
from tasks.versioning.raw_data import take_data as take_present_data
from tasks.versioning.raw_data import use_data_of

if TYPE_CHECKING:
    from prefect import Flow

ENTRYPOINT = "flows/retrain.py:retrain"

Result = TypeVar("Result")
RETRY_SECONDS = 20.0


# Named as the run is, so that `mark_dead_runs` finds it.
@flow(name="retrain", flow_run_name=new_run_id, validate_parameters=False)
def retrain(
    root: str,
    isolated: bool = True,
    data_revision: str | None = None,
    take_data: bool = False,
    method: str | None = None,
    label_fraction: float | None = None,
    draws: int | None = None,
    seed: int | None = None,
    settings: Sequence[str] = (),
    force: bool = False,
    stage_hours: float = 24.0,
) -> dict[str, Any] | State[None]:
    """Retrain in a worktree of HEAD (isolated) or in the checkout at `root` itself.

    What a run varies goes into the tracked files of its worktree, so that its commit says so. Runs
    of one model follow each other, whatever deployment they come from.

    Args:
        root: The checkout.
        isolated: Work in a worktree of HEAD; the checkout itself cannot be varied.
        data_revision: Commit, tag or branch whose raw data (`.dvc` file) to take; HEAD's if None.
        take_data: Take the raw data as they lie in the checkout now, tracked or not.
        method: `pretrain.method.name`.
        label_fraction: `finetune.label_fraction`.
        draws: `finetune.draws`: how many label draws, each a seed of its own.
        seed: `pretrain.seed` and `finetune.seed`.
        settings: Further `group.key=value`, as `instar set` takes them.
        force: Run although nothing changed since a run whose model was judged.
        stage_hours: After how long a stage is ended, its checkpoints kept.

    Returns:
        What `instar run` prints: stages, metrics, registered version, verdict. A state named
        Skipped if nothing changed.
    """
    home = Path(root).resolve()
    require_project(home)
    run_id = flow_run.get_name() or new_run_id()
    tell = get_run_logger().info
    assignments = [
        *_assigned({"pretrain.method.name": method, "finetune.label_fraction": label_fraction}),
        *_assigned({"finetune.draws": draws, "pretrain.seed": seed, "finetune.seed": seed}),
        *settings,
    ]
    if not isolated:
        if assignments or data_revision or take_data:
            raise TaskError("a run in the checkout is varied by `instar set`, not by parameters.")
        require_merged(home)
        with locked(home, wait=True):
            require_ready(home)
            with Retraining(home, home, run_id, tell) as run:
                result = conduct(run, stage_hours)
    else:
        with one_of_the_model(home), isolated_workspace(home, run_id) as place:
            _vary(place, home, data_revision, take_data, assignments, tell)
            require_ready(place)
            former = None if force else _repeated(place, home)
            if former is not None:
                return _skipped(former)
            with Retraining(place, home, run_id, tell) as run:
                result = conduct(run, stage_hours)
    if result["gate"]["outcome"] == "waiting":
        # Without the workspace: others may work while somebody thinks.
        await_decision(home, result)
    return result


def flow_in_checkout(run: Retraining) -> Flow[[str, str], dict[str, Any]]:
    """The same flow on a run that has been opened already (`instar run`)."""

    def retrain_here(root: str, run_id: str) -> dict[str, Any]:
        return conduct(run)

    named = flow(name="retrain", flow_run_name=run.run_id, validate_parameters=False)
    return named(retrain_here)


def conduct(run: Retraining, stage_hours: float | None = None) -> dict[str, Any]:
    """All steps in their order, each a Prefect task."""
    with contextlib.suppress(Exception):  # housekeeping, which must not cost the run
        for name in mark_dead_runs(run.home):
            get_run_logger().warning("run %s had been killed: marked as crashed", name)
    _step("fetch", run.fetch)
    for stage in STAGES:
        outcome = _step(stage, partial(run.stage, stage), hours=stage_hours)
        get_run_logger().info("%s %s in %.0f s", stage, outcome.status, outcome.seconds)
    unpushed = _attempt("push", run.push)
    _step("snapshot", run.snapshot)
    _step("publish", run.publish)
    if unpushed is not None:
        raise unpushed  # all that can be kept is kept; registration needs the push
    _step("register", run.register, retries=2)
    _step("gate", run.judge, retries=2)
    result = run.result()
    with contextlib.suppress(Exception):  # the model is registered, shown or not
        show_on_page(result, run.tracking_uri)
    return result


def _step(
    name: str, do: Callable[[], Result], hours: float | None = None, retries: int = 0
) -> Result:
    def step() -> Result:
        return do()

    # Its run's name too: Prefect would add a hash.
    named = task(
        name=name,
        task_run_name=name,
        cache_policy=NO_CACHE,
        persist_result=False,
        timeout_seconds=hours and hours * 3600,
        retries=retries,
        retry_delay_seconds=RETRY_SECONDS,
        retry_condition_fn=_may_pass,
    )
    return named(step)()


def _may_pass(task: Any, run: Any, state: Any) -> bool:
    """Whether a step that failed is worth another try: a server was away."""
    return isinstance(state.result(raise_on_failure=False), ServerAwayError)


def _attempt(name: str, do: Callable[[], object]) -> TaskError | None:
    """Like `_step`, but hands an explained problem back instead of ending the flow."""
    try:
        _step(name, do)
    except TaskError as problem:
        return problem
    return None


def _vary(
    place: Path,
    home: Path,
    data_revision: str | None,
    take_data: bool,
    assignments: Sequence[str],
    tell: Callable[..., None],
) -> None:
    """Put what the run varies into the worktree's tracked files; data first, settings name them."""
    if take_data:
        tell("data: took %s as it is now", take_present_data(home, place) or "nothing")
    if data_revision:
        use_data_of(data_revision, place)
    for change in change_settings(place, assignments):
        tell("%s", change)


def _assigned(values: Mapping[str, Any]) -> list[str]:
    return [f"{key}={value}" for key, value in values.items() if value is not None]


def _repeated(place: Path, home: Path) -> RunRecord | None:
    """The run that this one would only repeat; None also where MLflow cannot be asked."""
    try:
        with explained(tracking_uri_of(home)) as client:
            return repeated_run(source_key(place), home, client)
    except TaskError:
        return None


def _skipped(former: RunRecord) -> State[None]:
    said = (
        f"Nothing changed since run {former.run_id}, which made {former.version}: code, settings "
        "and data are the same. Not trained."
    )
    get_run_logger().info(said)
    return Completed(name="Skipped", message=said)


def create_schedule(
    root: Path, when: CronLine, name: str, pool: str, settings: Sequence[str] = ()
) -> str:
    """Create or change the deployment `retrain/<name>`, whose runs take `settings`.

    Returns:
        Its full name.
    """

    return deploy(
        retrain,
        ENTRYPOINT,
        root,
        when,
        name,
        pool,
        {"isolated": True, "settings": list(settings)},
        # No limit of its own: a run that pauses for a human gives its slot back, and minutes later
        # Prefect ends it, as the slot's lease is gone. `concurrency` keeps runs apart.
        description="Retrains on HEAD of this checkout in a worktree of its own.",
    )
