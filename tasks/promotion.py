"""What people do with versions: promote, approve, reject, roll back; and what they ask of them."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks import by_hand, gate, promotion_log, registry, tracking
from tasks.errors import TaskError
from tasks.moves import mend
from tasks.params import load_params
from tasks.standing import STAGES, Place, place_of, standing
from tasks.versions import find_version

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

# The evidence of a line that took a champion back to one before.
ROLLED_BACK = "rolled_back"
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

    The gate's verdict counts if it was given against the present champion; else it is asked anew.

    Args:
        root: The checkout, whose gate's rules and promotion log count.
        reference: `NAME@VERSION`.
        stage: 'Staging', 'Production' or 'Archived', in whatever case.
        reason: Why; needed for an override.
        override: Promote against the gate.
        tracking_uri: MLflow; see `tracking.tracking_uri_of`.

    Raises:
        TaskError: There is no such version or stage, it waits for a human, or another promotion was
            faster.
    """
    root, to = Path(root), _place(stage)
    if override and not reason:
        raise TaskError("--override goes against the gate: say why with --reason.")
    uri = tracking_uri or tracking.tracking_uri_of(root)
    who = registry.person(root)
    with (
        registry.one_at_a_time(root, f"a promotion of {reference}"),
        registry.explained(uri) as client,
    ):
        lost = _lost(client, root, reference) if to == "archived" else None
        if lost is not None:
            return _strike(root, *lost, who, reason)
        version = _found(client, root, reference)
        name, number = version.name, str(version.version)
        champion = standing(client, name).get("champion")
        if place_of(client, name, number) == to and (to != "archived" or _archived(version)):
            signs = to == "challenger" or (to == "champion" and override)
            if signs and by_hand.is_unsigned(name, number, root):
                return _sign(root, version, to, who, reason, uri)
            return Decision(name, number, "unchanged", STAGES[to])
        evidence: dict[str, Any] = {}
        tags: dict[str, str] = {}
        reasons: list[str] = []
        if to == "champion":
            registry.require_known_champion(client, name, root)
            verdict = _verdict(root, client, uri, version, champion, override)
            if not verdict.promoted and not override:
                faster = _faster(client, version, champion)
                told = [faster, *verdict.reasons] if faster else verdict.reasons
                return Decision(name, number, "refused", _stage_of(client, version), told)
            evidence, reasons = gate.evidence_of(verdict), verdict.reasons
            if override:
                evidence["overridden"] = "; ".join(verdict.reasons)
                tags = {registry.GATE: "overridden", promotion_log.REJECTED: ""}
            else:
                gate.write(root, verdict)
                tags = gate.tags_of(verdict)
            tags[WAITING_RUN] = ""
        why = reason or "; ".join(reasons) or f"moved to {STAGES[to]} by hand"
        over = champion if to == "champion" else registry.WHOEVER
        registry.move(name, number, to, who, why, evidence, root, uri, tags=tags, over=over)
        replaced = champion if to == "champion" and champion != number else None
        waited = version.tags.get(WAITING_RUN) if to == "champion" else None
        return Decision(name, number, "moved", STAGES[to], reasons, replaced, waited)


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
        tracking_uri: MLflow; see `tracking.tracking_uri_of`.

    Raises:
        TaskError: It does not wait, or another version has become champion since.
    """
    root = Path(root)
    uri = tracking_uri or tracking.tracking_uri_of(root)
    who = who or registry.person(root)
    with (
        registry.one_at_a_time(root, f"a decision on {reference}"),
        registry.explained(uri) as client,
    ):
        version = _found(client, root, reference)
        name, number = version.name, str(version.version)
        verdict = gate.recorded(root, version)
        if verdict is None or verdict.outcome != "waiting":
            raise TaskError(
                f"version {number} of {name} does not wait for anybody: it stands in "
                f"{_stage_of(client, version)}, and the gate says {_gate(version)} "
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
        evidence = gate.evidence_of(verdict)
        over = verdict.champion if approve else registry.WHOEVER
        tags |= gate.tags_of(verdict)
        registry.move(name, number, to, who, reason, evidence, root, uri, tags=tags, over=over)
        gate.write(root, verdict)
    outcome = "moved" if approve else "rejected"
    gone = verdict.champion if approve else None
    return Decision(name, number, outcome, STAGES[to], verdict.reasons, gone, flow_run)


def note_waiting(
    root: str | Path, reference: str, flow_run: str, tracking_uri: str | None = None
) -> bool:
    """Notes on a version which flow run waits for the decision on it; False if that has fallen."""
    root = Path(root)
    uri = tracking_uri or tracking.tracking_uri_of(root)
    with registry.one_at_a_time(root, f"a note on {reference}"), registry.explained(uri) as client:
        version = find_version(client, reference)
        if version.tags.get(registry.GATE) != "waiting":
            return False
        client.set_model_version_tag(version.name, version.version, WAITING_RUN, flow_run)
    return True


def verdict_on(root: str | Path, reference: str, tracking_uri: str | None = None) -> gate.Verdict:
    """The last verdict on a version, with where it stands now.

    Raises:
        TaskError: There is no such version, or nobody judged it.
    """
    with registry.explained(tracking_uri or tracking.tracking_uri_of(root)) as client:
        version = find_version(client, reference)
        found = gate.recorded(root, version)
        if found is None:
            raise TaskError(f"{reference} was never judged: `instar run` judges.")
        place = place_of(client, version.name, str(version.version))
        return dataclasses.replace(found, place=place)


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
    uri = tracking_uri or tracking.tracking_uri_of(root)
    who = registry.person(root)
    with registry.one_at_a_time(root, f"a rollback of {name}"), registry.explained(uri) as client:
        _mend(client, root, name)
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
        registry.move(
            name, target, "champion", who, why, {ROLLED_BACK: champion}, root, uri, over=champion,
            tags={promotion_log.REJECTED: ""}, tags_of_replaced={promotion_log.REJECTED: rejected},
        )  # fmt: skip
    return Decision(name, target, "moved", STAGES["champion"], [], champion)


def former_champions(lines: Iterable[Mapping[str, Any]], name: str) -> list[str]:
    """The versions that a rollback would bring back, the next one first."""
    pile: list[str] = []
    vacant = False
    for line in lines:
        if line["name"] != name:
            continue
        version = line["version"]
        if line["to"] == "champion":
            if ROLLED_BACK in line["evidence"] and version in pile:
                while pile[-1] != version:
                    pile.pop()
            elif pile[-1:] != [version]:
                pile.append(version)
            vacant = False
        elif line["from"] == "champion" and not line["why"].startswith(promotion_log.REPLACED):
            # Withdrawn by hand: not what anybody wants back.
            pile = pile[:-1]
            vacant = True
    return pile[::-1] if vacant else pile[-2::-1]


def versions(root: str | Path, name: str | None = None, uri: str | None = None) -> dict[str, Any]:
    """All versions of a model, newest first, as plain JSON; a move that broke off is completed.

    Args:
        root: The checkout.
        name: The registered model; the checkout's own if None.
        uri: MLflow; see `tracking.tracking_uri_of`.

    Raises:
        TaskError: There is no such model.
    """
    root = Path(root)
    name = name or load_params(root / "params.yaml").register_.name
    with (
        registry.one_at_a_time(root, f"a list of the versions of {name}"),
        registry.explained(uri or tracking.tracking_uri_of(root)) as client,
    ):
        _mend(client, root, name)
        aliases: dict[str, list[str]] = {}
        for alias, version in sorted(client.get_registered_model(name).aliases.items()):
            aliases.setdefault(str(version), []).append(alias)
        unsorted = client.search_model_versions(f"name = '{name}'")
        found = sorted(unsorted, key=lambda version: -int(version.version))
        moved = {
            line["version"]: line
            for line in promotion_log.promotions(root)
            if line["name"] == name
        }  # fmt: skip
        listed = [
            _described(version, aliases.get(str(version.version), []), moved) for version in found
        ]
    return {"model": name, "versions": listed}


def history(root: str | Path, name: str, at: str | None = None) -> dict[str, Any]:
    """The moves of a model from the log, oldest first; with `at`, who stood where then.

    Args:
        root: The checkout.
        name: The registered model.
        at: A moment (ISO 8601, UTC unless it says otherwise) or a day: then all who stood there at
            any time of that day.

    Raises:
        TaskError: The log knows no such model or cannot be believed, or `at` is no date.
    """
    lines = [line for line in promotion_log.promotions(root) if line["name"] == name]
    if not lines:
        raise TaskError(
            f"the promotion log has no line of {name!r}: `instar models` lists what MLflow has."
        )
    _say_unlogged(root, name)
    if at is None:
        return {"model": name, "moves": lines}
    begin, end = _window(at)
    stages = {
        STAGES[place]: _holders(lines, place, begin, end)
        for place in ("champion", "challenger")
    }  # fmt: skip
    return {"model": name, "from": begin, "to": end, **stages}


def _say_unlogged(root: str | Path, name: str) -> None:
    """Says where MLflow stands otherwise than the log, if it is there to ask."""
    uri = tracking.tracking_uri_of(root)
    file = uri.removeprefix("sqlite:///")
    if file != uri and not Path(file).exists():
        return  # MLflow would make an empty one
    with contextlib.suppress(TaskError), registry.explained(uri) as client:
        if client.search_registered_models(f"name = '{name}'"):
            by_hand.say(by_hand.differences(client, name, root))


def _place(stage: str) -> Place:
    places = {in_words.lower(): place for place, in_words in STAGES.items()}
    if stage.lower() not in places:
        raise TaskError(f"{stage!r} is no stage: it is {', '.join(STAGES.values())}.")
    return places[stage.lower()]


def _found(client: MlflowClient, root: Path, reference: str) -> ModelVersion:
    version = find_version(client, reference)
    mend(client, version.name, root)
    return find_version(client, f"{version.name}@{version.version}")


def _mend(client: MlflowClient, root: Path, name: str) -> None:
    if not client.search_registered_models(f"name = '{name}'"):
        names = ", ".join(model.name for model in client.search_registered_models())
        has = f"it has {names}" if names else "it has none yet: `instar run` registers the first"
        raise TaskError(f"MLflow has no model {name!r}: {has}.")
    logged = any(line["name"] == name for line in promotion_log.promotions(root))
    # Others' models stand where others put them.
    if logged or name == load_params(root / "params.yaml").register_.name:
        mend(client, name, root)


def _verdict(
    root: Path,
    client: MlflowClient,
    uri: str,
    version: ModelVersion,
    champion: str | None,
    override: bool,
) -> gate.Verdict:
    """The gate's word on the version against the present champion."""
    found = gate.recorded(root, version)
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
        return gate.Verdict(name, number, champion, "refused", [f"not judged: {problem}"])


