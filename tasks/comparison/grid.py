"""A comparison of settings: its cells, and what each of them leaves.

A variant is one choice of the settings that vary; a cell is one variant with one seed.
"""

from __future__ import annotations

import itertools
import json
import re
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tasks.errors import TaskError
from tasks.settings.schema import Params
from tasks.system.hashing import digest
from tasks.tracking.journal import journal_path, read_journal
from tasks.versioning.dvc import dvc_complaint, run_dvc

METHOD = "pretrain.method.name"
# A method's preset: what of pretraining suits it beside its own settings.
PRESET = "methods/{}"
SEEDS = ("pretrain.seed", "finetune.seed")
# What one process of a stage may take: torch alone, and a batch of small images.
_PROCESS_BYTES = 1 << 30


@dataclass(frozen=True)
class Cell:
    """One variant with one seed.

    Attributes:
        name: Of its DVC experiment; equal settings have equal names.
        varied: What makes the variant, setting to value as it was typed.
        seed: For pretraining and label draws alike.
        assignments: All that is set, as `instar set` takes it.
        presets: Merged before that.
    """

    name: str
    varied: dict[str, str]
    seed: int
    assignments: list[str]
    presets: tuple[str, ...] = ()


@dataclass(frozen=True)
class CellResult:
    """What came of a cell.

    Attributes:
        reason: Why it failed; None if it did not.
        stages: Stage to 'ran' or 'cached'.
        seconds: What its stages took when they were computed, by the journals; None if unknown.
        evidence: Folder with its metrics.json and predictions.parquet.
        experiment: Its DVC experiment; None where DVC could not save it.
        notes: What whoever watches should know.
        data: What `prepare` understood of the data, line by line.
    """

    cell: Cell
    reason: str | None = None
    stages: dict[str, str] = field(default_factory=dict)
    seconds: float | None = None
    evidence: Path | None = None
    experiment: str | None = None
    notes: tuple[str, ...] = ()
    data: tuple[str, ...] = ()


def grid(
    varied: Sequence[str], seeds: int, fixed: Sequence[str] = (), presets: Collection[str] = ()
) -> list[Cell]:
    """All combinations of the values, each with the seeds 0 to `seeds` - 1, variant by variant.

    Args:
        varied: Each `group.key=value,value`; a comma within brackets or quotes parts nothing.
        seeds: How many.
        fixed: `group.key=value` that all cells share.
        presets: Those there are; methods that vary get their own among them.

    Raises:
        TaskError: A setting is not a list of this kind, repeats a value, or is given twice.
    """
    choices: dict[str, list[str]] = {}
    for text in varied:
        key, equals, listed = text.partition("=")
        key, values = key.strip(), _values(listed)
        if not equals or not key or not all(values):
            raise TaskError(f"{text!r} is not KEY=VALUE,VALUE, as in pretrain.epochs=5,20.")
        if len(set(values)) < len(values):
            raise TaskError(f"{key} has a value twice in {listed!r}: name each once.")
        if key in choices or key in SEEDS:
            how = "by --seeds" if key in SEEDS else "once, with all its values"
            raise TaskError(f"{key} is varied {how}.")
        choices[key] = values
    cells = []
    for chosen in itertools.product(*choices.values()):
        variant = dict(zip(choices, chosen, strict=True))
        own_preset = PRESET.format(variant.get(METHOD))
        merged = (own_preset,) if own_preset in presets else ()
        for seed in range(seeds):
            own = [f"{key}={value}" for key, value in variant.items()]
            assignments = [*fixed, *own, *(f"{key}={seed}" for key in SEEDS)]
            name = _name(variant, seed, [*merged, *assignments])
            cells.append(Cell(name, variant, seed, assignments, merged))
    return cells


def short(key: str) -> str:
    """The last word of a setting's name."""
    return "method" if key == METHOD else key.rpartition(".")[2]


def fitting_at_once(params: Sequence[Params], cores: int, memory: int) -> int:
    """How many cells with these settings fit this machine side by side; at least 1.

    Args:
        params: Those of every cell.
        cores: Processors at hand.
        memory: Bytes that are free.
    """
    busiest = max(
        max(
            p.pretrain.threads + p.pretrain.workers,
            p.finetune.threads * p.finetune.workers,
            p.evaluate.threads,
        )
        for p in params
    )
    processes = max(max(1 + p.pretrain.workers, 1 + p.finetune.workers) for p in params)
    return max(1, min(len(params), cores // busiest, memory // (processes * _PROCESS_BYTES)))


def save_experiment(root: Path, name: str) -> str | None:
    """Save the workspace as a DVC experiment on its commit; one of that name gives way.

    Returns:
        None, or DVC's complaint.
    """
    # The caller holds other cells off: DVC notes what it saves under refs that worktrees share.
    answer = run_dvc(["exp", "save", "--force", "--name", name], root)
    return None if answer.returncode == 0 else dvc_complaint(answer.stdout)


def keep_evidence(root: Path, folder: Path) -> Path:
    """Copy what a comparison needs out of a workspace that will be gone."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("metrics.json", "predictions.parquet"):
        shutil.copyfile(root / "artifacts" / "evaluate" / name, folder / name)
    return folder


def computed_seconds(root: Path, keys: Mapping[str, str]) -> float | None:
    """What stages took when they were computed, whether or not they came from the cache now.

    Args:
        root: The workspace.
        keys: Stage to stage key.

    Returns:
        The sum, that of runs which were killed and resumed included; None if a journal lacks.
    """
    spans = [_last_span(journal_path(root, stage, key)) for stage, key in keys.items()]
    return None if None in spans else sum(span for span in spans if span is not None)


def _values(listed: str) -> list[str]:
    """Parts at commas, but not within brackets or quotes."""
    parts, depth, quote = [""], 0, ""
    for character in listed:
        if quote:
            quote = "" if character == quote else quote
        elif character in "\"'":
            quote = character
        elif character in "[{":
            depth += 1
        elif character in "]}":
            depth -= 1
        if character == "," and not depth and not quote:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts]


def _name(variant: Mapping[str, str], seed: int, settings: Sequence[str]) -> str:
    words = [value if key == METHOD else f"{short(key)}-{value}" for key, value in variant.items()]
    # git's rules for refs, and more.
    plain = re.sub(r"[^A-Za-z0-9]+", "-", "-".join([*words, f"seed-{seed}"])).strip("-")
    return f"compare-{plain[:60]}-{digest(json.dumps(settings).encode())[:6]}"


def _last_span(path: Path) -> float | None:
    """Seconds of the last computation that was finished, pauses between resumes left out."""
    total, begun, last, finished = 0.0, None, 0, None
    for event in read_journal(path)[0]:
        if event["event"] == "start":
            # One without an end was killed: its last word tells how far it came.
            total = 0.0 if begun is None else total + (last - begun) / 1000
            begun = event["time"]
        last = event["time"]
        if event["event"] == "end" and begun is not None:
            total += (last - begun) / 1000
            done = event["status"] == "finished"
            finished = total if done else finished
            total, begun = (0.0 if done else total), None
    return finished
