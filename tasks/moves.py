"""A move of a version: aliases, stages, tags and log lines as one operation.

What will be done is written down first (`.instar/move.json`), so that whoever touches the registry
next completes what a killed process began. In one checkout `registry.one_at_a_time` keeps moves
apart. Checkouts that share an MLflow server are kept apart there: creating a registered model of a
given name succeeds for one of them only, and its name is free again once it is deleted.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks import promotion_log, standing
from tasks.errors import TaskError
from tasks.held import saying_so
from tasks.standing import STAGES, Place

if TYPE_CHECKING:
    from mlflow import MlflowClient

# How long the mark of another checkout that began a move must stand before it counts as dead: a
# move takes a second.
PATIENCE_SECONDS = 30.0
# The tags in which a move leaves its traces, for those who have another checkout's log.
MOVED = ("moved_to", "moved_by", "moved_at", "moved_why")
# MLflow's limit of a version's tag, with room to spare.
_LONGEST_TAG = 2000
# Says that a move does not depend on who is champion.
WHOEVER = "whoever"


class OvertakenError(TaskError):
    """Another promotion was faster."""


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
class _Intent:
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


def carry_out(
    client: MlflowClient, move: Move, root: str | Path, over: str | None = WHOEVER
) -> None:
    """Moves a version; what a move before left undone is done first.

    Who stood on a champion's or challenger's place before is archived, with a line of its own.

    Args:
        client: MLflow.
        move: What is wanted.
        root: The checkout whose promotion log is written.
        over: The champion that the decision was made against; None if there was none.

    Raises:
        OvertakenError: Another version has become champion since.
    """
    mend(client, move.name, root)
    with _alone(client, move.name, move.who, root):
        former = standing.standing(client, move.name)
        if over != WHOEVER and former.get("champion") != over:
            raise OvertakenError(_winner(client, move, former.get("champion")))
        # Read before the first write: a log that cannot be believed stops a move.
        logged = len(promotion_log.promotions(root))
        intent = _Intent(move, former, _lines(move, former), logged)
        _write_down(intent, root)
        _complete(client, intent, root)


def mend(client: MlflowClient, name: str, root: str | Path) -> None:
    """Completes a move that broke off, and logs what was moved behind the log's back.

    Nothing is done to a model whose champion the log knows and MLflow has lost.
    """
    promotion_log.restore(root)
    intent = _pending(root)
    if intent is not None:
        with _alone(client, intent.move.name, intent.move.who, root):
            _take_up(client, intent, root)
    elif _mark(root).exists():
        # A process was killed before it had written down what it wanted, or after all was done.
        with _alone(client, _mark(root).read_text(encoding="utf-8"), "", root):
            pass
    logged = promotion_log.stood(promotion_log.promotions(root), name)
    held = standing.standing(client, name)
    if "champion" in logged and "champion" not in held:
        return
    if not standing.settled(client, name):
        with _alone(client, name, "", root):
            standing.settle(client, name)
    _log_strangers(client, name, root)
    promotion_log.mirror(root)


def _complete(client: MlflowClient, intent: _Intent, root: str | Path) -> None:
    """Every step may be repeated."""
    move = intent.move
    name, version, to = move.name, move.version, move.to
    start = _place_before(intent.former, version)
    held = standing.standing(client, name)
    try:
        # The new holder takes the alias from the old one in a single write: at no moment is there
        # a champion's place without a champion.
        if to != "archived":
            client.set_registered_model_alias(name, to, version)
        elif start is not None and held.get(start) == version:
            client.delete_registered_model_alias(name, start)
    except BaseException:
        # Refused, interrupted, or done and the answer lost: the next touch sees which.
        _write_down(dataclasses.replace(intent, doubtful=True), root)
        raise
    # A challenger who becomes champion gives his own alias up in `settle`, as part of the rest.
    if start == "champion" and to == "challenger" and held.get(start) == version:
        client.delete_registered_model_alias(name, start)
    lines = len(promotion_log.promotions(root)) - intent.logged
    promotion_log.append(root, intent.lines[lines:])
    for line in intent.lines:
        more = move.tags if line["version"] == version else move.tags_of_replaced
        tags = {**traces(line), **more}
        set_tags(client, name, line["version"], tags)
    standing.settle(client, name)
    _file(root).unlink(missing_ok=True)


def _take_up(client: MlflowClient, intent: _Intent, root: str | Path) -> None:
    move = intent.move
    if not _knows(client, move):
        # Lost with MLflow's database: what the log has comes back by `instar sync --all`.
        _file(root).unlink(missing_ok=True)
        return
    held = standing.standing(client, move.name)
    if move.to == "archived":
        moved = _undone(held, intent)
    else:
        # Not `held`: a champion on its way down has both aliases for a moment.
        aliases = client.get_registered_model(move.name).aliases
        moved = str(aliases.get(move.to)) == move.version
    if moved or (held == intent.former and not intent.doubtful):
        _complete(client, intent, root)
    else:
        # It failed, or another checkout moved since: what that decided stands.
        _file(root).unlink(missing_ok=True)


def _knows(client: MlflowClient, move: Move) -> bool:
    return bool(
        client.search_model_versions(f"name = '{move.name}' and version_number = {move.version}")
    )


def _undone(held: Mapping[Place, str], intent: _Intent) -> bool:
    """Whether the version's alias was given up and nothing else happened."""
    return held == {at: who for at, who in intent.former.items() if who != intent.move.version}


