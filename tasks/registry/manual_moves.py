"""What was moved in MLflow itself, by its UI or client: who did it is unknown, and nobody is named.

The aliases are the truth, so one that was moved by hand counts, and is logged as such. A stage or a
second alias follows the aliases, so one that was moved by hand is set back. Neither is done in
silence.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.registry import promotion_log
from tasks.registry.aliases import PLACES, SECOND_ALIASES, STAGES, Place, right_stage, standing
from tasks.registry.promotion_log import PROMOTIONS

if TYPE_CHECKING:
    from mlflow import MlflowClient

# Stands where a person's name stands otherwise.
SOMEBODY = "somebody by hand in MLflow"


def say(sentences: Iterable[str]) -> None:
    """Says each on stderr, so that what a command prints stays as it is."""
    for sentence in sentences:
        print(f"note: {sentence}", file=sys.stderr)


def set_back(client: MlflowClient, name: str, root: str | Path) -> list[str]:
    """What `aliases.settle` will set back, one sentence each.

    Not what follows an alias that has moved since the log's last line.
    """
    held = standing(client, name)
    logged = promotion_log.stood(promotion_log.promotions(root), name)
    agreed = {place for place in PLACES if held.get(place) == logged.get(place)}
    aliases = client.get_registered_model(name).aliases
    said = [
        _second_alias(name, place, str(aliases.get(SECOND_ALIASES[place]) or ""), held.get(place))
        for place in PLACES
        if place in agreed and str(aliases.get(SECOND_ALIASES[place]) or "") != held.get(place, "")
    ]
    moving = {*held.values(), *logged.values()} - {held[at] for at in agreed if at in held}
    for found in client.search_model_versions(f"name = '{name}'"):
        version, stage = str(found.version), found.current_stage
        right = right_stage(held, version, stage)
        if stage != right and version not in moving:
            said.append(
                f"the stage of version {version} of {name} was set to {stage} by hand in MLflow "
                f"(who is unknown). It goes back from {stage} to {right}: aliases count, and "
                f"stages follow them. To move it: `instar promote {name}@{version} --to "
                f"{'Archived' if stage == 'None' else stage}`."
            )
    return said


def differences(client: MlflowClient, name: str, root: str | Path) -> list[str]:
    """Where MLflow's aliases are not what the log's last lines say, one sentence each."""
    held = standing(client, name)
    logged = promotion_log.stood(promotion_log.promotions(root), name)
    known = {str(found.version) for found in client.search_model_versions(f"name = '{name}'")}
    return [
        _alias(name, place, logged.get(place), held.get(place), known)
        for place in PLACES
        if logged.get(place) != held.get(place)
        and not (place not in held and logged[place] in held.values())
        and not (place in held and moved_elsewhere(client, name, held[place], place, root))
    ]


def is_unsigned(name: str, version: str, root: str | Path) -> bool:
    """Whether the last move of a version was made by hand in MLflow."""
    lines = [
        line
        for line in promotion_log.promotions(root)
        if (line["name"], line["version"]) == (name, version)
    ]
    return bool(lines) and lines[-1]["who"] == SOMEBODY


def moved_elsewhere(
    client: MlflowClient, name: str, version: str, place: Place, root: str | Path
) -> Mapping[str, str] | None:
    """The tags that another checkout's move to the place left on the version; None if none did."""
    tags: Mapping[str, str] = client.get_model_version(name, version).tags
    if tags.get("moved_to") != STAGES[place] or tags.get("moved_by") == SOMEBODY:
        return None
    # Those of a move that this log knows tell nothing of a later one.
    known = any(
        (line["name"], line["version"], line["time"]) == (name, version, tags.get("moved_at"))
        for line in promotion_log.promotions(root)
    )
    return None if known else tags


def _second_alias(name: str, place: Place, was: str, right: str | None) -> str:
    found = f"stands on version {was}" if was else "was removed"
    wanted = f"set back to version {right}" if right else "taken away"
    return (
        f"@{SECOND_ALIASES[place]} of {name} {found} by hand in MLflow (who is unknown). It is "
        f"{wanted}: it follows @{place}. To move it: `instar promote {name}@VERSION --to "
        f"{STAGES[place]}`."
    )


def _alias(
    name: str, place: Place, before: str | None, now: str | None, known: Iterable[str]
) -> str:
    stage = STAGES[place]
    by_log = f"by {PROMOTIONS} it stands on {f'version {before}' if before else 'none'}"
    if before is not None and before not in known:
        return (
            f"version {before} of {name}, {stage} by {PROMOTIONS}, is gone from MLflow: `instar "
            f"sync --all` makes it again; `instar promote {name}@{before} --to Archived --reason "
            "lost` strikes it off."
        )
    if now is None:
        return (
            f"@{place} of {name} was removed by hand in MLflow (who is unknown; {by_log}). To put "
            f"it back: give version {before} the alias {place} there (`instar ui`); to let it go: "
            f"`instar promote {name}@{before} --to Archived`."
            if place == "champion"
            else f"@{place} of {name} was removed by hand in MLflow (who is unknown; {by_log}). "
            f"To put it back: `instar promote {name}@{before} --to {stage}`."
        )
    override = " --override --reason …" if place == "champion" else ""
    undo = (
        f"`instar promote {name}@{now} --to Archived`"
        if before is None
        else f"`instar rollback {name}`"
        if place == "champion"
        else f"`instar promote {name}@{before} --to {stage}`"
    )
    return (
        f"@{place} of {name} was moved to version {now} by hand in MLflow (who is unknown; "
        f"{by_log}). To put your name to it: `instar promote {name}@{now} --to {stage}{override}`; "
        f"to take it back: {undo}."
    )
