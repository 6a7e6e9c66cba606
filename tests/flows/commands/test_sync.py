from flows.commands.sync import catch_up, show
from tasks.tracking.run_records import RunRecord, Shelf
from tests.tasks.toy_project import make_toy_project


def test_sync_tells_of_a_run_that_it_leaves_alone(tmp_path):
    project = make_toy_project(tmp_path / "project")
    shelf = Shelf(project, "run-1")
    with shelf.lock():
        shelf.save(RunRecord("run-1", 0, "toy", {}))
        result = catch_up(project, everything=False)
        assert result["running"] == ["run-1"]
        assert show(result) == "Left alone, as still running: run-1."
