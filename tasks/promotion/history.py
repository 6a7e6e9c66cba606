"""The versions of a model, and who stood where and when."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.errors import TaskError
from tasks.registry import manual_moves, promotion_log, transitions
from tasks.registry import tags as registry_tags
from tasks.registry.aliases import STAGES
from tasks.registry.transitions import mend
from tasks.settings.loading import load_params
from tasks.tracking import client as tracking_client

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion


def versions(root: str | Path, name: str | None = None, uri: str | None = None) -> dict[str, Any]:
    """All versions of a model, newest first, as plain JSON; a move that broke off is completed.

    Args:
        root: The checkout.
        name: The registered model; the checkout's own if None.
        uri: MLflow; see `client.tracking_uri_of`.

    Raises:
        TaskError: There is no such model.
    """
    root = Path(root)
    name = name or load_params(root / "params.yaml").register_.name
    with (
        transitions.one_at_a_time(root, f"a list of the versions of {name}"),
        tracking_client.explained(uri or tracking_client.tracking_uri_of(root)) as client,
    ):
        mend_model(client, root, name)
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
        TaskError: The log knows no such model or cannot be believed, or `at` is not a date.
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
    uri = tracking_client.tracking_uri_of(root)
    file = uri.removeprefix("sqlite:///")
    if file != uri and not Path(file).exists():
        return  # MLflow would make an empty one
    with contextlib.suppress(TaskError), tracking_client.explained(uri) as client:
        if client.search_registered_models(f"name = '{name}'"):
            manual_moves.say(manual_moves.differences(client, name, root))


def mend_model(client: MlflowClient, root: Path, name: str) -> None:
    """Completes a move of the model that broke off.

    Raises:
        TaskError: MLflow has no such model.
    """
    if not client.search_registered_models(f"name = '{name}'"):
        names = ", ".join(model.name for model in client.search_registered_models())
        has = f"it has {names}" if names else "it has none yet: `instar run` registers the first"
        raise TaskError(f"MLflow has no model {name!r}: {has}.")
    logged = any(line["name"] == name for line in promotion_log.promotions(root))
    # Others' models stand where others put them.
    if logged or name == load_params(root / "params.yaml").register_.name:
        mend(client, name, root)


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
        "gate": tags.get(registry_tags.GATE),
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
            f"{at!r} is not a date: write 2026-01-31, or 2026-01-31T13:00:00 (UTC)."
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
