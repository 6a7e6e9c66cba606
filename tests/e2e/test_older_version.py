"""A version that was registered before the rooms were redrawn stays good for everything."""

import io
import shutil
import subprocess
import sys
import tarfile

import pytest

from tests.e2e.tiny_project import (
    HERE,
    copy_rooms,
    environment,
    git,
    instar,
    make_tiny_project,
    write_digits,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

# The last commit before it.
OLDER = "00f0db0565bc4d19ff51d6c4a73fc32f36849e06"
LOADED = """
import mlflow, numpy as np
mlflow.set_tracking_uri("sqlite:///mlflow.db")
model = mlflow.pyfunc.load_model("models:/tiny/1")
print(len(model.predict(np.zeros((3, 16, 16, 1), np.uint8))["guess"].dropna()), "predicted")
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project whose version 1 was made by the older code, and which has today's code now."""
    packed = subprocess.run(["git", "archive", OLDER], cwd=HERE, capture_output=True, check=False)
    if packed.returncode != 0:
        pytest.skip(f"commit {OLDER[:7]} is not in this clone: fetch the whole history")
    code = tmp_path_factory.mktemp("older")
    with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as archive:
        archive.extractall(code, filter="data")
    root = make_tiny_project(tmp_path_factory.mktemp("grown") / "project", code)
    done = instar(root, "run")
    assert "Registered: tiny version 1 (Production, @champion)" in done.stdout, done.stderr
    copy_rooms(HERE, root)
    for name in ("dvc.yaml", "prefect.yaml", "requirements.lock"):
        shutil.copy(HERE / name, root / name)
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "today's code")
    return root


def run_python(root, code):
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=root,
        env=environment(root),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("first", ["", "import tasks.serving", "import tasks, data, models"])
def test_it_loads_whatever_was_imported_before(project, first):
    assert "3 predicted" in run_python(project, first + LOADED)


def test_it_labels_images(project, tmp_path):
    from PIL import Image

    (tmp_path / "new").mkdir()
    Image.new("L", (16, 16)).save(tmp_path / "new" / "0.png")
    out = tmp_path / "labels.csv"
    done = instar(project, "predict", "tiny@1", "-i", str(tmp_path / "new"), "-o", str(out))
    assert done.returncode == 0, done.stderr
    assert "0.png" in out.read_text()


def test_it_is_made_again_byte_for_byte(project):
    done = instar(project, "reproduce", "tiny@1")
    assert done.returncode == 0, done.stderr
    assert "identical: every file and every number is the version's own" in done.stdout


def test_it_is_held_against_a_challenger_on_other_images_and_comes_back(project):
    write_digits(project / "digits.npz", train=700)
    done = instar(project, "run", "-S", "finetune.learner.steps=4", "-S", "data.test_fraction=0.3")
    assert "Registered: tiny version 2" in done.stdout, done.stderr
    done = instar(
        project, "promote", "tiny@2", "--to", "Production", "--override", "--reason", "to roll back"
    )
    assert "in Production" in done.stdout, done.stderr
    done = instar(project, "rollback", "tiny")
    assert "tiny version 1 is in Production now" in done.stdout, done.stderr
