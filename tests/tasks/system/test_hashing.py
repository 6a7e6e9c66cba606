"""Hashes of inputs: remembered only while nothing can have changed."""

import json
import os
from pathlib import Path

import pytest

from tasks.errors import TaskError
from tasks.system.hashing import MEMORY, content_hash, hash_file

YESTERDAY = 1_700_000_000


def write(path: Path, content: bytes) -> Path:
    """A file that is no longer young."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, (YESTERDAY, YESTERDAY))
    return path


@pytest.fixture
def reads(monkeypatch):
    """Files whose content was read."""
    found = []

    def reading(path):
        found.append(path.name)
        return hash_file(path)

    monkeypatch.setattr("tasks.system.hashing.hash_file", reading)
    return found


def test_unchanged_data_is_read_once(tmp_path, reads):
    for name in ("a.png", "sub/b.png"):
        write(tmp_path / "raw" / name, b"pixels")
    first = content_hash(tmp_path, "raw")
    assert content_hash(tmp_path, "raw") == first
    assert reads == ["a.png", "b.png"]


def test_an_edit_that_keeps_size_and_time_is_seen(tmp_path):
    write(tmp_path / "raw.npz", b"pixels")
    before = content_hash(tmp_path, "raw.npz")
    write(tmp_path / "raw.npz", b"PIXELS")
    assert content_hash(tmp_path, "raw.npz") != before


def test_a_new_a_removed_and_a_renamed_file_are_seen(tmp_path):
    write(tmp_path / "raw" / "a", b"pixels")
    hashes = [content_hash(tmp_path, "raw")]
    extra = write(tmp_path / "raw" / "b", b"pixels")
    hashes.append(content_hash(tmp_path, "raw"))
    extra.rename(tmp_path / "raw" / "c")
    hashes.append(content_hash(tmp_path, "raw"))
    assert len(set(hashes)) == 3
    (tmp_path / "raw" / "c").unlink()
    assert content_hash(tmp_path, "raw") == hashes[0]


def test_what_was_written_just_now_is_not_remembered(tmp_path, reads):
    (tmp_path / "raw.npz").write_bytes(b"pixels")
    content_hash(tmp_path, "raw.npz")
    content_hash(tmp_path, "raw.npz")
    assert reads == ["raw.npz"] * 2


@pytest.mark.parametrize("broken", ["", "{", "[1]", '{"raw.npz": 7}', '{"raw.npz": ["x"]}'])
def test_a_broken_memory_is_ignored_and_made_anew(tmp_path, reads, broken):
    path = write(tmp_path / "raw.npz", b"pixels")
    (tmp_path / MEMORY).parent.mkdir()
    (tmp_path / MEMORY).write_text(broken)
    assert content_hash(tmp_path, "raw.npz") == hash_file(path)
    assert content_hash(tmp_path, "raw.npz") == hash_file(path)
    assert reads == ["raw.npz"]
    assert set(json.loads((tmp_path / MEMORY).read_text())) == {"raw.npz"}
    assert list((tmp_path / MEMORY).parent.iterdir()) == [tmp_path / MEMORY]


def test_compiled_code_does_not_count_and_missing_files_are_explained(tmp_path):
    write(tmp_path / "code" / "a.py", b"x")
    before = content_hash(tmp_path, "code")
    write(tmp_path / "code" / "__pycache__" / "a.pyc", b"x")
    assert content_hash(tmp_path, "code") == before
    with pytest.raises(TaskError, match="raw is missing.*dvc pull"):
        content_hash(tmp_path, "raw")


def test_data_outside_the_checkout_is_hashed_and_remembered_too(tmp_path, reads):
    outside = write(tmp_path / "elsewhere" / "images.npz", b"pixels")
    root = tmp_path / "checkout"
    root.mkdir()
    assert content_hash(root, str(outside)) == hash_file(outside)
    content_hash(root, str(outside))
    assert reads == ["images.npz"]
