"""The summary tells the truth in plain words, whichever way it went."""

import io

import pytest
from rich.console import Console

from flows.commands.run_summary import next_commands, show, verdict_in_words


def result(
    low: float | None,
    mean: float,
    high: float | None,
    outcome: str = "promoted",
    place: str = "champion",
) -> dict:
    def accuracy(value: float) -> dict:
        return {"accuracy": {"mean": value, "low": value - 0.004, "high": value + 0.004, "n": 5}}

    return {
        "run_id": "r1",
        "metrics": {
            "label_fraction": 0.01,
            "labels": 600,
            "label_overlap": 0.1,
            "pretrained": accuracy(0.85),
            "scratch": accuracy(0.83),
            "gain": {"mean": mean, "low": low, "high": high},
        },
        "registered": {"name": "instar", "version": "3", "created": True},
        "gate": {
            "outcome": outcome,
            "place": place,
            "reasons": ["pass: better than version 2"],
            "repeated": False,
        },
        "report": "/somewhere/artifacts/evaluate/report.html",
    }


def printed(of: dict) -> str:
    console = Console(file=io.StringIO(), width=100)
    show(of, console)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_gain_above_zero_is_a_win():
    words = verdict_in_words(result(0.012, 0.02, 0.03)["metrics"])
    assert words == (
        "Pretraining wins by 2.0 points of accuracy "
        "(95% interval +1.2 to +3.0 over 5 draws of labels)."
    )


@pytest.mark.parametrize(
    ("low", "mean", "high", "expected"),
    [(-0.01, 0.004, 0.02, "within the noise"), (-0.03, -0.02, -0.01, "it loses 2.0 points")],
)
def test_anything_else_is_said_not_to_win(low, mean, high, expected):
    words = verdict_in_words(result(low, mean, high)["metrics"])
    assert words.startswith("Pretraining does not win here")
    assert expected in words


def test_summary_holds_all_that_a_user_needs_next():
    text = printed(result(0.012, 0.02, 0.03))
    for part in (
        "1% of the labels (600 labels)",
        "85.00%",
        "84.60% … 85.40%",
        "+2.00",
        "instar version 3 (Production, @champion)",
        "pass: better than version 2",
        "/somewhere/artifacts/evaluate/report.html",
        "instar ui",
        "instar schedule",
    ):
        assert part in text, part


def test_refused_version_is_said_to_stay_challenger():
    text = printed(result(-0.01, 0.0, 0.01, "refused", "challenger"))
    assert "Staging, @challenger" in text
    assert "refused" in text
    assert "@champion" not in text


@pytest.mark.parametrize(
    ("outcome", "place", "line"),
    [
        ("refused", "challenger", "Gate, as before: refused (exit status 3)"),
        ("same model", "champion", "Gate, as before: it is the champion's very model"),
    ],
)
def test_a_run_that_changed_nothing_says_so_with_the_verdict_of_before(outcome, place, line):
    of = result(-0.01, 0.0, 0.01, outcome, place)
    of["registered"]["created"] = False
    of["gate"]["repeated"] = True
    text = printed(of)
    assert "Nothing changed: this model already is instar version 3" in text
    assert line in text
    assert "pass: better than version 2" in text
    assert "Registered:" not in text


def test_one_draw_is_said_to_have_no_interval():
    of = result(None, 0.02, None, "refused")
    for arm in ("pretrained", "scratch"):
        of["metrics"][arm]["accuracy"] |= {"low": None, "high": None, "n": 1}
    text = printed(of)
    assert text.count("one draw: no interval") == 4
    assert "Pretraining wins" not in text
    assert "is open: +2.0 points" in text
    assert "finetune.draws" in text
    assert "None" not in text


@pytest.mark.parametrize(
    ("place", "said"),
    [("champion", "Production, @champion"), ("challenger", "Staging, @challenger")],
)
def test_same_model_is_said_to_stand_where_the_registry_has_it(place, said):
    text = printed(result(0.012, 0.02, 0.03, "same model", place))
    assert f"instar version 3 ({said})" in text


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        ({"label_fraction": 0.01}, "finetune.label_fraction=0.05"),
        ({"label_fraction": 0.05}, "finetune.label_fraction=0.25"),
        ({"label_fraction": 0.25}, None),
        # No others are there.
        ({"label_fraction": 0.01, "label_overlap": 1}, None),
        ({"gain": {"mean": 0.02, "low": None, "high": None}}, "finetune.draws=5"),
    ],
)
def test_the_next_setting_to_try_is_another_than_the_present_one(known, expected):
    of = result(0.012, 0.02, 0.03)
    of["metrics"] |= known
    tried = [command for command, _ in next_commands(of) if "-S" in command]
    assert tried == ([f"instar run -S {expected}"] if expected else [])


def test_a_shell_that_does_not_know_instar_is_told_how_it_would(monkeypatch, tmp_path):
    def first():
        return next_commands(result(0.01, 0.02, 0.03))[0][0]

    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "activate").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.prefix", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert first() == ". bin/activate"
    (tmp_path / "instar").touch(mode=0o755)
    assert first() == "instar ui"


@pytest.mark.parametrize(("folder", "plain"), [("mine", True), ("my %2F images", False)])
def test_the_command_that_loads_the_model_suits_the_folder(folder, plain, tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path / folder)
    (load,) = [c for c, what in next_commands(result(0.01, 0.02, 0.03)) if what == "load the model"]
    assert load.startswith("python -c") == plain
    assert ("MLFLOW_TRACKING_URI=sqlite:///mlflow.db" in load and "dst_path=" in load) != plain
