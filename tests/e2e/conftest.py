"""One whole run that several files look at: it takes a minute."""

import json
import os
import shutil
from pathlib import Path

import pytest
from filelock import FileLock

from tests.e2e.tiny_project import copy_project, instar, make_tiny_project


@pytest.fixture(scope="session")
def done(tmp_path_factory) -> tuple[Path, dict]:
    """A project after one `instar run --json`, and what that printed; leave it as it is.

    Processes that test side by side take copies of one run.
    """
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    first, printed = shared / "retrained", shared / "retrained.json"
    with FileLock(shared / "retrained.lock"):
        if not printed.exists():
            shutil.rmtree(first, ignore_errors=True)
            ended = instar(make_tiny_project(first), "run", "--json")
            assert ended.returncode == 0, ended.stdout + ended.stderr
            printed.write_text(ended.stdout)
        root = copy_project(first, tmp_path_factory.mktemp("retrain") / "project")
    return root, json.loads(printed.read_text())
