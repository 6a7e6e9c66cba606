"""Settings that do not fit the data end a run before it begins."""

import pytest

from tasks.settings.editing import change_settings
from tests.e2e.tiny_project import git, instar, make_tiny_project

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
UNFIT = ("finetune.label_fraction=0.0001", "pretrain.probe_fraction=0.0001")


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return make_tiny_project(tmp_path_factory.mktemp("fit") / "project")


@pytest.fixture(autouse=True)
def _as_it_was(project):
    yield
    git(project, "checkout", "-q", ".")


@pytest.mark.parametrize("command", [["check"], ["run"], ["run", "--json"], ["check", "--json"]])
def test_all_is_named_before_anything_runs(project, command):
    change_settings(project, [*UNFIT, "pretrain.batch_size=4096"])
    ended = instar(project, *command)
    assert ended.returncode == 1 and ended.stderr.startswith("error: 3 settings do not fit")
    assert ended.stderr.count("\n  - ") == 3 and "Traceback" not in ended.stderr
    assert ended.stderr.rstrip().splitlines()[-1].startswith("These do: `instar set ")
    assert not (project / "artifacts").exists() and not (project / "mlflow.db").exists()


def test_a_comparison_of_which_no_cell_fits_does_not_start(project):
    vary = "pretrain.batch_size=4096,8192"
    ended = instar(project, "compare", "--vary", vary, "--seeds", "1")
    assert ended.returncode == 1 and "Comparison" not in ended.stdout
    assert ended.stderr.startswith("error: pretrain.batch_size = 4096: ")
    assert git(project, "worktree", "list").count("\n") == 0
