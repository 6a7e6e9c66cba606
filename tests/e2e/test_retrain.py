"""The main job, whole, on small images: `instar run`, then what DVC, git and MLflow know of it."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.system.shared_process import SharedLeash
from tests.e2e.tiny_project import dvc, environment, git, instar

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

PREDICT = """\
import mlflow, numpy as np
model = mlflow.pyfunc.load_model("models:/tiny@champion")
answer = model.predict(np.load("digits.npz")["test_images"][:3])
print(len(answer), *answer.columns)
"""


def test_run_ends_in_a_registered_champion(done):
    root, result = done
    assert [stage["status"] for stage in result["stages"]] == ["ran"] * 4
    assert (result["registered"]["name"], result["registered"]["version"]) == ("tiny", "1")
    assert result["gate"]["outcome"] == "promoted"
    assert Path(result["report"]).is_file()
    assert git(root, "rev-parse", f"runs/{result['run_id']}") == result["commit"]
    assert git(root, "rev-parse", "instar/tiny/v1^{commit}") == result["commit"]
    assert "dvc.lock" in git(root, "ls-tree", "--name-only", result["commit"]).split()


def test_users_branch_and_index_are_untouched(done):
    root, _ = done
    assert git(root, "log", "--format=%s") == "tiny project"
    assert git(root, "diff", "--cached", "--name-only") == ""


def test_champion_predicts_from_plain_python(done):
    root, _ = done
    ended = subprocess.run(
        [sys.executable, "-c", PREDICT],
        cwd=root,
        env={**environment(root), "MLFLOW_TRACKING_URI": f"sqlite:///{root}/mlflow.db"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("3 label guess confidence abstained prob_")


def test_no_server_and_no_lock_is_left(done):
    home = Path(done[1]["report"]).parents[2]  # where it ran
    assert (home / ".instar" / "prefect" / "server").is_dir()
    assert not SharedLeash(home / ".instar" / "prefect" / "server").alive()
    assert not (home / ".instar" / "lock").exists()


def test_typed_dvc_repro_has_nothing_to_do(done):
    root, _ = done
    lock = (root / "dvc.lock").read_bytes()
    said = dvc(root, "repro")
    assert "Running stage" not in said
    assert said.count("didn't change, skipping") == 4
    assert (root / "dvc.lock").read_bytes() == lock


def test_metrics_of_dvc_are_one_line_that_fits_a_terminal(done):
    root, result = done
    head, *rows = dvc(root, "metrics", "show").strip().splitlines()
    assert len(rows) == 1
    assert max(len(head), len(rows[0])) <= 120
    shown = dict(zip(head.split(), rows[0].split(), strict=True))
    assert float(shown["gain"]) == pytest.approx(result["metrics"]["gain"]["mean"], abs=1e-5)


def test_changed_label_fraction_concerns_finetune_and_evaluate_alone(done, tmp_path):
    root = tmp_path / "changed"
    shutil.copytree(done[0], root, symlinks=True)
    assert instar(root, "set", "finetune.label_fraction=0.2").returncode == 0
    said = dvc(root, "repro")
    ran = [line.split("'")[1] for line in said.splitlines() if line.startswith("Running stage")]
    assert ran == ["finetune", "evaluate"]


def test_second_clone_gives_the_same_lock_byte_for_byte(done, tmp_path):
    root, result = done
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "-q", str(root), str(clone))
    git(clone, "checkout", "-q", result["commit"])
    (clone / "dvc.lock").unlink()
    dvc(clone, "repro")
    assert (clone / "dvc.lock").read_bytes() == (root / "dvc.lock").read_bytes()


def test_a_run_that_changes_nothing_says_so_and_leaves_nothing(done):
    root, result = done
    branches = git(root, "branch", "--list", "runs/*")
    verdict = (root / result["gate"]["path"]).read_text()
    again = instar(root, "run")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "Nothing changed: this model already is tiny version 1" in again.stdout
    assert "Gate, as before" in again.stdout
    assert "running, see" not in again.stdout
    assert git(root, "branch", "--list", "runs/*") == branches
    assert (root / result["gate"]["path"]).read_text() == verdict
