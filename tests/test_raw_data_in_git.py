"""Raw data stay out of git, what `dvc add` writes beside them does not."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    ("path", "ignored"),
    [
        ("data/raw/mine.npz", True),
        ("data/raw/mine/cat/1.png", True),
        ("data/raw/mine.npz.dvc", False),
    ],
)
def test_only_pointers_to_raw_data_are_for_git(path, ignored):
    asked = subprocess.run(["git", "check-ignore", "-q", path], cwd=ROOT, check=False)
    assert asked.returncode == (0 if ignored else 1)
