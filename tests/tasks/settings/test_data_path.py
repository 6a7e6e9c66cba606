"""What DVC would hang or fail on is named before DVC is asked."""

import os
import socket

import pytest

from data.sources.file_names import unescaped
from tasks.errors import TaskError
from tasks.settings.data_path import require_hashable


@pytest.fixture
def raw(tmp_path):
    folder = tmp_path / "raw" / "ant"
    folder.mkdir(parents=True)
    (folder / "0.png").write_bytes(b"x")
    (folder / "new\nline 'quoted'.png").write_bytes(b"x")
    (folder / "again.png").symlink_to("0.png")
    (folder / "up").symlink_to("..")
    return folder.parent


def test_folders_and_files_that_dvc_takes_pass(raw):
    require_hashable(raw)
    require_hashable(raw / "ant" / "0.png")
    require_hashable(raw / "not-there")


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: os.mkfifo(path), "a pipe, a socket or a device"),
        (lambda path: path.symlink_to(path.name), "Too many levels"),
        (lambda path: path.symlink_to("nothing"), "No such file"),
    ],
    ids=["pipe", "loop", "broken"],
)
def test_what_dvc_hangs_or_fails_on_is_named(raw, make, said):
    make(raw / "ant" / "bad.png")
    with pytest.raises(TaskError, match=rf"hash .*ant/bad\.png \({said}.*pack raw as a \.tar"):
        require_hashable(raw)


def test_a_name_that_is_no_utf8_is_told_reversibly(raw):
    bad = os.fsencode(raw) + b"/ant/\xff.png"
    open(bad, "wb").close()
    with pytest.raises(TaskError, match="its name is not UTF-8") as refused:
        require_hashable(raw)
    told = str(refused.value).split("hash ")[1].split(" (")[0]
    assert os.fsencode(unescaped(told)) == bad


def test_a_socket_as_the_data_is_refused(raw, monkeypatch):
    monkeypatch.chdir(raw)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket")
        with pytest.raises(TaskError, match="a pipe, a socket or a device"):
            require_hashable(raw / "socket")


def test_data_that_dvc_has_linked_into_its_cache_are_refused_with_the_remedy(raw, tmp_path):
    cached = tmp_path / "cache" / "files" / "md5" / "ab" / "cdef"
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"pixels")
    (raw / "ant" / "linked.png").symlink_to(cached)
    with pytest.raises(
        TaskError, match=r"linked\.png out as a link.*cache\.type reflink.*--relink"
    ):
        require_hashable(raw)
