"""How a comparison ends on the terminal."""

import io

from rich.console import Console

from flows.commands.compare import show

MEAN = {"mean": 0.8, "low": 0.75, "high": 0.85, "n": 2}
WIDE = {"mean": 0.1, "low": -0.156, "high": 0.359, "n": 2}
LEAD = {"mean": 0.012, "low": -0.001, "high": 0.025, "n": 2}
BEST = {
    "variant": "epochs=4", "seeds": [0, 1], "failed": {}, "pretrained": MEAN, "scratch": MEAN,
    "gain": WIDE, "behind": None, "seconds": 15.2,
}  # fmt: skip
RESULT = {
    "comparison": "cmp-1",
    "over": "2 seeds",
    "verdict": "First is epochs=4.",
    "leaderboard": [
        BEST,
        {**BEST, "variant": "epochs=1", "seeds": [1], "failed": {0: "it broke"}, "behind": LEAD},
        {
            **BEST,
            **dict.fromkeys(("pretrained", "scratch", "gain", "seconds")),
            "variant": "epochs=0",
            "seeds": [],
            "failed": {0: "it broke", 1: "it broke"},
        },
    ],
    "cells": [{"name": "compare-epochs-1-seed-0", "reason": "it broke", "experiment": None}],
    "page": None,
    "not_recorded": None,
}


def shown(**changes):
    console = Console(file=io.StringIO(), width=80)
    show({**RESULT, **changes}, console)
    return console.file.getvalue()


def test_leaderboard_fits_a_terminal_whole():
    said = shown()
    for part in (
        "best",
        "epochs=4",
        "(-15.6…+35.9)",
        "80.00",
        "(75.0…85.0)",
        "+1.20",
        "(-0.1…+2.5)",
        "over test images and 2",
    ):
        assert part in said, part


def test_failed_cells_are_told_with_their_reason_and_seeds():
    said = " ".join(shown().split())
    assert "compare-epochs-1-seed-0 failed: it broke" in said
    assert "1 of 2 seeds" in said and "0 of 2 seeds" in said


def test_without_mlflow_the_table_is_there_and_says_so():
    said = shown(not_recorded="MLflow does not answer.")
    assert "Leaderboard" in said and "Not in MLflow: MLflow does not answer." in said
    assert "In MLflow:" not in said
