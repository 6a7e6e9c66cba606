"""Full disks, read-only folders, denied permission, no memory: named, nothing lost, run again.

The disks are real ones (tmpfs) where mounting is allowed; elsewhere these tests are skipped.
"""

import errno
import os
import signal
import subprocess
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from tasks.errors import TaskError, explain
from tasks.execution.stage_runner import run_stage
from tasks.tracking.journal import read_journal
from tests.faults.framed_project import make_framed_project, start

MEGABYTE = 1 << 20


@contextmanager
def disk(place: Path, options: str):
    """A file system of its own at `place`."""
    place.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if done.returncode:
        pytest.skip(f"mounting is not allowed here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def remount(place: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(place)], check=True)


@contextmanager
def forbidden(folder: Path):
    """Nobody may write into the folder: by its mode, which root ignores, or its attribute."""
    folder.mkdir(parents=True, exist_ok=True)
    if os.geteuid():
        folder.chmod(0o555)
    elif subprocess.run(["chattr", "+i", str(folder)], capture_output=True, check=False).returncode:
        pytest.skip("root may write everywhere, and this file system knows no chattr +i")
    try:
        yield
    finally:
        if os.geteuid():
            folder.chmod(0o755)
        else:
            subprocess.run(["chattr", "-i", str(folder)], check=True)


@pytest.fixture
def project(tmp_path: Path):
    """A project whose stage writes 4 MB."""
    return make_framed_project(tmp_path / "project", f"fill={4 * MEGABYTE}")


@pytest.mark.parametrize("full", ["artifacts", ".dvc/cache"])
def test_full_disk_is_named_and_the_rerun_goes_on(project, full):
    place = project / full
    with disk(place, "size=2m"):
        earlier = place / "earlier" / "result.txt"
        earlier.parent.mkdir()
        earlier.write_text("finished before")
        if full == ".dvc/cache":  # what DVC keeps is then what does not fit
            pipeline = (project / "dvc.yaml").read_text()
            (project / "dvc.yaml").write_text(pipeline.replace("result.txt", "large.bin"))
        with pytest.raises(TaskError, match=f"no space left on the disk.*{full}.*: free some"):
            run_stage("prepare", project)
        assert earlier.read_text() == "finished before"
        assert not (project / "dvc.lock").exists()
        remount(place, "size=32m")
        assert run_stage("prepare", project).status == "ran"


def test_stage_whose_records_do_not_fit_says_so_and_their_rerun_is_whole(project):
    state = project / ".instar"
    with disk(state, "size=64k"):
        filler = state / "filler"
        with pytest.raises(OSError, match="No space left"):
            filler.write_bytes(bytes(MEGABYTE))
        typed = start(project, "work.py")
        said, _ = typed.communicate()
        assert typed.returncode == 1
        assert "Traceback" not in said
        assert said.startswith("error: no space left on the disk at ") and str(state) in said
        filler.unlink()
        typed = start(project, "work.py")
        assert (typed.communicate()[0], typed.returncode) == ("", 0)
        events, _ = read_journal(next(state.glob("journal/*.jsonl")))
        assert [event["event"] for event in events][-1] == "end"
        assert events[-1]["status"] == "finished"


def test_read_only_disk_is_named_and_the_rerun_goes_on(project):
    artifacts = project / "artifacts"
    with disk(artifacts, "size=32m,ro"):
        with pytest.raises(TaskError, match="read-only at artifacts/prepare: mount it for writing"):
            run_stage("prepare", project)
        remount(artifacts, "rw")
        assert run_stage("prepare", project).status == "ran"


def test_denied_permission_is_named_and_the_rerun_goes_on(project):
    with (
        forbidden(project / "artifacts"),
        pytest.raises(TaskError, match="permission denied at artifacts/prepare: fix its owner"),
    ):
        run_stage("prepare", project)
    assert run_stage("prepare", project).status == "ran"


@pytest.mark.parametrize("command", ["python work.py", "true && python work.py; exit $?"])
def test_stage_that_the_kernel_killed_is_said_to_have_lacked_memory(tmp_path, command):
    orders = f"die_once={signal.SIGKILL.value}"
    project = make_framed_project(tmp_path / "project", orders, command)
    with pytest.raises(TaskError, match="was killed, most likely for want of memory: lower batch"):
        run_stage("prepare", project)
    assert run_stage("prepare", project).status == "ran"


def test_stage_that_gets_no_memory_says_so(tmp_path):
    project = make_framed_project(tmp_path / "project", f"allocate={10**15}")
    with pytest.raises(TaskError, match="^out of memory: lower batch_size"):
        run_stage("prepare", project)


def test_memory_that_torch_does_not_get_is_explained():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(10**15)
    assert explain(caught.value).startswith("out of memory: lower batch_size")


def test_bug_is_not_explained_away():
    with pytest.raises(RuntimeError) as caught:
        torch.zeros(2) + torch.zeros(3)
    assert explain(caught.value, [Path("artifacts")]) is None


@pytest.mark.parametrize(
    "write",
    [
        lambda path: save_file({"a": torch.zeros(MEGABYTE)}, path),
        lambda path: torch.save(torch.zeros(MEGABYTE), path),
        lambda path: pd.DataFrame({"a": np.random.rand(MEGABYTE)}).to_parquet(path),
        lambda path: path.write_bytes(bytes(4 * MEGABYTE)),
    ],
    ids=["safetensors", "torch", "parquet", "plain"],
)
def test_every_library_that_meets_a_full_disk_is_explained(tmp_path, write):
    with disk(tmp_path / "disk", "size=1m"):
        with pytest.raises((OSError, RuntimeError, SafetensorError)) as caught:
            write(tmp_path / "disk" / "file")
        said = explain(caught.value, [tmp_path / "disk", tmp_path])
    assert said.startswith(f"no space left on the disk at {tmp_path / 'disk'}")
    assert "free some and run again" in said


def test_a_problem_with_a_file_known_by_its_number_is_explained():
    told = explain(OSError(errno.EACCES, "Permission denied", 7), [Path("artifacts")])
    assert told is not None and "permission denied at artifacts" in told
