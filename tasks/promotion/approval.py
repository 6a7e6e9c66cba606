"""Versions that passed the gate and wait for a person: approve, reject, and who waits."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.errors import TaskError
from tasks.promotion import verdict as promotion_verdict
from tasks.promotion.decisions import WAITING_RUN, Decision, found_and_mended, gate_of, stage_of
from tasks.registry import promotion_log, transitions
from tasks.registry import tags as registry_tags
from tasks.registry.aliases import STAGES, Place, place_of, standing
from tasks.registry.move import Move
from tasks.tracking import client as tracking_client
from tasks.tracking.model_versions import find_version

if TYPE_CHECKING:
    from mlflow import MlflowClient


def decide(
    root: str | Path,
    reference: str,
    approve: bool,
    reason: str,
    who: str | None = None,
    tracking_uri: str | None = None,
) -> Decision:
    """Approves or rejects a version that passed the gate and waits for a human.

    A rejected one is archived and not promoted by the gate again, until somebody overrides.

    Args:
        root: The checkout whose promotion log is written.
        reference: `NAME@VERSION`.
        approve: Into Production, or into the archive.
        reason: Why.
        who: Who decides; git's user if None.
        tracking_uri: MLflow; see `client.tracking_uri_of`.

    Raises:
        TaskError: It does not wait, or another version has become champion since.
    """
    root = Path(root)
    uri = tracking_uri or tracking_client.tracking_uri_of(root)
    who = who or transitions.person(root)
    with (
        transitions.one_at_a_time(root, f"a decision on {reference}"),
        tracking_client.explained(uri) as client,
    ):
        version = found_and_mended(client, root, reference)
        name, number = version.name, str(version.version)
        verdict = promotion_verdict.recorded(root, version)
        if verdict is None or verdict.outcome != "waiting":
            raise TaskError(
                f"version {number} of {name} does not wait for anybody: it stands in "
                f"{stage_of(client, version)}, and the gate says {gate_of(version)} "
                f"(`instar models {name}`)."
            )
        flow_run = version.tags.get(WAITING_RUN)
        said = f"{'approved' if approve else 'rejected'} by {who}: {reason}"
        verdict = dataclasses.replace(verdict, reasons=[*verdict.reasons, said], place="archived")
        tags = {WAITING_RUN: ""}
        if approve:
            _require_same_champion(client, verdict)
            verdict = dataclasses.replace(verdict, outcome="promoted", place="champion")
        else:
            verdict = dataclasses.replace(verdict, outcome="refused")
            tags[promotion_log.REJECTED] = f"{who}: {reason}"
        to: Place = "champion" if approve else "archived"
        evidence = promotion_verdict.evidence_of(verdict)
        over = verdict.champion if approve else transitions.WHOEVER
        tags |= promotion_verdict.tags_of(verdict)
        transitions.move(
            Move(name, number, to, who, reason, evidence, tags=tags), root, uri, over=over
        )
        promotion_verdict.write(root, verdict)
    outcome = "moved" if approve else "rejected"
    gone = verdict.champion if approve else None
    return Decision(name, number, outcome, STAGES[to], verdict.reasons, gone, flow_run)


def note_waiting(
    root: str | Path, reference: str, flow_run: str, tracking_uri: str | None = None
) -> bool:
    """Notes on a version which flow run waits for the decision on it; False if that has fallen."""
    root = Path(root)
    uri = tracking_uri or tracking_client.tracking_uri_of(root)
    with (
        transitions.one_at_a_time(root, f"a note on {reference}"),
        tracking_client.explained(uri) as client,
    ):
        version = find_version(client, reference)
        if version.tags.get(registry_tags.GATE) != "waiting":
            return False
        client.set_model_version_tag(version.name, version.version, WAITING_RUN, flow_run)
    return True


def verdict_on(
    root: str | Path, reference: str, tracking_uri: str | None = None
) -> promotion_verdict.Verdict:
    """The last verdict on a version, with where it stands now.

    Raises:
        TaskError: There is no such version, or nobody judged it.
    """
    with tracking_client.explained(tracking_uri or tracking_client.tracking_uri_of(root)) as client:
        version = find_version(client, reference)
        found = promotion_verdict.recorded(root, version)
        if found is None:
            raise TaskError(f"{reference} was never judged: `instar run` judges.")
        place = place_of(client, version.name, str(version.version))
        return dataclasses.replace(found, place=place)


def _require_same_champion(client: MlflowClient, verdict: promotion_verdict.Verdict) -> None:
    champion = standing(client, verdict.name).get("champion")
    if champion != verdict.champion:
        raise TaskError(
            f"version {verdict.version} passed against version {verdict.champion}, but the "
            f"champion is {f'version {champion}' if champion else 'gone'} now: let the gate judge "
            f"again with `instar run`, or `instar promote {verdict.name}@{verdict.version} --to "
            "Production --override --reason …`."
        )
