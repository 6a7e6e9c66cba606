"""A move of a version: aliases, stages, tags and log lines as one operation.

What will be done is written down first (`.instar/move.json`), so that whoever touches the registry
next completes what a killed process began. In one checkout `transitions.one_at_a_time` keeps moves
apart. Checkouts that share an MLflow server are kept apart there: creating a registered model of a
given name succeeds for one of them only, and its name is free again once it is deleted.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.errors import TaskError
from tasks.registry import aliases as registry_aliases
from tasks.registry import manual_moves, promotion_log
from tasks.registry.aliases import Place, standing
from tasks.registry.move import Intent, Move, lines_of, place_before, traces
from tasks.registry.other_checkouts import alone, mark_of
from tasks.registry.promotion_log import PROMOTIONS, promotions, stood
from tasks.system import atomic_files, unattended
from tasks.system.locks import held
from tasks.tracking import client as tracking_client
from tasks.tracking.client import explained
from tasks.versioning import git

if TYPE_CHECKING:
    from mlflow import MlflowClient


# MLflow's limit of a version's tag, with room to spare.
_LONGEST_TAG = 2000
# Says that a move does not depend on who is champion.
WHOEVER = "whoever"


class OvertakenError(TaskError):
    """Another promotion was faster."""


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
    with alone(client, move.name, move.who, root):
        former = registry_aliases.standing(client, move.name)
        if over != WHOEVER and former.get("champion") != over:
            raise OvertakenError(_winner(client, move, former.get("champion")))
        # Read before the first write: a log that cannot be believed stops a move.
        logged = len(promotion_log.promotions(root))
        intent = Intent(move, former, lines_of(move, former), logged)
        _write_down(intent, root)
        _complete(client, intent, root)


def mend(client: MlflowClient, name: str, root: str | Path) -> None:
    """Completes a move that broke off; logs, and says, what was moved behind the log's back.

    Nothing is done to a model whose champion the log knows and MLflow has lost.
    """
    promotion_log.restore(root)
    intent = _pending(root)
    if intent is not None:
        with alone(client, intent.move.name, intent.move.who, root):
            _take_up(client, intent, root)
    elif mark_of(root).exists():
        # A process was killed before it had written down what it wanted, or after all was done.
        with alone(client, mark_of(root).read_text(encoding="utf-8"), "", root):
            pass
    logged = promotion_log.stood(promotion_log.promotions(root), name)
    held = registry_aliases.standing(client, name)
    said = manual_moves.differences(client, name, root)
    if "champion" in logged and "champion" not in held:
        manual_moves.say(said)
        return
    removed = _removed_by_hand(client, name, logged, held)
    if not registry_aliases.settled(client, name):
        with alone(client, name, "", root):
            said += manual_moves.set_back(client, name, root)
            registry_aliases.settle(client, name)
    manual_moves.say(said)
    if removed is not None:
        _log_by_hand(client, removed, logged, root)
    _log_strangers(client, name, root)
    promotion_log.mirror(root)


def _complete(client: MlflowClient, intent: Intent, root: str | Path) -> None:
    """Every step may be repeated."""
    move = intent.move
    name, version, to = move.name, move.version, move.to
    start = place_before(intent.former, version)
    held = registry_aliases.standing(client, name)
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
    registry_aliases.settle(client, name)
    _file(root).unlink(missing_ok=True)


def _take_up(client: MlflowClient, intent: Intent, root: str | Path) -> None:
    move = intent.move
    if not _knows(client, move.version, move.name):
        # Lost with MLflow's database: what the log has comes back by `instar sync --all`.
        _file(root).unlink(missing_ok=True)
        return
    held = registry_aliases.standing(client, move.name)
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


def _knows(client: MlflowClient, version: str, name: str) -> bool:
    wanted = f"name = '{name}' and version_number = {version}"
    return bool(client.search_model_versions(wanted))


def _undone(held: Mapping[Place, str], intent: Intent) -> bool:
    """Whether the version's alias was given up and nothing else happened."""
    return held == {at: who for at, who in intent.former.items() if who != intent.move.version}


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
    for place, version in registry_aliases.standing(client, name).items():
        former = promotion_log.stood(promotion_log.promotions(root), name)
        if former.get(place) == version:
            continue
        tags = manual_moves.moved_elsewhere(client, name, version, place, root)
        if tags is None:
            why = "seen in MLflow; moved there, not by Instar"
            move = Move(name, version, place, manual_moves.SOMEBODY, why)
            _log_by_hand(client, move, former, root)
            continue
        why = f"seen in MLflow; moved elsewhere at {tags['moved_at']}: {tags['moved_why']}"
        move = Move(name, version, place, tags["moved_by"], why)
        promotion_log.append(root, lines_of(move, _places(former)))


