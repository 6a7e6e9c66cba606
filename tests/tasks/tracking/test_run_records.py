"""Which runs count as killed."""

import time

import pytest

from tasks.tracking.run_records import RunRecord, Shelf, was_killed


@pytest.mark.parametrize(("ended_seconds_ago", "killed"), [(None, True), (5, False), (3600, True)])
def test_a_run_that_has_just_ended_may_still_tidy_up(tmp_path, ended_seconds_ago, killed):
    ended = ended_seconds_ago and int(1000 * (time.time() - ended_seconds_ago))
    shelf = Shelf(tmp_path, "run-1")
    with shelf.lock():
        shelf.save(RunRecord("run-1", 0, "tiny", {}, ended=ended))
        assert not was_killed(tmp_path, "run-1"), "it goes on"
    assert was_killed(tmp_path, "run-1") is killed
