"""The gate: a challenger becomes champion only if it is better beyond noise, and safely so.

What is compared is what two ways of learning give, not two lucky models: all draws of labels of
both versions, on the very same test images, image by image. That the images are the same makes the
comparison far sharper than that of two accuracies with their own intervals. What a version's single
pretraining owes to chance is not seen: its draws share one encoder.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.evaluation.confidence_intervals import Interval
from tasks.promotion.champion_evaluation import evaluation_of, on_test_set
from tasks.promotion.rules import (
    Finding,
    against_champion,
    beats_scratch,
    compared,
    no_dead_class,
    recalls,
)
from tasks.promotion.verdict import (
    Outcome,
    Verdict,
    evidence_of,
    former_verdict,
    path_of,
    tags_of,
    write,
)
from tasks.registry import tags as registry_tags
from tasks.registry import transitions
from tasks.registry.aliases import place_of
from tasks.registry.move import Move
from tasks.registry.promotion_log import REJECTED
from tasks.registry.transitions import mend, set_tags
from tasks.settings.loading import load_params
from tasks.settings.schema import GateParams
from tasks.tracking import client as tracking_client

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion


def judge(root: str | Path, version: str, tracking_uri: str | None = None) -> Verdict:
    """Judges a version against the champion and moves it if it passes.

    Args:
        root: The checkout: its rules (params.yaml), and its test set if the champion was measured
            on another one.
        version: The challenger.
        tracking_uri: MLflow; see `client.tracking_uri_of`.

    Returns:
        The verdict, which is also a file, tags of the version and, if it moved, in the promotion
        log; the one of before, nothing written, where all that it rests on is as it was.

    Raises:
        TaskError: An evaluation is missing, MLflow does not answer, or it lacks the champion that
            the promotion log knows.
    """
    root, version = Path(root), str(version)
    uri = tracking_uri or tracking_client.tracking_uri_of(root)
    params = load_params(root / "params.yaml")
    name = params.register_.name
    with transitions.one_at_a_time(root, "the gate"), tracking_client.explained(uri) as client:
        # First: what broke off may be the promotion of this very version.
        mend(client, name, root)
        challenger = client.get_model_version(name, version)
        held = transitions.require_known_champion(client, name, root)
        champion = client.get_model_version(name, held) if held else None
        former = former_verdict(root, challenger)
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
            who = f"gate, run by {transitions.person(root)}"
            why = "; ".join(verdict.reasons)
            # The tags with the move: a version with them counts as judged, and is not judged again
            # by `instar sync`.
            wanted = Move(
                name, version, "champion", who, why, evidence_of(verdict), tags=tags_of(verdict)
            )
            transitions.move(wanted, root, tracking_uri, over=held)
        else:
            # Broken off between the tags, it must not be read with the outcome of before.
            set_tags(client, name, version, {registry_tags.GATE: ""})
            set_tags(client, name, version, tags_of(verdict))
    return verdict


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
    path = str(path_of(name, version))
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
    # A version that was registered by hand has no weights' hash, and equals no other version.
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
