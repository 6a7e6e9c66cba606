"""`instar predict`: a table of labels for a folder, an archive or a bucket of images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console

from data.sources.file_names import printable
from flows.commands.tables import Column, show_table
from tasks.errors import TaskError
from tasks.serving.batch_prediction import predict
from tasks.serving.label_file import require_ending
from tasks.serving.loading import loaded
from tasks.stages.progress import StageProgress

# Of the labels given, how many kinds are listed.
SHOWN = 20


def predict_all(
    reference: str, place: str, output: Path, batch_size: int, probabilities: bool
) -> dict[str, Any]:
    """Classify all images of a place by a version, as plain JSON.

    Raises:
        TaskError: The version is not to be had, or the output cannot be written there or so.
    """
    if not output.parent.is_dir():
        raise TaskError(f"--output: the folder {output.parent} does not exist; make it first.")
    if output.is_dir():
        raise TaskError(f"--output: {output} is a folder; name a file in it.")
    require_ending(output)
    with StageProgress("predict") as bar:
        bar.update("loading the model", 0, 1)
        with loaded(reference) as version:
            done = predict(
                version.model, version.version, version.key, place, output,
                batch_size, probabilities, bar.update,
            )  # fmt: skip
            abstention = version.model.abstention
    return {**done.as_dict(), "abstention": abstention and dict(abstention)}


def show(result: dict[str, Any], console: Console) -> None:
    """What was found, in a table and a few lines."""
    labels = sorted(result["labels"].items(), key=lambda pair: (-pair[1], pair[0]))
    rows = [[printable(label), f"{count:,}"] for label, count in labels[:SHOWN]]
    if len(labels) > SHOWN:
        rest = sum(count for _, count in labels[SHOWN:])
        rows.append([f"{len(labels) - SHOWN} other labels", f"{rest:,}"])
    for what in ("abstained", "unreadable"):
        if result[what]:
            rows.append([f"({what})", f"{result[what]:,}"])
    columns = [Column("label", fold=True), Column("images", right=True)]
    show_table(console, f"{result['model']}: {result['images']:,} images", columns, rows)
    if result["resumed"]:
        console.print(f"{result['resumed']:,} of them were done by a run before.", highlight=False)
    for reason, count in sorted(result["reasons"].items(), key=lambda kind: -kind[1])[:SHOWN]:
        console.print(f"Unreadable: {count:,} × {reason}.", highlight=False, markup=False)
    if result["reasons"]:
        console.print("The column reason says more of each.", highlight=False)
    for what, count in result["passed_over"].items():
        console.print(f"Passed over: {count:,} {what}.", highlight=False)
    console.print(_why(result), highlight=False)
    console.print(f"Written: {result['output']}", soft_wrap=True, highlight=False, markup=False)


def _why(result: dict[str, Any]) -> str:
    abstention = result["abstention"]
    if abstention is None:
        return "This version never abstains (finetune.abstain_target was 0, or not there yet)."
    target = f"{100 * abstention['target']:g}%"
    if abstention["threshold"] is None:
        return (
            f"It abstains from all: its {abstention['judged']} labels promise {target} right of no "
            "confidence. Its best classes are in the column guess; more labels, or a lower "
            "finetune.abstain_target, make it answer."
        )
    return (
        f"It abstains below a confidence of {abstention['threshold']:.3f}, so that {target} of its "
        "answers may be expected to be right; the column guess has its best class all the same."
    )
