"""Looks and comparisons that are killed: Prefect is told, and nothing of them is left.

Retrainings that are killed: tests/faults/test_outages.py.
"""

import pytest

from flows.dead_runs import mark_dead_runs
from flows.servers import PrefectServer, prefect_environment
from tests.e2e.tiny_project import make_tiny_project
from tests.faults.framed_project import processes_in, put_framed_stage, stages_in, start
from tests.faults.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

# A look at endless data.
LOOK = """\
import time
from flows import watch
watch.look = lambda *_: (print("looking", flush=True), time.sleep(600))
watch.watch(".")
"""
COMPARE = ("-m", "flows.cli", "compare", "--seeds", "2", "--at-once", "2")


def flow_runs():
    """State by name of the flow."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        return {
            client.read_flow(run.flow_id).name: run.state.type.value
            for run in client.read_flow_runs()
        }


def test_a_killed_look_and_a_killed_comparison_are_marked_and_leave_nothing(tmp_path, monkeypatch):
    project = put_framed_stage(make_tiny_project(tmp_path / "project"), "sleep=600")
    for name, value in prefect_environment(project).items():
        monkeypatch.setenv(name, value)  # `PrefectServer` sets them; here they must not stay
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    with PrefectServer(project) as server:
        server.wait()
        others = processes_in(project)
        comparing = start(project, *COMPARE, PYTHONPATH=str(project))
        looking = start(project, "-c", LOOK, PYTHONPATH=str(project), PREFECT_API_URL=server.url)
        assert any(line == "looking\n" for line in iter(looking.stdout.readline, ""))
        until(lambda: stages_in(project), "no cell started", 180)
        assert mark_dead_runs(project) == [], "what lives is left alone"
        assert flow_runs() == {"compare": "RUNNING", "watch": "RUNNING"}
        for one in (comparing, looking):
            one.kill()
            one.communicate()
        until(lambda: processes_in(project) <= others, "processes are left")
        assert len(mark_dead_runs(project)) == 2
        assert flow_runs() == {"compare": "CRASHED", "watch": "CRASHED"}
        assert not list((project / ".instar" / "flows").iterdir())
        assert mark_dead_runs(project) == []
