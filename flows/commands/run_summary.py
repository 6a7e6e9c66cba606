"""How a run ends on the terminal: the numbers, in plain words, and what to type next."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from rich.console import Console

from flows.commands.tables import Column, show_table
from tasks.evaluation import label_draws

NO_INTERVAL = "one draw: no interval"
_PLACES = {
    "champion": "Production, @champion",
    "challenger": "Staging, @challenger",
    "archived": "Archived",
}
_VERDICTS = {
    "promoted": "promoted to champion",
    "waiting": "passed, and waits for you: gate.approval is human",
    "refused": "refused (exit status 3); the former champion, if any, stays",
    "same model": "it is the champion's very model, nothing moved",
}


def show(result: dict[str, Any], console: Console) -> None:
    """Print the summary of a run (`tasks.execution.retraining_run.Retraining.result`)."""
    metrics = result["metrics"]
    console.print()
    _show_table(metrics, console)
    console.print(verdict_in_words(metrics))
    registered, gate = result["registered"], result["gate"]
    said = "Registered:" if registered["created"] else "Nothing changed: this model already is"
    version = f"{registered['name']} version {registered['version']}"
    console.print(f"{said} {version} ({_PLACES[gate['place']]})", highlight=False)
    judged = "Gate, as before" if gate["repeated"] else "Gate"
    console.print(f"{judged}: {_VERDICTS[gate['outcome']]}", highlight=False)
    for reason in gate["reasons"]:
        console.print(f"  · {reason}", markup=False, highlight=False)
    if result["report"]:
        console.print(f"Report: {result['report']}", soft_wrap=True, markup=False)
    console.print("\nNext:")
    for command, what in next_commands(result):
        console.print(f"  [bold]{command}[/]  {what}", soft_wrap=True, highlight=False)


def verdict_in_words(metrics: dict[str, Any]) -> str:
    """Whether pretraining wins, and how sure that is."""
    gain = metrics["gain"]
    if gain["low"] is None:
        return (
            f"Whether pretraining wins is open: {100 * gain['mean']:+.1f} points "
            f"({NO_INTERVAL}); raise finetune.draws to find out."
        )
    mean, low, high = (100 * gain[key] for key in ("mean", "low", "high"))
    interval = f"95% interval {low:+.1f} to {high:+.1f} over {label_draws.repetitions(metrics)}"
    if low > 0:
        return f"Pretraining wins by {mean:.1f} points of accuracy ({interval})."
    if high < 0:
        return (
            f"Pretraining does not win here: it loses {-mean:.1f} points against the same learner "
            f"from scratch ({interval})."
        )
    return (
        f"Pretraining does not win here: {mean:+.1f} points is within the noise ({interval} "
        "includes zero)."
    )


def next_commands(result: dict[str, Any]) -> list[tuple[str, str]]:
    """What is useful to type after this run, with what it does."""
    commands = [("instar ui", "see curves, plots and the model in MLflow and the run in Prefect")]
    activate = Path(sys.prefix) / "bin" / "activate"
    if shutil.which("instar") is None and activate.is_file():
        shown = shlex.quote(os.path.relpath(activate))
        commands.insert(0, (f". {shown}", "so that your shell finds instar, dvc and this python"))
    registered = result["registered"]
    if result["gate"]["outcome"] == "waiting":
        decide = f"instar promote {registered['name']}@{registered['version']}"
        commands.append((f'{decide} --approve --reason "…"', "let it in; or --reject"))
    elif result["gate"]["outcome"] != "refused":
        uri = f"models:/{registered['name']}@champion"
        commands.append((_loading(uri), "load the model"))
    metrics = result["metrics"]
    more = 5 * metrics["label_fraction"]
    if metrics["gain"]["low"] is None:
        commands.append(("instar run -S finetune.draws=5", "see whether a gain is more than luck"))
    elif more <= 1 and not label_draws.same_labels(metrics):
        setting = f"finetune.label_fraction={more:.3g}"
        commands.append((f"instar run -S {setting}", "more labels; only what depends on it runs"))
    commands.append(('instar schedule --cron "0 3 * * *"', "retrain every night at three"))
    return commands


def _show_table(metrics: dict[str, Any], console: Console) -> None:
    share = f"{100 * metrics['label_fraction']:.3g}%"
    title = f"Test accuracy with {share} of the labels ({metrics['labels']:,} labels)"
    names = ("mean", "95% interval", "seeds" if label_draws.same_labels(metrics) else "draws")
    rows = []
    for arm, name in (("pretrained", "pretrained"), ("scratch", "same learner from scratch")):
        accuracy = metrics[arm]["accuracy"]
        interval = _interval(accuracy, _percent)
        rows.append([name, _percent(accuracy["mean"]), interval, str(accuracy["n"])])
    gain = metrics["gain"]
    rows.append(["gain", _points(gain["mean"]), _interval(gain, _points), ""])
    show_table(console, title, [Column(""), *(Column(name, right=True) for name in names)], rows)


def _interval(value: dict[str, Any], shown: Callable[[float], str]) -> str:
    if value["low"] is None:
        return NO_INTERVAL
    return f"{shown(value['low'])} … {shown(value['high'])}"


def _percent(share: float) -> str:
    return f"{100 * share:.2f}%"


def _points(gain: float) -> str:
    return f"{100 * gain:+.2f}"


def _loading(uri: str) -> str:
    """How to load a model in this checkout, by MLflow's own default address where that works.

    MLflow quotes the path of its default database, which SQLite does not decode, and decodes the
    path of a model that lies here.
    """
    here = str(Path.cwd())
    if "MLFLOW_TRACKING_URI" in os.environ or quote(here, safe="/~") == here:
        return f"python -c \"import mlflow; mlflow.pyfunc.load_model('{uri}')\""
    load = f"mlflow.pyfunc.load_model('{uri}', dst_path='{tempfile.gettempdir()}')"
    return f'MLFLOW_TRACKING_URI=sqlite:///mlflow.db python -c "import mlflow; {load}"'
