"""A move of a version as data: what is wanted, and what the log and the tags will say of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tasks.registry import promotion_log
from tasks.registry.aliases import STAGES, Place

# The tags in which a move leaves its traces, for those who have another checkout's log.
MOVED = ("moved_to", "moved_by", "moved_at", "moved_why")


@dataclass(frozen=True)
class Move:
    """What is wanted.

    Attributes:
        name: The registered model.
        version: The version to move.
        to: 'champion' (Production), 'challenger' (Staging) or 'archived'.
        who: A person.
        why: The reason, in words.
        evidence: Numbers or file names that the decision rests on.
        tags: More tags that the version gets with the move; an empty one is taken away.
        tags_of_replaced: The same for the version that gives way.
    """

    name: str
    version: str
    to: Place
    who: str
    why: str
    evidence: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    tags: Mapping[str, str] = dataclasses.field(default_factory=dict)
    tags_of_replaced: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class Intent:
    """A move with all that is needed to complete it.

    Attributes:
        former: Who stood where before.
        lines: What the log will say.
        logged: How many lines the log had before.
        doubtful: Whoever wanted it was told that it failed, which may have been the answer alone.
    """

    move: Move
    former: dict[Place, str]
    lines: list[dict[str, Any]]
    logged: int
    doubtful: bool = False


def place_before(former: Mapping[Place, str], version: str) -> Place | None:
    """The place that a version held."""
    return next((place for place, held in former.items() if held == version), None)


def lines_of(move: Move, former: Mapping[Place, str]) -> list[dict[str, Any]]:
    """The log's lines, in their order: first who gives way."""
    line = {
        "time": promotion_log.now(),
        "name": move.name,
        "version": move.version,
        "from": place_before(former, move.version),
        "to": move.to,
        "who": move.who,
        "why": move.why,
        "evidence": _evidence(move, move.tags),
    }
    replaced = former.get(move.to)
    if replaced in (None, move.version):
        return [line]
    why = f"{promotion_log.REPLACED} {move.version}"
    gone = {
        **line, "version": replaced, "from": move.to, "to": "archived", "why": why,
        "evidence": _evidence(move, move.tags_of_replaced),
    }  # fmt: skip
    return [gone, line]


def _evidence(move: Move, tags: Mapping[str, str]) -> dict[str, Any]:
    """A rejection too, which must outlive MLflow's database."""
    rejected = tags.get(promotion_log.REJECTED)
    return {**move.evidence, **({promotion_log.REJECTED: rejected} if rejected else {})}


def traces(line: Mapping[str, Any]) -> dict[str, str]:
    """The tags in which a line of the log shows on its version."""
    told = (STAGES[line["to"]], line["who"], line["time"], line["why"])
    return dict(zip(MOVED, told, strict=True))
