"""How a prediction and an export end on the terminal, and what they refuse."""

import io

import pytest
from rich.console import Console

from flows.commands import export, predict
from tasks.errors import TaskError

RESULT = {
    "model": "tiny@3",
    "output": "labels.parquet",
    "images": 1300,
    "labelled": 1000,
    "abstained": 290,
    "unreadable": 10,
    "reasons": {"damaged image": 1, "a HEIC photo, which is not read": 9},
    "resumed": 512,
    "passed_over": {"hidden files": 2},
    "labels": {"coat": 250, "bag": 750},
    "abstention": {"target": 0.95, "judged": 88, "coverage": 0.7, "threshold": 0.61234},
}


def shown(**changes):
    console = Console(file=io.StringIO(), width=100)
    predict.show({**RESULT, **changes}, console)
    return " ".join(console.file.getvalue().split())


def test_summary_counts_labels_and_all_that_got_none():
    said = shown()
    assert "tiny@3: 1,300 images" in said
    assert said.index("bag") < said.index("coat"), "the most frequent first"
    for part in ("(abstained) │ 290", "(unreadable) │ 10", "512 of them were done by a run before",
                 "Unreadable: 9 × a HEIC photo, which is not read. Unreadable: 1 × damaged image.",
                 "Passed over: 2 hidden files", "below a confidence of 0.612", "95% of its answers",
                 "Written: labels.parquet"):  # fmt: skip
        assert part in said


def test_summary_says_why_nothing_or_everything_is_answered():
    mute = {**RESULT["abstention"], "threshold": None}
    assert "abstains from all: its 88 labels promise 95%" in shown(abstention=mute)
    assert "never abstains" in shown(abstention=None)


def test_many_labels_are_summed_up():
    said = shown(labels={f"class {n}": 1 for n in range(30)})
    assert "10 other labels" in said


@pytest.mark.parametrize("name", ["[red]", "[/]", "[bold]coat", "None", "(abstained)", "nan"])
def test_a_class_is_shown_by_its_name_whatever_that_is(name):
    assert f"│ {name} │ 250 │" in shown(labels={name: 250})


def test_output_that_cannot_be_written_is_refused_before_any_work(tmp_path):
    with pytest.raises(TaskError, match="the folder .* does not exist"):
        predict.predict_all("tiny@1", "images", tmp_path / "absent" / "out.parquet", 8, False)
    with pytest.raises(TaskError, match="is a folder"):
        predict.predict_all("tiny@1", "images", tmp_path, 8, False)


@pytest.mark.parametrize(
    "name",
    [
        "out.xlsx", "out.json", "out.jsonl", "out.tsv", "out.csv.gz", "out.parquet.zip", "out.txt",
        "out", ".csv", "out.", "-", "csv",
    ],
)  # fmt: skip
def test_output_whose_name_says_another_format_is_refused_before_any_work(tmp_path, name):
    with pytest.raises(TaskError, match=r"--output: .*end its name in \.parquet .* or \.csv"):
        predict.predict_all("tiny@1", "images", tmp_path / name, 8, False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "name", ["model.onnx", "encoder.safetensors", "model.PT", "weights.zip", "weights.tar.gz"]
)
def test_export_into_what_a_file_would_be_called_is_refused(tmp_path, name):
    with pytest.raises(TaskError, match=rf"--to: .*{name} .*folder"):
        export.export_version("tiny@1", tmp_path / name, onnx=True)
    assert not list(tmp_path.iterdir())


def test_export_overwrites_nothing(tmp_path):
    (tmp_path / "mine").write_text("mine")
    for place in (tmp_path, tmp_path / "mine"):
        with pytest.raises(TaskError, match="not an empty folder"):
            export.export_version("tiny@1", place, onnx=False)
