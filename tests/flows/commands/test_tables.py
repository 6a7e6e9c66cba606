"""Tables on terminals of any width: nothing that matters is cut, and a pipe gets whole lines."""

import fcntl
import io
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from rich.console import Console

from flows.commands import compare, lineage, predict, promote, reproduce, run_summary, tables, watch
from flows.commands.tables import Column, open_console, show_pairs, show_table
from tests.flows.commands import test_compare, test_predict, test_run_summary, test_watch

HERE = Path(__file__).resolve().parents[3]
WIDTHS = (40, 60, 80, 120)
LONG = "a-model-whose-name-is-as-long-as-a-sentence-about-the-shop-that-it-works-for"
HASH = "0123456789abcdef" * 4


def version(number, stage, aliases, **more):
    return {
        "version": number, "stage": stage, "aliases": aliases,
        "accuracy": {"mean": 0.8325, "low": 0.3445, "high": 1.0},
        "gain": {"mean": 0.11, "low": -0.1027, "high": 0.2895}, "gate": "promoted",
        "rejected": None, "gate_champion": "11", "age_seconds": 1900,
        "moved_by": "gate, run by Tester <tester@localhost>", **more,
    }  # fmt: skip


MODELS = {
    "model": "tiny",
    "versions": [
        version("13", "Staging", ["challenger", "staging"], gate="refused", rejected="Ada: worse"),
        version("12", "Production", ["champion", "production"]),
        version("11", "Archived", []),
        version("10", "None", [], accuracy=None, gain=None, gate=None, gate_champion=None),
    ],
}
REPRODUCED = {
    "name": "tiny", "version": "3", "tag": "instar/tiny/v3", "stages": ["finetune", "evaluate"],
    "differences": [], "seconds": {"finetune": 1234, "evaluate": 9}, "files": 17, "metrics": 99,
    "notes": [], "before": {}, "now": {}, "verdict": "identical", "recorded": False, "clone": None,
}  # fmt: skip
DESCENT = {
    "name": LONG, "version": "3", "url": None,
    "code": {"commit": HASH, "tag": "t", "dvc_lock": HASH, "requirements_lock": HASH},
    "settings": {"hash": HASH, "before": None, "changed": {}},
    "data": {"version": HASH, "source": "npz", "path": "data/raw", "counts": {"train": 600}},
    "labels": {"draw": HASH, "fraction": "0.1", "labels": "60", "draws": "2", "seed": "0"},
    "runs": {"pretrain": None}, "method": "relative-position", "weights": HASH,
    "machine": {"device": "cpu", "torch": "2"}, "test_digest": HASH,
    "accuracy": {"mean": 0.8, "low": 0.7, "high": 0.9}, "gain": {"mean": 0.1, "low": 0.0123,
    "high": 0.2}, "verdict": {"gate": "promoted", "reasons": "pass: " + LONG},
    "reproduced": {"verdict": None},
}  # fmt: skip
CLASSES = {**test_predict.RESULT, "labels": {LONG: 250, "[bold]bag": 750, "猫" * 30: 3}}
# What each command shows, and what has to be there whole at any width.
SHOWN = {
    "models": (promote.show_models, MODELS, (
        "version", "13", "12", "11", "10", "Staging", "Production", "Archived", "@challenger",
        "@staging", "@champion", "@production", "83.25", "(34.45…100.00)", "+11.00",
        "(-10.27…+28.95)", "refused", "rejected", "promoted", "against 11")),
    "run": (run_summary.show, test_run_summary.result(0.012, 0.02, 0.03), (
        "pretrained", "same learner from scratch", "gain", "85.00%", "84.60% … 85.40%", "+2.00",
        "+1.20 … +3.00")),
    "compare": (compare.show, test_compare.RESULT, (
        "best", "epochs=4", "epochs=1", "80.00", "(75.0…85.0)", "+10.00", "(-15.6…+35.9)", "+1.20",
        "(-0.1…+2.5)")),
    "predict": (predict.show, CLASSES, ("750", "250", "[bold]bag", "(unreadable)", "10")),
    "watch": (watch.show, test_watch.REPORT, ("200", "embedding", "0.410", "0.0005")),
    "reproduce": (reproduce.show, REPRODUCED, (
        "finetune", "1234", "evaluate", "files that differ", "numbers that differ")),
    "lineage": (lineage.show, DESCENT, ("git commit", "requirements.lock", "[+1.23, +20.00]")),
}  # fmt: skip


def printed(command, width, encoding="utf-8"):
    show, result, _ = SHOWN[command]
    buffer = io.BytesIO()
    file = io.TextIOWrapper(buffer, encoding, errors="backslashreplace")
    show(result, Console(file=file, width=width))
    file.flush()
    return buffer.getvalue().decode(encoding)


