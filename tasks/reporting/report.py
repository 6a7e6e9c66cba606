"""The report: one HTML page that needs nothing else, made from `report.json` and some images."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from tasks.evaluation import label_draws
from tasks.reporting import charts as reporting_charts
from tasks.reporting.charts import Line

# What of the pretraining history comes first, where it was recorded; what else a method measures
# follows, by its name in words.
CURVES = {
    "loss": "Loss",
    "knn": "kNN accuracy (watched only)",
    "rankme": "RankMe (directions in use)",
    "feature_std": "Feature std (0 is collapse)",
    "embedding_std": "Embedding std (0 is collapse)",
}


def render(content: Mapping[str, Any], pictures: Mapping[str, str]) -> str:
    """Render the page.

    Args:
        content: The data behind it, see `tasks.stages.evaluate.evaluate`; its `version` is 1.
        pictures: Image id to `data:` URI, for every id that `content` shows.

    Returns:
        HTML without a script or a reference to anything outside itself; all names are escaped.
    """
    pages = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.filters["points"] = lambda gain: f"{100 * gain:+.1f}"
    pages.filters["percent"] = lambda share: "–" if share is None else f"{100 * share:.1f}%"
    pages.filters["number"] = lambda count: f"{count:,}"
    template = pages.get_template("report.html")
    return template.render(
        content,
        pictures=pictures,
        charts=charts(content),
        headline=headline(content["metrics"]),
        same_labels=label_draws.same_labels(content["metrics"]),
        certainty=certainty(content["metrics"]),
        class_style=reporting_charts.class_style,
    )


def headline(metrics: Mapping[str, Any]) -> dict[str, str]:
    """The outcome in plain words: `outcome` (win, loss, open), `title`, `sentence`.

    A win or a loss is claimed only where the whole interval is on one side of zero.
    """
    gain, share = metrics["gain"], f"{100 * metrics['label_fraction']:.3g}%"
    points = f"{100 * abs(gain['mean']):.1f} points"
    if gain["low"] is None:
        outcome, title = "open", "One draw of labels is not enough to say whether pretraining helps"
    elif gain["low"] > 0:
        outcome, title = "win", f"Pretraining wins by {points} of accuracy"
    elif gain["high"] < 0:
        outcome, title = "loss", f"Pretraining loses by {points} of accuracy"
    else:
        outcome, title = "open", "No clear difference between pretraining and starting from scratch"
    sentence = (
        f"With labels for {share} of the training images ({metrics['labels']:,} labels), the "
        f"pretrained model classifies {100 * metrics['pretrained']['accuracy']['mean']:.1f}% of "
        f"the test images correctly; the same learner started from scratch "
        f"{100 * metrics['scratch']['accuracy']['mean']:.1f}%."
    )
    return {"outcome": outcome, "title": title, "sentence": sentence}


def certainty(metrics: Mapping[str, Any]) -> str:
    """How sure the gain is, in a sentence or two."""
    gain = metrics["gain"]
    if gain["low"] is None:
        return (
            f"The difference is {100 * gain['mean']:+.1f} points in a single draw: an interval "
            "needs at least two draws (finetune.draws)."
        )
    if label_draws.same_labels(metrics):
        scope = "No more labels are there to draw from: how much others would change is not known."
    else:
        share = f"{100 * metrics['label_overlap']:.0f}%"
        scope = f"Two draws have {share} of their labels in common, and each has its own seed."
    return (
        f"The difference is {100 * gain['mean']:+.1f} points, 95% interval "
        f"{100 * gain['low']:+.1f} to {100 * gain['high']:+.1f}, "
        f"over {label_draws.repetitions(metrics)}. {scope}"
    )


def charts(content: Mapping[str, Any]) -> dict[str, Any]:
    """All charts of the page by name; empty where there is nothing to draw."""
    metrics, calibration = content["metrics"], content["reliability"]
    names = [row["name"] for row in content["classes"]]
    means = tuple(
        (a["mean"], a["low"], a["high"])
        for a in (metrics["pretrained"]["accuracy"], metrics["scratch"]["accuracy"])
    )
    place = content["map"]
    return {
        "draws": reporting_charts.dumbbells(
            [d["pretrained"] for d in content["draws"]],
            [d["scratch"] for d in content["draws"]],
            (means[0], means[1]),
        ),
        "pretraining": _pretraining(content["pretraining"]),
        "finetuning": _finetuning(content["finetuning"]),
        "confusion": reporting_charts.confusion(np.array(content["confusion"]), names),
        "reliability": reporting_charts.reliability(
            np.array(calibration["confidence"]),
            np.array(calibration["accuracy"]),
            np.array(calibration["count"]),
            metrics["ece"],
        ),
        "map": reporting_charts.scatter(
            np.array([place["x"], place["y"]]).T, np.array(place["label"]), names
        ),
    }


def _pretraining(history: Mapping[str, Any] | None) -> list[tuple[str, Markup]]:
    """Title and chart of each recorded curve, the schedule of the learning rate aside."""
    if not history:
        return []
    epochs = history["epoch"]
    others = {name: name.replace("_", " ").capitalize() for name in history}
    titles = {name: title for name, title in (CURVES | others | CURVES).items() if name in history}
    drawn = []
    for column, title in titles.items():
        if column in ("epoch", "lr"):
            continue
        values = [math.nan if v is None else v for v in history[column]]
        if any(map(math.isfinite, values)):
            line = Line(title, epochs, values, "pretrained")
            drawn.append((title, reporting_charts.line_chart(title, [line], "epoch")))
    return drawn


def _finetuning(history: Mapping[str, Any] | None) -> Markup:
    """The loss of every fit, both arms in one chart."""
    if not history:
        return Markup("")
    title = "Loss of each fit on its labels"
    lines = [
        Line(f"{fit['arm']} draw {fit['draw']}", fit["step"], fit["loss"], f"thin {fit['arm']}")
        for fit in history["fits"]
    ]
    return reporting_charts.line_chart(title, lines, "step", size=(680, 240))
