import hashlib
import os
import subprocess

import pytest

from data.sources.download import download


def sha256(file):
    return hashlib.file_digest(file, "sha256").hexdigest()


@pytest.fixture
def served(tmp_path):
    path = tmp_path / "served.bin"
    path.write_bytes(b"pixels")
    return path


def test_parts_that_a_killed_download_left_are_swept_and_those_of_a_living_one_stay(
    served, tmp_path
):
    ended = subprocess.Popen(["true"])
    ended.wait()
    to = tmp_path / "raw" / "set.bin"
    to.parent.mkdir()
    left, living = (to.with_name(f".set.bin.{pid}.part") for pid in (ended.pid, os.getppid()))
    for part in (left, living):
        part.write_bytes(b"pix")
    download(served.as_uri(), to, sha256, hashlib.sha256(b"pixels").hexdigest())
    assert to.read_bytes() == b"pixels"
    assert (left.exists(), living.exists()) == (False, True)


def test_download_with_another_checksum_leaves_nothing(served, tmp_path):
    with pytest.raises(OSError, match="another checksum"):
        download(served.as_uri(), tmp_path / "set.bin", sha256, "0" * 64)
    assert list(tmp_path.iterdir()) == [served]
