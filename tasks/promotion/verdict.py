"""What the gate decided on a version: as a file and as tags."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

from tasks.evaluation.confidence_intervals import Interval
from tasks.registry import tags as registry_tags
from tasks.registry.aliases import Place

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion


VERDICTS = Path(".instar") / "verdicts"
Outcome = Literal["promoted", "waiting", "refused", "same model", "overridden"]
# Of the gain, each in a tag of its own.
_PARTS = ("mean", "low", "high", "n")


@dataclass(frozen=True)
class Verdict:
    """What the gate decided, and why.

    Attributes:
        name: The registered model.
        version: The challenger.
        champion: The version it was measured against; None if there was none.
        outcome: 'promoted', 'waiting' (it passed, and a human decides), 'refused', 'same model' or
            'overridden' (a human promoted it, whatever the rules found).
        reasons: Every rule and what it found, in plain words behind `pass: ` or `FAIL: `.
        gain: Over the champion; None without one.
        class_change: Change of each class's recall against the champion.
        place: Where the version stands after this.
        path: The file that holds this.
        repeated: The reasons are those of before, as nothing changed for this version since.
    """

    name: str
    version: str
    champion: str | None
    outcome: Outcome
    reasons: list[str]
    gain: Interval | None = None
    class_change: dict[str, float] = field(default_factory=dict)
    place: Place = "challenger"
    path: str = ""
    repeated: bool = False

    @property
    def promoted(self) -> bool:
        """Whether the challenger is now champion."""
        return self.outcome == "promoted"


def recorded(root: str | Path, version: ModelVersion) -> Verdict | None:
    """The version's last verdict: this checkout's file, else what its tags say of it."""
    found = former_verdict(Path(root), version)
    tags = version.tags
    if found is not None or tags.get(registry_tags.GATE) not in get_args(Outcome):
        return found
    outcome = cast(Outcome, tags[registry_tags.GATE])
    value = {part: _number(tags.get(f"gate_gain_{part}")) for part in _PARTS}
    gain = None
    if value["mean"] is not None:
        gain = Interval(value["mean"], value["low"], value["high"], int(value["n"] or 0))
    reasons = tags.get("gate_reasons", "").split("; ")
    name, number = version.name, str(version.version)
    path = str(path_of(name, number))
    return Verdict(name, number, tags.get("gate_champion"), outcome, reasons, gain, path=path)


def evidence_of(verdict: Verdict) -> dict[str, Any]:
    """What a line of the promotion log says of it."""
    return {"verdict": verdict.path or None, "gain": verdict.gain and vars(verdict.gain)}


def _number(text: str | None) -> float | None:
    return float(text) if text else None


def path_of(name: str, version: str) -> Path:
    """Where a version's verdict lies, within the checkout."""
    return VERDICTS / f"{name}-v{version}.json"


def former_verdict(root: Path, version: ModelVersion) -> Verdict | None:
    """The version's verdict of before; None if this checkout has none that it can read."""
    try:
        path = root / path_of(version.name, str(version.version))
        content = json.loads(path.read_text(encoding="utf-8"))
        del content["promoted"]
        gain = content.pop("gain")
        verdict = Verdict(**content, gain=gain and Interval(**gain))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    # Another checkout may have judged since; and after a loss of MLflow's database the file may be
    # of another version with this number.
    tagged = version.tags.get(registry_tags.GATE), version.tags.get("gate_champion")
    return verdict if tagged == (verdict.outcome, verdict.champion) else None


def write(root: str | Path, verdict: Verdict) -> None:
    """Puts it into its file."""
    path = Path(root) / verdict.path
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {**dataclasses.asdict(verdict), "promoted": verdict.promoted}
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def tags_of(verdict: Verdict) -> dict[str, str]:
    """The tags that record it, none of another verdict left beside them."""
    tags = {"gate_reasons": "; ".join(verdict.reasons), "gate_champion": verdict.champion or ""}
    for part in _PARTS:
        value = getattr(verdict.gain, part, None)
        tags[f"gate_gain_{part}"] = "" if value is None else f"{value:.6f}"
    # The last: a version with it counts as judged.
    return {**tags, registry_tags.GATE: verdict.outcome}