def _faster(client: MlflowClient, version: ModelVersion, champion: str | None) -> str | None:
    """Who was promoted since the version passed the gate against another champion."""
    before = version.tags.get("gate_champion")
    if champion is None or _gate(version) != "promoted" or before == champion:
        return None
    tags = client.get_model_version(version.name, champion).tags
    by = f", promoted by {tags['moved_by']} at {tags['moved_at']}" if "moved_by" in tags else ""
    return f"version {champion} has become champion since its last verdict{by}"


def _require_same_champion(client: MlflowClient, verdict: gate.Verdict) -> None:
    champion = standing(client, verdict.name).get("champion")
    if champion != verdict.champion:
        raise TaskError(
            f"version {verdict.version} passed against version {verdict.champion}, but the "
            f"champion is {f'version {champion}' if champion else 'gone'} now: let the gate judge "
            f"anew with `instar run`, or `instar promote {verdict.name}@{verdict.version} --to "
            "Production --override --reason …`."
        )


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
        tags = {registry.GATE: "overridden", promotion_log.REJECTED: "", WAITING_RUN: ""}
    why = reason or "moved by hand in MLflow, and kept"
    registry.move(name, number, to, who, why, evidence, root, uri, tags=tags)
    return Decision(name, number, "moved", STAGES[to])


