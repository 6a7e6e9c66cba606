"""`instar compare` on small images: a 2×2 grid, two cells at once, of which one variant breaks."""

import json
from pathlib import Path

import pytest

from tasks.comparison.mlflow_record import COMPARISON
from tasks.tracking.client import connect
from tests.e2e.tiny_project import dvc, git, instar, make_tiny_project

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

# Nobody can draw a ten-thousandth of 600 labels: that variant fails in finetune, with either seed.
GRID = ("--vary", "finetune.label_fraction=0.1,0.0001", "--seeds", "2", "--json")


@pytest.fixture(scope="module")
def compared(tmp_path_factory) -> tuple[Path, dict]:
    root = make_tiny_project(tmp_path_factory.mktemp("compare") / "project")
    ended = instar(root, "compare", *GRID, "--at-once", "2")
    assert ended.returncode == 1, ended.stdout + ended.stderr
    return root, json.loads(ended.stdout)


def test_cells_that_fail_cost_no_other_and_say_why(compared):
    _, result = compared
    assert [cell["reason"] is None for cell in result["cells"]] == [True, True, False, False]
    assert "raise finetune.label_fraction" in result["cells"][2]["reason"]
    best, broken = result["leaderboard"]
    assert best["seeds"] == [0, 1] and best["pretrained"]["n"] == 2 and best["seconds"] > 0
    assert broken["pretrained"] is None and set(broken["failed"]) == {"0", "1"}
    assert result["verdict"].startswith("Done is only label_fraction=0.1")


def test_done_cells_are_experiments_and_the_checkout_is_untouched(compared):
    root, result = compared
    shown = dvc(root, "exp", "show", "--csv")
    for cell in result["cells"]:
        assert (cell["name"] in shown) == (cell["reason"] is None)
    assert git(root, "status", "--porcelain") == ""
    assert git(root, "log", "--all", "--format=%s", "--branches").count("tiny project") == 1
    assert git(root, "branch", "--list", "runs/*") == "" == git(root, "tag")
    assert git(root, "worktree", "list").count("\n") == 0


def test_mlflow_has_the_comparison_and_no_model(compared):
    root, result = compared
    client = connect(f"sqlite:///{root}/mlflow.db")
    assert client.get_run(result["run"]).info.status == "FAILED"
    experiment = client.get_experiment_by_name("tiny").experiment_id
    of_it = client.search_runs([experiment], f"tags.`{COMPARISON}` = '{result['comparison']}'")
    assert len(of_it) == 5
    assert not client.search_registered_models()


def test_typed_again_finds_all_in_the_cache_without_dask(compared):
    root, result = compared
    again = instar(root, "compare", *GRID, "--at-once", "1")
    assert again.returncode == 1, again.stdout + again.stderr
    repeated = json.loads(again.stdout)
    for cell, before in zip(repeated["cells"], result["cells"], strict=True):
        assert set(cell["stages"].values()) <= {"cached"}
        assert (cell["name"], cell["seconds"]) == (before["name"], before["seconds"])
    assert repeated["leaderboard"][0]["pretrained"] == result["leaderboard"][0]["pretrained"]


@pytest.mark.parametrize(
    ("option", "said"),
    [(("--methods", "simclr,nosuch"), "nosuch"), (("--vary", "pretrain.epochs=1,0"), "epochs = 0")],
)
def test_a_cell_that_is_not_valid_is_refused_before_anything_starts(compared, option, said):
    root, _ = compared
    ended = instar(root, "compare", *option, "--seeds", "1")
    assert ended.returncode == 1
    assert said in ended.stderr and ended.stderr.count("\n") == 1
    assert "Comparison" not in ended.stdout
