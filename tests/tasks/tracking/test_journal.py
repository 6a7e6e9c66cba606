import json
import os
import subprocess
import sys

from tasks.tracking.journal import Journal, journal_path, read_journal


def test_what_is_written_is_read_back_in_order(tmp_path):
    path = journal_path(tmp_path, "pretrain", "abc")
    with Journal(path) as journal:
        journal.start("pretrain", "abc", {"epochs": 2})
        journal.metrics({"loss": 1.5}, step=1)
        journal.progress("epoch", 1, 2)
        journal.end("failed", "out of memory")
    events, offset = read_journal(path)
    assert [event["event"] for event in events] == ["start", "metrics", "progress", "end"]
    assert events[0]["params"] == {"epochs": 2}
    assert (events[1]["values"], events[1]["step"]) == ({"loss": 1.5}, 1)
    assert events[3]["message"] == "out of memory"
    assert offset == path.stat().st_size
    assert path == tmp_path / ".instar/journal/pretrain-abc.jsonl"


def test_reading_goes_on_where_it_stopped(tmp_path):
    with Journal(tmp_path / "j.jsonl") as journal:
        journal.metrics({"loss": 3}, step=1)
        _, offset = read_journal(journal.path)
        journal.metrics({"loss": 2}, step=2)
        events, offset = read_journal(journal.path, offset)
        assert [event["step"] for event in events] == [2]
        assert read_journal(journal.path, offset) == ([], offset)


def test_a_line_still_being_written_is_left_for_the_next_call(tmp_path):
    path = tmp_path / "j.jsonl"
    whole = json.dumps({"event": "metrics", "step": 1, "values": {}}) + "\n"
    path.write_text(whole + whole[:9])
    events, offset = read_journal(path)
    assert (len(events), offset) == (1, len(whole))
    path.write_text(whole + whole)
    events, offset = read_journal(path, offset)
    assert (len(events), offset) == (1, 2 * len(whole))


def test_a_line_that_a_killed_writer_left_costs_no_later_event(tmp_path):
    path = tmp_path / "j.jsonl"
    path.write_text('{"event": "metr')
    with Journal(path) as journal:
        journal.start("pretrain", "abc", {})
        journal.metrics({"loss": 1}, step=1)
    events, _ = read_journal(path)
    assert [event["event"] for event in events] == ["start", "metrics"]


def test_events_survive_a_killed_writer(tmp_path):
    code = (
        "import os, sys; from tasks.tracking.journal import Journal; j = Journal(sys.argv[1]);"
        "j.metrics({'loss': 1}, step=1); os.kill(os.getpid(), 9)"
    )
    path = tmp_path / "j.jsonl"
    subprocess.run([sys.executable, "-c", code, str(path)], check=False, cwd=os.getcwd())
    assert [event["step"] for event in read_journal(path)[0]] == [1]


def test_a_missing_journal_is_empty(tmp_path):
    assert read_journal(tmp_path / "none.jsonl") == ([], 0)
