"""What a look at the data says to a person."""

import dataclasses
import io

import pytest
from rich.console import Console

from flows.commands.watch import show
from tasks.monitoring.data_watch import Items, Report, Started
from tasks.monitoring.drift import Drift
from tasks.monitoring.summary import markdown, sentence, verdict
from tasks.monitoring.two_sample_test import Statistic

DRIFT = Drift(
    "tiny@1",
    True,
    0.0005,
    0.01,
    1000,
    200,
    3,
    [Statistic("embedding", 0.2, 0.02), Statistic("brightness", 0.41, 0.0005)],
)
NONE = Items(0, [])
REPORT = Report(
    "data/raw/mine",
    "abc.dir",
    1200,
    "tiny@2",
    True,
    Items(200, ["cat/[red].png", "cat/a|b.png", "cat/new\nline.png"]),
    NONE,
    Items(1, ["dog/7.png"]),
    0.0,
    DRIFT,
)


def printed(report):
    console = Console(file=io.StringIO(), width=100)
    show(report, console)
    return console.file.getvalue()


def test_change_and_drift_are_told_in_words_and_numbers():
    said = printed(REPORT)
    assert "changed since tiny@2: 200 new, 0 removed, 1 changed" in said
    assert "Drift: YES, seen in brightness. p = 0.0005, alpha = 0.01, 200 new images" in said
    assert "3 more could not be read" in said and "0.410" in said
    alike = dataclasses.replace(REPORT, drift=dataclasses.replace(DRIFT, drifted=False, p=0.3))
    assert "Drift: none seen. p = 0.3" in verdict(alike)


def test_names_that_hold_anything_stay_on_their_line_and_in_their_cell():
    said = printed(REPORT)
    assert "cat/[red].png" in said and "new\\x0aline" in said
    rows = [line for line in markdown(REPORT).splitlines() if line.startswith("| new")]
    assert len(rows) == 1 and rows[0].count("|") == 4


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"changed": False}, "nothing changed since tiny@2"),
        ({"since": None}, "no run is registered yet"),
        ({"new": None, "removed": None, "altered": None}, "which items is unknown"),
    ],
)
def test_other_findings_have_a_sentence_of_their_own(change, expected):
    assert expected in sentence(dataclasses.replace(REPORT, **change))


def test_why_there_is_no_measure_and_what_was_started_is_said():
    started = Started("abc.dir", "failed", "prepare stopped")
    found = dataclasses.replace(REPORT, drift=None, not_measured="MLflow is away", started=started)
    assert "Drift: not measured, as MLflow is away" in printed(found)
    assert "A run for these data: failed. prepare stopped" in printed(found)