def _archived(version: ModelVersion) -> bool:
    return bool(version.current_stage == STAGES["archived"])


def _stage_of(client: MlflowClient, version: ModelVersion) -> str:
    return str(client.get_model_version(version.name, str(version.version)).current_stage)


def _gate(version: ModelVersion) -> str:
    return version.tags.get(registry.GATE, "nothing yet")


def _described(
    version: ModelVersion, aliases: list[str], moved: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    tags = version.tags
    line = moved.get(str(version.version), {})
    created = datetime.fromtimestamp(version.creation_timestamp / 1000, UTC)
    return {
        "version": str(version.version),
        "stage": version.current_stage,
        "aliases": aliases,
        "accuracy": _interval(tags, "accuracy"),
        "gain": _interval(tags, "gain"),
        "test_set": tags.get("test_digest"),
        "gate": tags.get(registry.GATE),
        "gate_champion": tags.get("gate_champion"),
        "rejected": tags.get(promotion_log.REJECTED),
        "created": created.isoformat(timespec="seconds"),
        "age_seconds": int((datetime.now(UTC) - created).total_seconds()),
        "moved_by": tags.get("moved_by", line.get("who")),
        "moved_at": tags.get("moved_at", line.get("time")),
        "moved_why": tags.get("moved_why", line.get("why")),
    }


def _interval(tags: Mapping[str, str], name: str) -> dict[str, float | None] | None:
    if f"{name}_mean" not in tags:
        return None
    parts = {part: tags.get(f"{name}_{part}") for part in ("mean", "low", "high")}
    return {part: None if value is None else float(value) for part, value in parts.items()}


def _window(at: str) -> tuple[str, str]:
    """Begin and end in the log's own way of writing times."""
    try:
        if len(at) == len("2026-01-31"):
            day = date.fromisoformat(at)
            begin = datetime(day.year, day.month, day.day, tzinfo=UTC)
            end = begin + timedelta(days=1, seconds=-1)
        else:
            given = datetime.fromisoformat(at)
            begin = end = (given if given.tzinfo else given.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise TaskError(
            f"{at!r} is no date: write 2026-01-31, or 2026-01-31T13:00:00 (UTC)."
        ) from None
    form = "%Y-%m-%dT%H:%M:%SZ"
    return begin.strftime(form), end.strftime(form)


def _holders(
    lines: list[dict[str, Any]], place: str, begin: str, end: str
) -> list[dict[str, str | None]]:
    """Who stood on a place between two moments, each with when it came and went."""
    found: list[dict[str, str | None]] = []
    for number, line in enumerate(lines, 1):
        held = promotion_log.stood(lines[:number], line["name"]).get(place)
        last = found[-1] if found and found[-1]["until"] is None else None
        if last is not None and last["version"] == held:
            continue
        if last is not None:
            last["until"] = line["time"]
        if held is not None:
            found.append({"version": held, "since": line["time"], "until": None})
    return [
        one for one in found
        if str(one["since"]) <= end and (one["until"] is None or one["until"] > begin)
        and one["since"] != one["until"]
    ]  # fmt: skip
