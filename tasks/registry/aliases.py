"""Where versions stand: by alias, which is the truth, and what follows it.

One write moves an alias, so that a move either happened or did not. Second aliases and MLflow's
stages, which teams still read, follow (`settle`).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from mlflow import MlflowClient

Place = Literal["champion", "challenger", "archived"]

STAGES: Mapping[Place, str] = {
    "champion": "Production",
    "challenger": "Staging",
    "archived": "Archived",
}
# Those that a version can hold, by the alias that says so.
PLACES: tuple[Place, ...] = ("champion", "challenger")
# The same in the words of teams that think in stages.
SECOND_ALIASES: Mapping[Place, str] = {"champion": "production", "challenger": "staging"}


def standing(client: MlflowClient, name: str) -> dict[Place, str]:
    """Which version is champion and which challenger, by alias."""
    aliases = client.get_registered_model(name).aliases
    found = {place: str(aliases[place]) for place in PLACES if place in aliases}
    if len(set(found.values())) < len(found):
        # A move to champion that broke off before it gave the challenger's alias up.
        del found["challenger"]
    return found


def place_of(client: MlflowClient, name: str, version: str) -> Place:
    """Where a version stands."""
    held = {holder: place for place, holder in standing(client, name).items()}
    return held.get(version, "archived")


def settle(client: MlflowClient, name: str) -> None:
    """Brings second aliases and MLflow's stages in step with the aliases that are the truth.

    Also fixes what a move left that broke off.
    """
    for write in _outstanding(client, name):
        write()


def settled(client: MlflowClient, name: str) -> bool:
    """Whether all is in step."""
    return next(_outstanding(client, name), None) is None


def set_stage(client: MlflowClient, name: str, version: str, stage: str) -> None:
    """The one place that knows MLflow's deprecated stages."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        client.transition_model_version_stage(name, version, stage)


def right_stage(held: Mapping[Place, str], version: str, stage: str | None) -> str:
    """The stage of a version, by who holds the aliases and the stage that it has."""
    stages = {holder: STAGES[place] for place, holder in held.items()}
    # 'None' is the stage of a version that never stood anywhere.
    return stages.get(version, "None" if stage == "None" else STAGES["archived"])


def _outstanding(client: MlflowClient, name: str) -> Iterator[Callable[[], object]]:
    """The writes that bring all in step."""
    held = standing(client, name)
    aliases = client.get_registered_model(name).aliases
    wanted = {
        alias: held.get(place) for place in PLACES for alias in (place, SECOND_ALIASES[place])
    }
    for alias, version in wanted.items():
        if version is None and alias in aliases:
            yield partial(client.delete_registered_model_alias, name, alias)
        elif version is not None and str(aliases.get(alias)) != version:
            yield partial(client.set_registered_model_alias, name, alias, version)
    for found in client.search_model_versions(f"name = '{name}'"):
        version, stage = str(found.version), found.current_stage
        right = right_stage(held, version, stage)
        if stage != right:
            yield partial(set_stage, client, name, version, right)