def _place_before(former: Mapping[Place, str], version: str) -> Place | None:
    return next((place for place, held in former.items() if held == version), None)


def _lines(move: Move, former: Mapping[Place, str]) -> list[dict[str, Any]]:
    """The log's lines, in their order: first who gives way."""
    line = {
        "time": promotion_log.now(),
        "name": move.name,
        "version": move.version,
        "from": _place_before(former, move.version),
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


def set_tags(client: MlflowClient, name: str, version: str, tags: Mapping[str, str]) -> None:
    """Gives a version tags; those without a value are taken away."""
    there = client.get_model_version(name, version).tags
    for key, value in tags.items():
        if value:
            client.set_model_version_tag(name, version, key, value[:_LONGEST_TAG])
        elif key in there:
            client.delete_model_version_tag(name, version, key)


def _log_strangers(client: MlflowClient, name: str, root: str | Path) -> None:
    """Log who was moved in MLflow's own UI, or from another checkout."""
    for place, version in standing.standing(client, name).items():
        former = promotion_log.stood(promotion_log.promotions(root), name)
        if former.get(place) == version:
            continue
        tags = client.get_model_version(name, version).tags
        if tags.get("moved_to") == STAGES[place]:
            who = tags["moved_by"]
            why = f"seen in MLflow; moved elsewhere at {tags['moved_at']}: {tags['moved_why']}"
        else:
            who, why = "unknown", "seen in MLflow; moved there, not by Instar"
        move = Move(name, version, place, who, why)
        known = {at: held for at in standing.PLACES if (held := former.get(at))}
        promotion_log.append(root, _lines(move, known))


def _winner(client: MlflowClient, move: Move, champion: str | None) -> str:
    if champion is None:
        return f"version {move.version} of {move.name} was not moved: meanwhile the champion left."
    tags = client.get_model_version(move.name, champion).tags
    by = f" (by {tags['moved_by']} at {tags['moved_at']})" if "moved_by" in tags else ""
    return (
        f"version {move.version} of {move.name} was not moved: another promotion was faster, and "
        f"version {champion} is now the champion{by}. Decide anew: `instar models {move.name}`."
    )


@contextlib.contextmanager
def _alone(client: MlflowClient, name: str, who: str, root: str | Path) -> Iterator[None]:
    """Keep other checkouts' moves of the model away."""
    from mlflow.exceptions import MlflowException

    mark, mine = f"{name}.moving", _checkout(root)
    _mark(root).write_text(name, encoding="utf-8")
    with saying_so(lambda: _for_other(client, mark)):
        _leave_mark(client, mark, mine, who)
    try:
        yield
    finally:
        # If MLflow went away: the next touch from here takes it away.
        with contextlib.suppress(MlflowException):
            client.delete_registered_model(mark)
            _mark(root).unlink()


def _leave_mark(client: MlflowClient, mark: str, mine: str, who: str) -> None:
    from mlflow.exceptions import MlflowException

    seen, since = ("", 0), time.monotonic()
    while True:
        try:
            client.create_registered_model(mark, tags={"checkout": mine, "by": who})
            break
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        holder = _holder(client, mark)
        if holder[0] == mine:
            break  # a process of this checkout died with it
        if holder != seen:
            seen, since = holder, time.monotonic()
        elif time.monotonic() - since > PATIENCE_SECONDS:
            with contextlib.suppress(MlflowException):
                client.delete_registered_model(mark)
        time.sleep(0.1)


def _for_other(client: MlflowClient, mark: str) -> str:
    from mlflow.exceptions import MlflowException

    who, since = "somebody", "a moment ago"
    with contextlib.suppress(MlflowException):
        found = client.get_registered_model(mark)
        who = found.tags.get("by") or who
        began = datetime.fromtimestamp(found.creation_timestamp / 1000).astimezone()
        since = began.isoformat(timespec="seconds")
    return (
        f"a move of {who} from another checkout, started {since}: it holds the registered model "
        f"{mark} on the MLflow server. This goes on by itself, after {PATIENCE_SECONDS:.0f} "
        "seconds also if that move broke off."
    )


def _holder(client: MlflowClient, mark: str) -> tuple[str, int]:
    """Which checkout's mark it is, and from when; empty if it is gone."""
    from mlflow.exceptions import MlflowException

    try:
        found = client.get_registered_model(mark)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return "", 0
    return str(found.tags.get("checkout", "")), int(found.creation_timestamp)


def _checkout(root: str | Path) -> str:
    """A name for this checkout that no other one has."""
    path = promotion_log.home(root).with_name("checkout-id")
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        promotion_log.replace(path, uuid.uuid4().hex)
    return path.read_text(encoding="utf-8")


def _mark(root: str | Path) -> Path:
    """Tells that this checkout may have left its mark on the server, for which model."""
    return promotion_log.home(root).with_name("moving")


def _pending(root: str | Path) -> _Intent | None:
    try:
        content = json.loads(_file(root).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return _Intent(**{**content, "move": Move(**content["move"])})


def _write_down(intent: _Intent, root: str | Path) -> None:
    promotion_log.replace(_file(root), json.dumps(dataclasses.asdict(intent)))


def _file(root: str | Path) -> Path:
    return promotion_log.home(root).with_name("move.json")
