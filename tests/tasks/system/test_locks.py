"""The lock of one file: never two holders, though its file comes and goes."""

import threading
import time

import pytest

from tasks.system.locks import HeldError, held, is_free


def test_many_that_wait_hold_it_one_after_the_other(tmp_path):
    path = tmp_path / "locks" / "a.lock"
    inside, most, times = [], [], []

    def work():
        for _ in range(20):
            with held(path, "work", wait=True):
                inside.append(1)
                most.append(len(inside))
                time.sleep(0.001)
                inside.pop()
            times.append(1)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (max(most), len(times)) == (1, 160)
    assert not list(path.parent.iterdir()), "nothing is left to prune"


def test_who_waits_is_told_of_whom(tmp_path):
    path, told = tmp_path / "a.lock", []
    entered = threading.Event()

    def work():
        with held(path, "the first"):
            entered.set()
            while not told:
                time.sleep(0.01)

    first = threading.Thread(target=work)
    first.start()
    entered.wait()
    assert not is_free(path)
    with pytest.raises(HeldError, match="the first with pid .*, started "):
        held(path, "the second").__enter__()
    with held(path, "the second", wait=True, on_wait=told.append):
        assert told[0].startswith("the first with pid ")
    first.join()
    assert is_free(path)
