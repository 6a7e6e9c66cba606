"""A grid is all combinations, each a cell that nothing but its settings names."""

import subprocess

import pytest

from tasks.comparison.grid import METHOD, computed_seconds, fitting_at_once, grid, save_experiment
from tasks.errors import TaskError
from tasks.execution.stage_runner import run_stage
from tasks.settings.loading import validate_params
from tasks.tracking.journal import Journal, journal_path
from tests.tasks.small_stages import SETTINGS
from tests.tasks.toy_project import git, make_toy_project


def test_grid_is_every_combination_with_every_seed():
    cells = grid(["pretrain.epochs=1,2", "pretrain.method.name=simclr,other"], 3)
    assert len({(*cell.varied.values(), cell.seed) for cell in cells}) == len(cells) == 12
    assert cells[1].assignments == [
        "pretrain.epochs=1",
        "pretrain.method.name=simclr",
        "pretrain.seed=1",
        "finetune.seed=1",
    ]


def test_nothing_varied_is_one_variant_over_seeds():
    assert [(cell.varied, cell.seed) for cell in grid([], 2)] == [({}, 0), ({}, 1)]


def test_methods_that_vary_get_their_own_presets_and_those_without_none():
    [mae, simclr] = grid([f"{METHOD}=mae,simclr"], 1, presets=["cifar10", "methods/mae"])
    assert (mae.presets, simclr.presets) == (("methods/mae",), ())
    [plain, _] = grid([f"{METHOD}=mae,simclr"], 1)
    assert plain.presets == () and plain.name != mae.name
    [fixed] = grid([], 1, [f"{METHOD}=mae"], ["methods/mae"])
    assert fixed.presets == ()


def test_commas_in_brackets_and_quotes_part_nothing():
    [one, two] = grid(["pretrain.augmentation.crop_scale=[0.2, 1.0],[0.5, 1.0]"], 1)
    assert [*one.varied.values(), *two.varied.values()] == ["[0.2, 1.0]", "[0.5, 1.0]"]
    [one, _] = grid(['data.path="a,b",c'], 1)
    assert [*one.varied.values()] == ['"a,b"']


def test_equal_settings_have_equal_names_that_git_takes_and_others_have_others():
    def names(*fixed):
        vary = ["pretrain.augmentation.crop_scale=[0.2, 1.0],[0.21, .0]"]
        return [cell.name for cell in grid(vary, 2, fixed)]

    assert names() == names()
    assert len({*names(), *names("pretrain.epochs=9")}) == 8
    for name in names():
        subprocess.run(["git", "check-ref-format", f"refs/exps/00/{name}"], check=True)


@pytest.mark.parametrize(
    ("vary", "said"),
    [
        (["pretrain.epochs"], "is not KEY=VALUE"),
        (["pretrain.epochs=1,,2"], "is not KEY=VALUE"),
        (["pretrain.epochs=1,1"], "twice"),
        (["pretrain.epochs=1", "pretrain.epochs=2"], "once, with all its values"),
        (["pretrain.seed=1,2"], "by --seeds"),
    ],
)
def test_what_is_no_grid_is_refused(vary, said):
    with pytest.raises(TaskError, match=said):
        grid(vary, 1)


def test_as_many_at_once_as_cores_and_memory_allow():
    def fitting(cells, cores, gib, **pretrain):
        settings = {**SETTINGS, "pretrain": {**SETTINGS["pretrain"], **pretrain}}
        params = validate_params({**settings, "evaluate": {"threads": 1}})
        return fitting_at_once([params] * cells, cores, gib << 30)

    assert fitting(9, cores=2, gib=64) == 1, "finetune has two workers"
    assert fitting(9, cores=8, gib=64) == 4
    assert fitting(9, cores=8, gib=64, threads=3, workers=1) == 2
    assert fitting(9, cores=64, gib=7) == 2, "memory"
    assert fitting(3, cores=64, gib=64) == 3, "no more than cells"
    assert fitting(3, cores=1, gib=1) == 1


def test_seconds_are_those_of_the_computation_with_its_resumes(tmp_path):
    path = journal_path(tmp_path, "pretrain", "key")
    assert computed_seconds(tmp_path, {"pretrain": "key"}) is None
    with Journal(path) as journal:
        for _ in range(2):
            journal.start("pretrain", "key", {})
            journal.metrics({"loss": 1.0}, 1)
        journal.end("finished")
    # A run of 4 s that was killed, an hour later the rest, of 5 s.
    times = iter([0, 4000, 3_604_000, 3_605_000, 3_609_000])
    lines = [line.split(b'"time": ') for line in path.read_bytes().splitlines()]
    told = [b'%b"time": %d,%b' % (a, next(times), b.partition(b",")[2]) for a, b in lines]
    path.write_bytes(b"\n".join(told) + b"\n")
    assert computed_seconds(tmp_path, {"pretrain": "key"}) == 9.0


def test_a_saved_workspace_is_an_experiment_of_its_commit_and_can_be_saved_again(tmp_path):
    root = make_toy_project(tmp_path / "project")
    (root / "params.yaml").write_text("speed: 2\n")
    run_stage("copy", root)
    assert save_experiment(root, "fast") is None
    assert save_experiment(root, "fast") is None
    found = git(root, "for-each-ref", "--format=%(refname)", "refs/exps/*/*/fast")
    assert found and git(root, "show", f"{found}:params.yaml") == "speed: 2"
    assert git(root, "log", "--format=%s", "main") == "toy project"
