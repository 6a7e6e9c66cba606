"""What people do with versions: promote and roll back."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.errors import TaskError
from tasks.promotion import gate
from tasks.promotion import verdict as promotion_verdict
from tasks.promotion.history import mend_model
from tasks.registry import manual_moves, promotion_log, transitions
from tasks.registry import tags as registry_tags
from tasks.registry.aliases import STAGES, Place, place_of, standing
from tasks.registry.move import Move
from tasks.registry.promotion_log import ROLLED_BACK, former_champions
from tasks.registry.transitions import mend
from tasks.settings.loading import load_params
from tasks.tracking import client as tracking_client
from tasks.tracking.model_versions import find_version

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

# The tag that names the flow run which waits for a decision on the version.
WAITING_RUN = "waiting_flow_run"


@dataclass(frozen=True)
class Decision:
    """What came of it.

    Attributes:
        name: The registered model.
        version: The version in question.
        outcome: 'moved', 'unchanged' (it stood there already), 'rejected' or 'refused'.
        stage: Where it stands now.
        reasons: The gate's, where it was asked.
        replaced: The version that gave way.
        flow_run: The Prefect flow run that waited for this decision.
    """

    name: str
    version: str
    outcome: str
    stage: str
    reasons: list[str] = field(default_factory=list)
    replaced: str | None = None
    flow_run: str | None = None


def promote(
    root: str | Path,
    reference: str,
    stage: str,
    reason: str = "",
    override: bool = False,
    tracking_uri: str | None = None,
) -> Decision:
    """Moves a version to a stage; into Production only if the gate agrees or is overridden.

    The gate's verdict counts if it was given against the present champion; else it is asked again.

    Args:
        root: The checkout, whose gate's rules and promotion log count.
        reference: `NAME@VERSION`.
        stage: 'Staging', 'Production' or 'Archived', in whatever case.
        reason: Why; needed for an override.
        override: Promote against the gate.
        tracking_uri: MLflow; see `client.tracking_uri_of`.

    Raises:
        TaskError: There is no such version or stage, it waits for a human, or another promotion was
            faster.
    """
    root, to = Path(root), _place(stage)
    if override and not reason:
        raise TaskError("--override goes against the gate: say why with --reason.")
    uri = tracking_uri or tracking_client.tracking_uri_of(root)
    who = transitions.person(root)
    with (
        transitions.one_at_a_time(root, f"a promotion of {reference}"),
        tracking_client.explained(uri) as client,
    ):
        lost = _lost(client, root, reference) if to == "archived" else None
        if lost is not None:
            return _strike(root, *lost, who, reason)
        version = found_and_mended(client, root, reference)
        name, number = version.name, str(version.version)
        champion = standing(client, name).get("champion")
        if place_of(client, name, number) == to and (to != "archived" or _archived(version)):
            signs = to == "challenger" or (to == "champion" and override)
            if signs and manual_moves.is_unsigned(name, number, root):
                return _sign(root, version, to, who, reason, uri)
            return Decision(name, number, "unchanged", STAGES[to])
        evidence: dict[str, Any] = {}
        tags: dict[str, str] = {}
        reasons: list[str] = []
        if to == "champion":
            transitions.require_known_champion(client, name, root)
            verdict = _verdict(root, client, uri, version, champion, override)
            if not verdict.promoted and not override:
                faster = _faster(client, version, champion)
                told = [faster, *verdict.reasons] if faster else verdict.reasons
                return Decision(name, number, "refused", stage_of(client, version), told)
            evidence, reasons = promotion_verdict.evidence_of(verdict), verdict.reasons
            if override:
                evidence["overridden"] = "; ".join(verdict.reasons)
                tags = {registry_tags.GATE: "overridden", promotion_log.REJECTED: ""}
            else:
                promotion_verdict.write(root, verdict)
                tags = promotion_verdict.tags_of(verdict)
            tags[WAITING_RUN] = ""
        why = reason or "; ".join(reasons) or f"moved to {STAGES[to]} by hand"
        over = champion if to == "champion" else transitions.WHOEVER
        transitions.move(
            Move(name, number, to, who, why, evidence, tags=tags), root, uri, over=over
        )
        replaced = champion if to == "champion" and champion != number else None
        waited = version.tags.get(WAITING_RUN) if to == "champion" else None
        return Decision(name, number, "moved", STAGES[to], reasons, replaced, waited)


def rollback(
    root: str | Path, name: str, reason: str = "", tracking_uri: str | None = None
) -> Decision:
    """Puts the Production version before the present one back, without asking the gate.

    The log is read like a pile: a promotion lays a version on top, a rollback takes the top off. So
    a second rollback goes one further back. What was rolled back is not promoted by the gate again.

    Raises:
        TaskError: No version was in Production before, or MLflow has none of them any more.
    """
    root = Path(root)
    uri = tracking_uri or tracking_client.tracking_uri_of(root)
    who = transitions.person(root)
    with (
        transitions.one_at_a_time(root, f"a rollback of {name}"),
        tracking_client.explained(uri) as client,
    ):
        mend_model(client, root, name)
        champion = standing(client, name).get("champion")
        known = {str(found.version) for found in client.search_model_versions(f"name = '{name}'")}
        before = former_champions(promotion_log.promotions(root), name)
        target = next((one for one in before if one in known and one != champion), None)
        if target is None:
            raise TaskError(
                f"nothing to roll back to: no version of {name} was in Production before "
                f"{f'version {champion}' if champion else 'now'} (`instar history {name}`)."
            )
        why = f"rolled back from version {champion}" if champion else "rolled back"
        why += f": {reason}" if reason else ""
        rejected = f"{who} rolled it back{f': {reason}' if reason else ''}"
        back = Move(
            name, target, "champion", who, why, {ROLLED_BACK: champion},
            tags={promotion_log.REJECTED: ""}, tags_of_replaced={promotion_log.REJECTED: rejected},
        )  # fmt: skip
        transitions.move(back, root, uri, over=champion)
    return Decision(name, target, "moved", STAGES["champion"], [], champion)


def _place(stage: str) -> Place:
    places = {in_words.lower(): place for place, in_words in STAGES.items()}
    if stage.lower() not in places:
        raise TaskError(f"{stage!r} is not a stage: it is {', '.join(STAGES.values())}.")
    return places[stage.lower()]


def found_and_mended(client: MlflowClient, root: Path, reference: str) -> ModelVersion:
    """The version, after a move that broke off was completed."""
    version = find_version(client, reference)
    mend(client, version.name, root)
    return find_version(client, f"{version.name}@{version.version}")


def _verdict(
    root: Path,
    client: MlflowClient,
    uri: str,
    version: ModelVersion,
    champion: str | None,
    override: bool,
) -> promotion_verdict.Verdict:
    """The gate's word on the version against the present champion."""
    found = promotion_verdict.recorded(root, version)
    name, number = version.name, str(version.version)
    if (
        found is not None
        and found.champion == champion
        and promotion_log.REJECTED not in version.tags
    ):
        if found.outcome == "waiting" and not override:
            raise TaskError(
                f"version {number} of {name} waits for a decision: `instar promote "
                f"{name}@{number} --approve --reason …`, or --reject."
            )
        if found.promoted or override:
            return found
    rules = load_params(root / "params.yaml").gate
    try:
        held = client.get_model_version(name, champion) if champion else None
        return gate.weigh(root, client, uri, rules, version, held)
    except TaskError as problem:
        if not override:
            if faster := _faster(client, version, champion):
                raise TaskError(f"{faster}; {problem}") from None
            raise
        # Against the gate it goes without its word.
        return promotion_verdict.Verdict(
            name, number, champion, "refused", [f"not judged: {problem}"]
        )