def table_lines(said):
    """The lines of the table itself: prose around it is the terminal's to wrap."""
    return [
        line for line in said.splitlines() if any(mark in line for mark in "│┃|") or "  " in line
    ]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("command", SHOWN)
def test_nothing_that_matters_is_cut_at_any_width(command, width):
    said = printed(command, width)
    for part in SHOWN[command][2]:
        assert part in said, part
    assert not any(line.rstrip().endswith("…") for line in table_lines(said))


@pytest.mark.parametrize("width", WIDTHS)
def test_a_hash_can_be_put_together_again_at_any_width(width):
    assert "".join(printed("lineage", width).split()).count(HASH) == 8


@pytest.mark.parametrize("width", WIDTHS)
def test_a_long_class_name_is_folded_and_not_shortened(width):
    said = printed("predict", width)
    label = "".join(line.strip("│ ").split(" ")[0] for line in said.splitlines() if "│" in line)
    assert LONG in "".join(said.split()) or LONG in label
    assert said.count("猫") == 30


@pytest.mark.parametrize("command", SHOWN)
def test_a_pipe_gets_each_row_as_one_whole_line(command):
    lines = printed(command, tables.UNLIMITED).splitlines()
    assert max(map(len, lines)) < 1000, "nothing is padded to the width"
    if command == "models":
        row = next(line for line in lines if " 12 " in line)
        for part in ("Production", "@champion @production", "(34.45…100.00)", "tester@localhost"):
            assert part in row
    if command == "compare":
        assert any(
            "epochs=1 1 of 2 seeds" in line and "+1.20 (-0.1…+2.5)" in line for line in lines
        )
    if command == "lineage":
        assert any(line.split() == ["dvc.lock", HASH] for line in lines)


@pytest.mark.parametrize("width", [20, 30, *WIDTHS])
@pytest.mark.parametrize("columns", [1, 3, 9])
def test_lines_of_a_table_are_never_wider_than_the_terminal(width, columns):
    heads = [Column(f"column {n}", right=n % 2 == 1, fold=n == 2) for n in range(columns)]
    rows = [[f"{n}{'x' * 4 * n}" for n in range(columns)] for _ in range(3)]
    console = Console(file=io.StringIO(), width=width)
    show_table(console, "title", heads, rows)
    lines = console.file.getvalue().splitlines()
    assert all(len(line) <= width for line in lines)
    together = "".join("".join(lines).split())
    assert all(together.count(cell) >= 3 for n, cell in enumerate(rows[0]) if n != 2)


def test_what_is_left_out_is_said_and_never_the_first():
    heads = [
        Column("version"),
        Column("gate"),
        Column("age", spare=True),
        Column("who", spare=True),
    ]
    console = Console(file=io.StringIO(), width=34)
    show_table(console, "", heads, [["1", "promoted", "22 min", "somebody else"]])
    said = console.file.getvalue()
    assert "Left out, as it is narrow here: who" in " ".join(said.split())
    assert all(part in said for part in ("version", "1", "promoted", "22 min"))


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp437"])
def test_columns_stay_in_line_where_signs_are_replaced(encoding):
    said = printed("models", 120, encoding)
    assert "\\u" not in said and "?" not in said
    frame = [line for line in said.splitlines() if line.startswith(("|", "│", "+"))]
    assert len({len(line) for line in frame}) == 1 < len(frame)


def test_text_of_others_is_no_markup():
    console = Console(file=io.StringIO(), width=80)
    show_pairs(console, "[red]title", [("[bold]name", "[/] value")])
    assert all(
        part in console.file.getvalue() for part in ("[red]title", "[bold]name", "[/] value")
    )


def test_output_to_a_pipe_is_unlimited_and_columns_count(monkeypatch, capfd):
    monkeypatch.delenv("COLUMNS", raising=False)
    assert open_console().width == open_console(stderr=True).width == tables.UNLIMITED
    monkeypatch.setenv("COLUMNS", "72")
    assert open_console().width == 72


@pytest.mark.parametrize(
    ("columns", "term"), [(40, "xterm"), (80, "dumb"), (120, "xterm"), (0, "")]
)
def test_a_terminal_is_as_wide_as_it_says(columns, term):
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    code = "from flows.commands.tables import open_console; print(open_console().width)"
    kept = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=theirs, env={**kept, "TERM": term}, cwd=HERE
    ) as shown:
        os.close(theirs)
        assert os.read(ours, 100).split() == [str(columns or 80).encode()]
    assert shown.returncode == 0
    os.close(ours)
