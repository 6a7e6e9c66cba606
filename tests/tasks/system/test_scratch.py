"""Whole files and folders of one process's own, on the real file system and with real kills."""

import os
import resource
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tasks.system.atomic_files import keep, kept
from tasks.system.scratch import claimed, discard

HERE = Path(__file__).resolve().parents[3]


def start(folder, code):
    """A Python process in `folder` that has reached the end of `code` when this returns."""
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code) + "\nprint('reached', flush=True); input()"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(HERE)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout.readline() == b"reached\n"
    return process


def kill(process):
    process.kill()
    assert process.wait() == -signal.SIGKILL


CLAIM = """
    from pathlib import Path
    from tasks.system.scratch import claimed
    claim = claimed(Path("pretrain-abc"))
    (claim.__enter__() / "mine").write_text("mine")
"""


@pytest.mark.parametrize("damage", ["cut", "emptied", "one bit"])
def test_damaged_file_is_set_aside_and_the_one_before_is_found(tmp_path, damage):
    before = keep(tmp_path / "epoch-1.ckpt", b"first")
    last = keep(tmp_path / "epoch-2.ckpt", b"second")
    content = last.read_bytes()
    last.write_bytes({"cut": content[:-1], "emptied": b"", "one bit": b"r" + content[1:]}[damage])
    told = []
    assert next(kept(tmp_path / "epoch-*.ckpt", told.append)) == before
    assert len(told) == 1 and told[0].startswith("warning: ") and f"{last}.damaged" in told[0]
    assert not last.exists() and Path(f"{last}.damaged").exists()
    # It is told once, and nothing but what `keep` wrote is ever looked at.
    (tmp_path / "epoch-3.ckpt").write_bytes(b"from elsewhere")
    assert list(kept(tmp_path / "epoch-*.ckpt", told.append)) == [before]
    assert len(told) == 1


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_process_killed_while_it_writes_leaves_the_file_before_and_no_half_one(tmp_path, call):
    before = keep(tmp_path / "epoch-1.ckpt", b"first")
    killed = textwrap.dedent(f"""
        import os, signal
        from pathlib import Path
        from tasks.system.atomic_files import keep
        os.{call} = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        keep(Path("epoch-2.ckpt"), b"second" * 100_000)
    """)
    environment = {**os.environ, "PYTHONPATH": str(HERE)}
    done = subprocess.run([sys.executable, "-c", killed], cwd=tmp_path, env=environment)
    assert done.returncode == -signal.SIGKILL
    told = []
    assert list(kept(tmp_path / "epoch-*.ckpt", told.append)) == [before]
    assert not told
    keep(tmp_path / "epoch-2.ckpt", b"second")
    assert not list(tmp_path.glob(".*partial")), "the next one to write takes the remains away"


def test_write_that_fails_names_the_file_and_leaves_nothing(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OSError, match="too large") as caught:
            keep(tmp_path / "epoch-1.ckpt", b"x" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert str(tmp_path / "epoch-1.") in caught.value.filename
    assert not list(tmp_path.iterdir())


def test_folder_that_another_process_holds_is_left_to_it(tmp_path):
    first = start(tmp_path, CLAIM)
    second = start(tmp_path, CLAIM)
    assert (tmp_path / "pretrain-abc" / "mine").exists()
    assert (tmp_path / "pretrain-abc.2" / "mine").exists()
    with claimed(tmp_path / "pretrain-abc") as place:
        assert place.name == "pretrain-abc.3"
        discard(place)
        assert (tmp_path / "pretrain-abc.2" / "mine").exists(), "others hold theirs"
    kill(second)
    with claimed(tmp_path / "pretrain-abc") as place:
        assert (place.name, os.listdir(place).count("mine")) == ("pretrain-abc.2", 1)
        kill(first)
        discard(place)
    assert not list(tmp_path.iterdir()), "what nobody holds goes when the stage has succeeded"


def test_folder_that_another_made_anew_is_left_to_it(tmp_path):
    with claimed(tmp_path / "pretrain-abc") as place:
        discard(place)
        another = start(
            tmp_path,
            CLAIM.replace('(claim.__enter__() / "mine").write_text("mine")', "claim.__enter__()"),
        )
    with claimed(tmp_path / "pretrain-abc") as place:
        assert place.name == "pretrain-abc.2"
    kill(another)


def test_folder_of_a_killed_process_is_free_while_its_children_still_live(tmp_path):
    fork = """
        import os, time
        if not os.fork():
            Path("child").write_text(str(os.getpid()))
            time.sleep(60)
        while not (Path("child").exists() and Path("child").read_text()):
            time.sleep(0.01)
    """
    holder = start(tmp_path, textwrap.dedent(CLAIM) + textwrap.dedent(fork))
    child = int((tmp_path / "child").read_text())
    try:
        kill(holder)
        os.kill(child, 0)
        with claimed(tmp_path / "pretrain-abc") as place:
            assert place.name == "pretrain-abc"
    finally:
        os.kill(child, signal.SIGKILL)


def test_folder_stays_after_a_failure_if_there_is_anything_to_go_on_from(tmp_path):
    def fail(place, content):
        if content:
            keep(place / "epoch-1.ckpt", content)
        raise RuntimeError

    for name, content in (("empty", b""), ("full", b"first")):
        with pytest.raises(RuntimeError), claimed(tmp_path / name) as place:
            fail(place, content)
    assert os.listdir(tmp_path) == ["full"]