def _faster(client: MlflowClient, version: ModelVersion, champion: str | None) -> str | None:
    """Who was promoted since the version passed the gate against another champion."""
    before = version.tags.get("gate_champion")
    if champion is None or gate_of(version) != "promoted" or before == champion:
        return None
    tags = client.get_model_version(version.name, champion).tags
    by = f", promoted by {tags['moved_by']} at {tags['moved_at']}" if "moved_by" in tags else ""
    return f"version {champion} has become champion since its last verdict{by}"


def _lost(client: MlflowClient, root: Path, reference: str) -> tuple[str, str, str] | None:
    """Name, version and place of one that stands somewhere by the log, but MLflow has lost."""
    name, _, number = reference.rpartition("@")
    held = promotion_log.stood(promotion_log.promotions(root), name)
    place = next((place for place, version in held.items() if version == number), None)
    wanted = f"name = '{name}' and version_number = {number}"
    if place is None or client.search_model_versions(wanted):
        return None
    return name, number, place


def _strike(root: Path, name: str, version: str, place: str, who: str, reason: str) -> Decision:
    line = {
        "time": promotion_log.now(),
        "name": name,
        "version": version,
        "from": place,
        "to": "archived",
        "who": who,
        "why": reason or "MLflow has lost it",
        "evidence": {},
    }
    promotion_log.append(root, [line])
    return Decision(name, version, "moved", STAGES["archived"])


def _sign(
    root: Path, version: ModelVersion, to: Place, who: str, reason: str, uri: str
) -> Decision:
    """Logs who stands by a move that was made by hand in MLflow."""
    name, number = version.name, str(version.version)
    evidence, tags = {}, {}
    if to == "champion":
        evidence = {"overridden": "moved by hand in MLflow, without the gate"}
        tags = {registry_tags.GATE: "overridden", promotion_log.REJECTED: "", WAITING_RUN: ""}
    why = reason or "moved by hand in MLflow, and kept"
    transitions.move(Move(name, number, to, who, why, evidence, tags=tags), root, uri)
    return Decision(name, number, "moved", STAGES[to])


def _archived(version: ModelVersion) -> bool:
    return bool(version.current_stage == STAGES["archived"])


def stage_of(client: MlflowClient, version: ModelVersion) -> str:
    """Its stage now."""
    return str(client.get_model_version(version.name, str(version.version)).current_stage)


def gate_of(version: ModelVersion) -> str:
    """What the gate said of it."""
    return version.tags.get(registry_tags.GATE, "nothing yet")