def _removed_by_hand(
    client: MlflowClient, name: str, logged: Mapping[str, str], held: Mapping[Place, str]
) -> Move | None:
    """The challenger of the log whose alias was taken away in MLflow.

    One whose stage is 'None' was made again after a loss of MLflow's database: it waits to be put
    back where the log says.
    """
    version = logged.get("challenger")
    if version is None or "challenger" in held or version in held.values():
        return None
    wanted = f"name = '{name}' and version_number = {version}"
    if all(found.current_stage == "None" for found in client.search_model_versions(wanted)):
        return None
    why = "seen in MLflow; its alias was removed there, not by Instar"
    return Move(name, version, "archived", manual_moves.SOMEBODY, why)


def _log_by_hand(
    client: MlflowClient, move: Move, former: Mapping[str, str], root: str | Path
) -> None:
    lines = lines_of(move, _places(former))
    # Tags first: those of the last move by Instar must not pass for this one's.
    for line in lines:
        if _knows(client, line["version"], move.name):
            set_tags(client, move.name, line["version"], traces(line))
    promotion_log.append(root, lines)


def _places(former: Mapping[str, str]) -> dict[Place, str]:
    return {at: held for at in registry_aliases.PLACES if (held := former.get(at))}


def _winner(client: MlflowClient, move: Move, champion: str | None) -> str:
    if champion is None:
        return f"version {move.version} of {move.name} was not moved: meanwhile the champion left."
    tags = client.get_model_version(move.name, champion).tags
    by = f" (by {tags['moved_by']} at {tags['moved_at']})" if "moved_by" in tags else ""
    return (
        f"version {move.version} of {move.name} was not moved: another promotion was faster, and "
        f"version {champion} is now the champion{by}. Decide again: `instar models {move.name}`."
    )


def _pending(root: str | Path) -> Intent | None:
    try:
        content = json.loads(_file(root).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return Intent(**{**content, "move": Move(**content["move"])})


def _write_down(intent: Intent, root: str | Path) -> None:
    atomic_files.replace(_file(root), json.dumps(dataclasses.asdict(intent)))


def _file(root: str | Path) -> Path:
    return promotion_log.home(root).with_name("move.json")


@contextmanager
def one_at_a_time(root: Path, what: str) -> Iterator[None]:
    """Hold the registry against other runs of this checkout, which could not see a half-made move.

    Else two would make two versions of the same weights, or promote two over the same champion.

    Args:
        root: The checkout.
        what: What this process does, told to those who wait.
    """
    with held(root / ".instar" / "locks" / "registry.lock", what, wait=True):
        yield


def move(
    wanted: Move,
    root: str | Path = ".",
    tracking_uri: str | None = None,
    over: str | None = WHOEVER,
) -> None:
    """Moves a version; see `carry_out`. The caller is `one_at_a_time`.

    Raises:
        TaskError: There is no such version, MLflow does not answer, or another was faster.
    """
    with explained(tracking_uri or tracking_client.tracking_uri_of(root)) as client:
        carry_out(client, wanted, root, over)


def require_known_champion(client: MlflowClient, name: str, root: str | Path = ".") -> str | None:
    """The champion's version; None if there is none and the promotion log agrees.

    Raises:
        TaskError: The log names a champion that MLflow does not have.
    """
    champion = standing(client, name).get("champion")
    logged = stood(promotions(root), name).get("champion")
    if champion is None and logged is not None:
        raise TaskError(
            f"not judged: by {PROMOTIONS} version {logged} of {name} is champion, but MLflow has "
            f"no @champion to compare with: give version {logged} the alias champion there "
            "(`instar ui`) and run again; if MLflow lost it, `instar sync --all`; if it is gone "
            f"for good, `instar promote {name}@{logged} --to Archived --reason lost` and run again."
        )
    return champion


def person(root: str | Path = ".") -> str:
    """Who acts: git's user where one is set, else the login name."""
    name = unattended.git(root, "config", "user.name", check=False)
    mail = unattended.git(root, "config", "user.email", check=False)
    return f"{name} <{mail}>" if name and mail else name or git.os_user()
