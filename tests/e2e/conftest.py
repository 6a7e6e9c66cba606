"""One whole run that several files look at: it takes a minute."""

import json
from pathlib import Path

import pytest

from tests.e2e.tiny_project import instar, make_tiny_project


@pytest.fixture(scope="session")
def done(tmp_path_factory) -> tuple[Path, dict]:
    """The project after one `instar run --json`, and what that printed; leave it as it is."""
    root = make_tiny_project(tmp_path_factory.mktemp("retrain") / "project")
    ended = instar(root, "run", "--json")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return root, json.loads(ended.stdout)
