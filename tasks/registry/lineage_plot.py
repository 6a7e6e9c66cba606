"""A version's lineage as a picture: what was made of what, from the data down to the version."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tasks.errors import TaskError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from mlflow import MlflowClient

FILE = "lineage.svg"
_DIGITS = 12
_WIDTH, _HEIGHT = 8.0, 8.4
_INK, _FAINT = "#1f2933", "#7b8794"
_FILLS = {"input": "#e8f1fb", "stage": "#eef6ec", "result": "#fdf1dc"}


class _Part(NamedTuple):
    """A box: where its middle is, what stands in it."""

    name: str
    kind: str
    x: float
    y: float
    width: float
    title: str
    lines: list[str]


# Which box was made of which.
_ARROWS = (
    ("raw", "prepare"), ("prepare", "pretrain"), ("prepare", "finetune"), ("labels", "finetune"),
    ("pretrain", "finetune"), ("finetune", "evaluate"), ("prepare", "evaluate"),
    ("evaluate", "version"), ("code", "version"),
)  # fmt: skip


def draw(found: dict[str, Any], path: Path) -> None:
    """Draw a lineage; the same lineage gives the same bytes of an SVG.

    Args:
        found: See `lineage.ancestry`.
        path: Where to; its suffix gives the format.

    Raises:
        TaskError: The ending is neither .png nor .svg, or there is no such folder.
    """
    import matplotlib
    from matplotlib.figure import Figure

    if path.suffix.lower() not in (".png", ".svg"):
        raise TaskError(f"{path}: a picture's name ends in .png or .svg.")
    if not path.parent.is_dir():
        raise TaskError(f"{path}: the folder {path.parent} does not exist: make it first.")
    # Words as text, so that hashes can be copied; no random ids and no date.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "instar"}):
        figure = Figure(figsize=(_WIDTH, _HEIGHT))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(0, _WIDTH), ylim=(0, _HEIGHT))
        axes.axis("off")
        parts = {part.name: part for part in _parts(found)}
        for start, end in _ARROWS:
            _arrow(axes, parts[start], parts[end])
        for part in parts.values():
            _box(axes, part)
        metadata = {"Date": None} if path.suffix.lower() == ".svg" else {}
        figure.savefig(path, dpi=120, facecolor="white", metadata=metadata)


def log_picture(client: MlflowClient, run: str, found: dict[str, Any]) -> None:
    """Put the picture among the artifacts of a version's MLflow run."""
    with tempfile.TemporaryDirectory(prefix="instar-lineage-") as folder:
        path = Path(folder) / FILE
        draw(found, path)
        client.log_artifact(run, str(path))


def _parts(found: dict[str, Any]) -> Iterator[_Part]:
    code, data, labels = (found[part] for part in ("code", "data", "labels"))
    counts = [f"{count:,} {name}" for name, count in data["counts"].items() if count]
    yield _Part(
        "raw", "input", 2.0, 7.6, 3.4, "Raw data", [_known(data["source"]), _known(data["path"])]
    )
    yield _Part(
        "prepare", "stage", 2.0, 5.9, 3.4, "prepare",
        [f"data version {_short(data['version'])}", ", ".join(counts), _run(found, "prepare")],
    )  # fmt: skip
    yield _Part(
        "pretrain", "stage", 2.0, 4.2, 3.4, f"pretrain · {_known(found['method'])}",
        ["no labels seen", _run(found, "pretrain")],
    )  # fmt: skip
    yield _Part(
        "labels", "input", 6.2, 5.9, 3.0, "Label draw",
        [
            f"{_known(labels['labels'])} labels, {_known(labels['draws'])} draws, "
            f"seed {_known(labels['seed'])}",
            _short(labels["draw"]),
        ],
    )  # fmt: skip
    yield _Part(
        "finetune", "stage", 6.2, 4.2, 3.0, "finetune",
        [f"weights {_short(found['weights'])}", found["machine"]["device"],
         f"torch {found['machine']['torch']}", _run(found, "finetune")],
    )  # fmt: skip
    yield _Part(
        "evaluate", "stage", 6.2, 2.5, 3.0, "evaluate",
        [f"test set {_short(found['test_digest'])}", _accuracy(found), _run(found, "evaluate")],
    )  # fmt: skip
    yield _Part(
        "code", "input", 2.0, 0.9, 3.4, "Code and settings",
        [f"commit {_short(code['commit'])}", f"dvc.lock {_short(code['dvc_lock'])}",
         f"params {_short(found['settings']['hash'])} ({_changed(found)})",
         f"dependencies {_short(code['requirements_lock'])}"],
    )  # fmt: skip
    verdict = found["verdict"]["gate"]
    yield _Part(
        "version", "result", 6.2, 0.9, 3.0, f"{found['name']} version {found['version']}",
        [_known(code["tag"]), f"gate: {verdict or 'not judged yet'}",
         f"reproduced: {found['reproduced']['verdict'] or 'not tried'}"],
    )  # fmt: skip


def _box(axes: Axes, part: _Part) -> None:
    from matplotlib.patches import FancyBboxPatch

    height = _height(part)
    corner = (part.x - part.width / 2, part.y - height / 2)
    axes.add_patch(
        FancyBboxPatch(
            corner, part.width, height, boxstyle="round,pad=0,rounding_size=0.1",
            facecolor=_FILLS[part.kind], edgecolor=_FAINT, linewidth=1,
        )
    )  # fmt: skip
    top = part.y + height / 2 - 0.13
    axes.text(part.x, top, part.title, ha="center", va="top", size=11, weight="bold", color=_INK)
    for number, line in enumerate(part.lines, 1):
        axes.text(
            part.x, top - 0.06 - 0.2 * number, line,
            ha="center", va="top", size=8.5, color=_INK, parse_math=False,
        )  # fmt: skip


def _height(part: _Part) -> float:
    return 0.5 + 0.2 * len(part.lines)


def _arrow(axes: Axes, start: _Part, end: _Part) -> None:
    """From edge to edge, the short way."""
    if start.x == end.x:
        tail = (start.x, start.y - _height(start) / 2)
        head = (end.x, end.y + _height(end) / 2)
    else:
        tail = (start.x + start.width / 2, start.y)
        head = (end.x - end.width / 2, end.y)
    style = {"arrowstyle": "-|>", "color": _FAINT, "linewidth": 1.2, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", head, tail, arrowprops=style)


def _short(value: str | None) -> str:
    return value[:_DIGITS] if value else "not recorded"


def _known(value: str | None) -> str:
    return str(value) if value else "not recorded"


def _run(found: dict[str, Any], stage: str) -> str:
    run = found["runs"][stage]
    if run is None:
        return "MLflow run lost"
    return f"MLflow run {_short(run['id'])}{' (cached)' if run['from_cache'] else ''}"


def _accuracy(found: dict[str, Any]) -> str:
    mean, gain = found["accuracy"]["mean"], found["gain"]["mean"]
    if mean is None or gain is None:
        return "not recorded"
    return f"accuracy {100 * mean:.2f}%, gain {100 * gain:+.2f}"


def _changed(found: dict[str, Any]) -> str:
    settings = found["settings"]
    if settings["before"] is None:
        return "first version"
    return f"{len(settings['changed'])} differ from version {settings['before']}"
