"""Looks and comparisons that are killed: Prefect is told, and nothing of them is left."""

import signal
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from flows.orchestration.crashed_runs import mark_dead_runs
from flows.orchestration.servers import PrefectServer, prefect_environment
from tests.e2e.tiny_project import make_tiny_project
from tests.faults.framed_project import processes_in, put_framed_stage, stages_in, start
from tests.faults.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.faults, pytest.mark.timeout(600)]

# It finds the first data, so that it retrains.
LOOK = "from flows.watch import watch; watch('.', settle=0)"
WITH_STACKS = "import faulthandler, signal; faulthandler.register(signal.SIGUSR1); "
COMPARE = ("-m", "flows.cli", "compare", "--seeds", "2", "--at-once", "2")


@contextmanager
def asking(server):
    """Ask this server, also where Prefect was imported, and read its settings, before."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: server.url}):
        yield


def flow_runs():
    """State by name of the flow."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        return {
            client.read_flow(run.flow_id).name: run.state.type.value
            for run in client.read_flow_runs()
        }


def what_became_of(started, project):
    """All flows with their log, what those that started them said, and the server's own log."""
    from prefect.client.orchestration import get_client

    said = []
    with get_client(sync_client=True) as client:
        for run in client.read_flow_runs():
            state = f"{run.state.name} since {run.state.timestamp:%T}: {run.state.message}"
            said.append(f"{client.read_flow(run.flow_id).name}, from {run.start_time}: {state}")
        said += [f"{line.timestamp:%T} {line.message}" for line in client.read_logs()[-60:]]
    for name, process in started.items():
        ended = process.poll()
        process.send_signal(signal.SIGUSR1)  # the look shows its stacks, see `WITH_STACKS`
        time.sleep(2.0)
        process.kill()
        said.append(f"{name} (ended: {ended}) said: {process.communicate()[0]}")
    log = project / ".instar" / "logs" / "prefect-server.log"
    return "\n".join([*said, log.read_text(errors="replace")[-4000:]])


def test_a_killed_look_its_run_and_a_comparison_are_marked_and_leave_nothing(tmp_path, monkeypatch):
    project = put_framed_stage(make_tiny_project(tmp_path / "project"), "sleep=600")
    for name, value in prefect_environment(project).items():
        monkeypatch.setenv(name, value)  # `PrefectServer` sets them; here they must not stay
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    with PrefectServer(project) as server, asking(server):
        server.wait()
        others = processes_in(project)
        comparing = start(project, *COMPARE, PYTHONPATH=str(project))
        looking = start(
            project, "-c", WITH_STACKS + LOOK, PYTHONPATH=str(project), PREFECT_API_URL=server.url
        )
        running = dict.fromkeys(("compare", "retrain", "watch"), "RUNNING")
        started = {"watch": looking, "compare": comparing}
        until(lambda: flow_runs() == running, lambda: what_became_of(started, project), 180)
        until(lambda: list(project.glob(".instar/runs/*.json")), "no run has a record", 180)
        work = project / ".instar" / "work"
        until(lambda: sum(map(Path.is_dir, work.iterdir())) == 3, "not both cells have begun", 180)
        until(lambda: stages_in(project), "no stage runs", 180)
        assert mark_dead_runs(project) == [], "what lives is left alone"
        for one in (comparing, looking):
            one.kill()
            one.communicate()
        until(lambda: processes_in(project) <= others, "processes are left")
        assert len(mark_dead_runs(project)) == 3
        assert flow_runs() == dict.fromkeys(running, "CRASHED")
        assert not list((project / ".instar" / "flows").iterdir())
        assert mark_dead_runs(project) == []
