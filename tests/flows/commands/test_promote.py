"""What `instar models` and `instar history` show."""

import pytest
from rich.console import Console

from flows.commands.promote import show_history, show_models


def shown(show, result, width=200):
    console = Console(width=width, record=True)
    show(result, console)
    return console.export_text()


def move(version, left, reached):
    return {
        "time": "2026-01-31T03:00:00Z", "version": version, "from": left, "to": reached,
        "who": "Ada", "why": "better", "evidence": {},
    }  # fmt: skip


def test_history_names_the_archive_that_a_version_comes_back_from():
    moves = [
        move("1", None, "champion"),
        move("1", "champion", "archived"),
        move("2", None, "champion"),
        move("1", None, "champion"),
    ]
    said = shown(show_history, {"model": "tiny", "moves": moves}).splitlines()
    assert [line.partition("version ")[2] for line in said if "version" in line] == [
        "1: – → Production",
        "1: Production → Archived",
        "2: – → Production",
        "1: Archived → Production",
    ]


def test_numbers_of_a_version_stay_whole_where_it_is_narrow():
    version = {
        "version": "1", "stage": "Production", "aliases": ["champion", "production"],
        "accuracy": {"mean": 0.8227, "low": 0.8166, "high": 0.8291},
        "gain": {"mean": 0.014, "low": 0.0072, "high": 0.0209}, "gate": "promoted",
        "rejected": None, "gate_champion": None, "age_seconds": 9,
        "moved_by": "gate, run by Ada <ada@example.org>",
    }  # fmt: skip
    said = shown(show_models, {"model": "tiny", "versions": [version]}, width=96)
    for whole in ("(81.66…82.91)", "(+0.72…+2.09)", "@production"):
        assert whole in said


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        ("AAA", None),
        ("A", None),
        ("AB", "versions 2 | 1."),
        ("ABA", "versions 3, 1 | 2."),
        ("A-A", None),  # one that was registered by hand has none
    ],
)
def test_accuracies_of_different_test_sets_are_not_shown_as_though_comparable(sets, said):
    versions = [
        {
            "version": str(number), "stage": "None", "aliases": [], "gain": None, "gate": None,
            "accuracy": {"mean": 0.9, "low": 0.8, "high": 1.0}, "rejected": None,
            "gate_champion": None, "age_seconds": 9, "moved_by": None,
            "test_set": None if name == "-" else name,
        }
        for number, name in enumerate(sets, 1)
    ][::-1]  # fmt: skip
    told = shown(show_models, {"model": "tiny", "versions": versions})
    assert ("Only accuracies of the same test set can be compared" in told) == bool(said)
    assert said is None or said in told
