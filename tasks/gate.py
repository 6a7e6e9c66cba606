"""The gate: a challenger becomes champion only if it is better beyond noise, and safely so.

What is compared is what two ways of learning give, not two lucky models: all draws of labels of
both versions, on the very same test images, image by image. That the images are the same makes the
comparison far sharper than that of two accuracies with their own intervals. What a version's single
pretraining owes to chance is not seen: its draws share one encoder.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

from tasks import registry, tracking
from tasks.champion import evaluation_of, on_test_set
from tasks.intervals import Interval
from tasks.moves import mend, set_tags
from tasks.params import GateParams, load_params
from tasks.promotion_log import REJECTED
from tasks.rules import (
    Finding,
    against_champion,
    beats_scratch,
    compared,
    no_dead_class,
    recalls,
)
from tasks.standing import Place, place_of

if TYPE_CHECKING:
    from mlflow import MlflowClient
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


def judge(root: str | Path, version: str, tracking_uri: str | None = None) -> Verdict:
    """Judges a version against the champion and moves it if it passes.

    Args:
        root: The checkout: its rules (params.yaml), and its test set if the champion was measured
            on another one.
        version: The challenger.
        tracking_uri: MLflow; see `tracking.tracking_uri_of`.

    Returns:
        The verdict, which is also a file, tags of the version and, if it moved, in the promotion
        log; the one of before, nothing written, where all that it rests on is as it was.

    Raises:
        TaskError: An evaluation is missing, MLflow does not answer, or it lacks the champion that
            the promotion log knows.
    """
    root, version = Path(root), str(version)
    uri = tracking_uri or tracking.tracking_uri_of(root)
    params = load_params(root / "params.yaml")
    name = params.register_.name
    with registry.one_at_a_time(root, "the gate"), registry.explained(uri) as client:
        # First: what broke off may be the promotion of this very version.
        mend(client, name, root)
        challenger = client.get_model_version(name, version)
        held = registry.require_known_champion(client, name, root)
        champion = client.get_model_version(name, held) if held else None
        former = _former(root, challenger)
        if held == version and former and former.promoted:
            return dataclasses.replace(former, outcome="same model", repeated=True)
        verdict = weigh(root, client, uri, params.gate, challenger, champion)
        if verdict.promoted and params.gate.approval == "human":
            verdict = dataclasses.replace(verdict, outcome="waiting")
        place = "champion" if verdict.promoted else place_of(client, name, version)
        verdict = dataclasses.replace(verdict, place=place)
        if verdict == former and not verdict.promoted:
            return dataclasses.replace(verdict, repeated=True)
        write(root, verdict)
        if verdict.promoted:
            who = f"gate, run by {registry.person(root)}"
            why = "; ".join(verdict.reasons)
            # The tags with the move: what bears them counts as judged, and is not looked at again
            # by `instar sync`.
            registry.move(
                name, version, "champion", who, why, evidence_of(verdict), root, tracking_uri,
                tags=tags_of(verdict), over=held,
            )  # fmt: skip
        else:
            # Broken off amid the tags, it must not be read with the outcome of before.
            set_tags(client, name, version, {registry.GATE: ""})
            set_tags(client, name, version, tags_of(verdict))
    return verdict


def recorded(root: str | Path, version: ModelVersion) -> Verdict | None:
    """The version's last verdict: this checkout's file, else what its tags tell of it."""
    found = _former(Path(root), version)
    tags = version.tags
    if found is not None or tags.get(registry.GATE) not in get_args(Outcome):
        return found
    outcome = cast(Outcome, tags[registry.GATE])
    value = {part: _number(tags.get(f"gate_gain_{part}")) for part in _PARTS}
    gain = None
    if value["mean"] is not None:
        gain = Interval(value["mean"], value["low"], value["high"], int(value["n"] or 0))
    reasons = tags.get("gate_reasons", "").split("; ")
    name, number = version.name, str(version.version)
    path = str(_path(name, number))
    return Verdict(name, number, tags.get("gate_champion"), outcome, reasons, gain, path=path)


def evidence_of(verdict: Verdict) -> dict[str, Any]:
    """What a line of the promotion log says of it."""
    return {"verdict": verdict.path or None, "gain": verdict.gain and vars(verdict.gain)}


def weigh(
    root: Path,
    client: MlflowClient,
    uri: str,
    rules: GateParams,
    challenger: ModelVersion,
    champion: ModelVersion | None,
) -> Verdict:
    """What the rules say of a challenger against a champion; moves and writes nothing.

    Args:
        root: The checkout whose test set is shown to a champion that was measured on another.
        client: MLflow.
        uri: Its address.
        rules: The gate's.
        challenger: The version that wants to be champion.
        champion: The present one, if there is one.

    Raises:
        TaskError: An evaluation is missing.
    """
    name, version = challenger.name, str(challenger.version)
    against = str(champion.version) if champion else None
    path = str(_path(name, version))
    if champion and (same := _same_model(challenger, champion)):
        return Verdict(name, version, against, "same model", [same], path=path)
    ours = evaluation_of(client, challenger)
    found = [beats_scratch(ours.metrics)] if rules.require_gain else []
    if REJECTED in challenger.tags:
        found.insert(0, Finding(False, f"rejected by a human: {challenger.tags[REJECTED]}"))
    gain: Interval | None = None
    change: dict[str, float] = {}
    if champion is None:
        found.append(no_dead_class(recalls(ours.labels, ours.registered_right)))
    else:
        theirs = evaluation_of(client, champion)
        tested = on_test_set(root, client, uri, challenger, champion, ours, theirs)
        if tested.counted.any():
            same_draws = tested.measured.draws is None and _same_draws(challenger, champion)
            gain, change = compared(ours, tested, same_draws)
        found += against_champion(rules, str(against), ours, theirs, tested, gain, change)
    outcome: Outcome = "promoted" if all(finding.holds for finding in found) else "refused"
    reasons = [*map(str, found)]
    return Verdict(name, version, against, outcome, reasons, gain, change, path=path)


def _same_model(challenger: ModelVersion, champion: ModelVersion) -> str | None:
    """Why there is nothing to compare; None if there is."""
    version, against = str(challenger.version), str(champion.version)
    if version == against:
        return f"version {version} is the champion already"
    # A version that was registered by hand has no weights' hash, and is nobody's twin.
    if champion.tags.get("weights") != challenger.tags.get("weights", "none"):
        return None
    same = f"version {version} has the very weights of the champion, version {against}"
    ours, theirs = _abstains(challenger), _abstains(champion)
    if ours == theirs:
        return same
    return (
        f"{same}, but {ours}, whereas the champion {theirs}, and the gate compares best classes "
        f"only: if you want that, `instar promote {challenger.name}@{version} --to Production "
        "--override --reason …`"
    )


def _abstains(version: ModelVersion) -> str:
    """When a version abstains, in words; one of before there was such a thing never does."""
    below = version.tags.get("abstains_below", "never")
    words = {"never": "never abstains", "none": "abstains from every image"}
    return words.get(below, f"abstains below a confidence of {below}")


def _same_draws(challenger: ModelVersion, champion: ModelVersion) -> bool:
    """Whether both learned from the same labels of the same data, draw by draw."""
    ours, theirs = challenger.tags, champion.tags
    # A version of before they were noted has none.
    return "label_draws" in ours and all(
        ours.get(key) == theirs.get(key) for key in ("label_draws", "data_version")
    )


def _number(text: str | None) -> float | None:
    return float(text) if text else None


def _path(name: str, version: str) -> Path:
    return VERDICTS / f"{name}-v{version}.json"


def _former(root: Path, version: ModelVersion) -> Verdict | None:
    """The version's verdict of before; None if this checkout has none that it can read."""
    try:
        path = root / _path(version.name, str(version.version))
        content = json.loads(path.read_text(encoding="utf-8"))
        del content["promoted"]
        gain = content.pop("gain")
        verdict = Verdict(**content, gain=gain and Interval(**gain))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    # Another checkout may have judged since; and after a loss of MLflow's database the file may be
    # of another version with this number.
    tagged = version.tags.get(registry.GATE), version.tags.get("gate_champion")
    return verdict if tagged == (verdict.outcome, verdict.champion) else None


def write(root: str | Path, verdict: Verdict) -> None:
    """Puts it into its file."""
    path = Path(root) / verdict.path
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {**dataclasses.asdict(verdict), "promoted": verdict.promoted}
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def tags_of(verdict: Verdict) -> dict[str, str]:
    """The tags that tell of it, none of another verdict left beside them."""
    tags = {"gate_reasons": "; ".join(verdict.reasons), "gate_champion": verdict.champion or ""}
    for part in _PARTS:
        value = getattr(verdict.gain, part, None)
        tags[f"gate_gain_{part}"] = "" if value is None else f"{value:.6f}"
    # The last: what bears it counts as judged.
    return {**tags, registry.GATE: verdict.outcome}
