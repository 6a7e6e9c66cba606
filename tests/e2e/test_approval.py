"""A flow run that waits for a human, on a real Prefect server: from the CLI, and from the form."""

import json
import threading

import pytest

from tests.e2e.tiny_project import environment
from tests.tasks.conftest import empty_database, uri  # noqa: F401  (a fixture)
from tests.tasks.small_registry import make_registry

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def root(tmp_path, empty_database):  # noqa: F811
    return make_registry(tmp_path / "checkout", empty_database, versions=5)


def test_a_paused_run_is_decided_from_the_form_the_command_and_by_nobody(root, monkeypatch):
    for name in [name for name in environment(root) if name.startswith("PREFECT_")]:
        monkeypatch.setenv(name, environment(root)[name])
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    from flows.orchestration.servers import PrefectServer

    with PrefectServer(root) as server:
        server.wait()
        import prefect.context
        import prefect.settings

        # Another test of this process may have imported Prefect, which reads its settings then.
        prefect.context.refresh_global_settings_context()
        assert prefect.settings.PREFECT_API_URL.value() == server.url
        from flows.commands.promote import act
        from flows.orchestration import approval
        from tasks.promotion.approval import verdict_on
        from tasks.registry.promotion_log import promotions

        monkeypatch.setattr(approval, "_POLL_SECONDS", 1)
        # The form in Prefect's UI sends this.
        form = {"approve": True, "reason": "fine", "your_name": "Grace"}
        result, run = paused(root, "2")
        resume(run.id, form)
        assert outcome(result, run) == "promoted"
        assert promotions(root)[-1]["who"] == "Grace in Prefect's UI"

        result, run = paused(root, "3", champion="2")
        done = act(root, "tiny@3", None, False, "no", False)
        assert (done["outcome"], done["resumed"]) == ("rejected", True)
        assert outcome(result, run) == "refused"
        assert verdict_on(root, "tiny@3").reasons[-1] == "rejected by Ada <ada@example.org>: no"

        result, run = paused(root, "4", champion="2")
        done = act(root, "tiny@4", "Production", None, "at once", True)
        assert (done["outcome"], done["resumed"]) == ("moved", True)
        assert outcome(result, run) == "overridden"

        result, run = paused(root, "5", champion="4", seconds=3)
        assert outcome(result, run) == "waiting", "undecided in time"
        done = act(root, "tiny@5", None, True, "late", False)
        assert (done["outcome"], done["resumed"]) == ("moved", False)


def paused(root, version, champion="1", seconds=600):
    """A flow run whose version waits: what it will return, and the run once it is paused."""
    from prefect import flow

    from flows.orchestration.approval import await_decision
    from tasks.promotion import verdict as promotion_verdict
    from tasks.registry.transitions import set_tags
    from tasks.tracking.client import connect
    from tests.servers import wait_until

    verdict = promotion_verdict.Verdict("tiny", version, champion, "waiting", ["pass: better"])
    set_tags(connect(uri(root)), "tiny", version, promotion_verdict.tags_of(verdict))
    result = {"registered": {"name": "tiny", "version": version}, "gate": vars(verdict).copy()}

    @flow(name="retrain", flow_run_name=f"run-{version}", validate_parameters=False)
    def wait_for_somebody():
        await_decision(root, result, seconds)
        return json.loads(json.dumps(result, default=str))

    thread = threading.Thread(target=wait_for_somebody)
    thread.start()
    found = []

    def is_paused():
        found[:] = [run for run in runs() if run.name == f"run-{version}"]
        return bool(found) and (found[0].state.is_paused() or found[0].state.is_final())

    wait_until(is_paused)
    found[0].__dict__["thread"] = thread
    return result, found[0]


def outcome(result, run):
    run.__dict__["thread"].join(60)
    assert not run.__dict__["thread"].is_alive()
    return result["gate"]["outcome"]


def runs():
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        return client.read_flow_runs()


def resume(run, form):
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        client.resume_flow_run(run, run_input=form)
