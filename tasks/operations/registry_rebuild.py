"""Model versions that MLflow had and lost with its database, made again from their commits."""

from __future__ import annotations

import re
from pathlib import Path

from tasks.errors import TaskError
from tasks.execution.workspace import isolated
from tasks.operations.backlog import bring_outputs
from tasks.registry.aliases import standing
from tasks.registry.registration import remake, stand_as_logged
from tasks.settings.loading import load_params
from tasks.system.unattended import git
from tasks.tracking.client import explained, tracking_uri_of
from tasks.tracking.run_records import ended_runs


def rebuild_versions(root: str | Path, tracking_uri: str | None = None) -> list[str]:
    """Makes all versions of the model again, under their numbers, if MLflow has none at all.

    The git tags of versions name their commits, the records of runs the runs that made them, the
    promotion log where they stood. The runs must be in MLflow again.

    Returns:
        The versions' numbers.

    Raises:
        TaskError: A version cannot be made: its run's record or its outputs are lost, or its number
            would be another.
    """
    root, uri = Path(root), tracking_uri or tracking_uri_of(root)
    name = load_params(root / "params.yaml").register_.name
    tagged = _tagged(root, name)
    with explained(uri) as client:
        found = client.search_model_versions(f"name = '{name}'")
        there = {int(version.version): version.tags.get("git_commit") for version in found}
        # Of these very commits and without an alias: a rebuild that broke off has left them.
        begun = there.items() <= dict(tagged).items()
        if there and (not begun or standing(client, name)):
            return []
    made_by: dict[str, str] = {}
    for _, record in ended_runs(root):
        if record.commit:
            # The first: later ones only repeated it.
            made_by.setdefault(record.commit, record.run_id)
    rebuilt: list[str] = []
    for expected, (number, commit) in enumerate(tagged, 1):
        if number in there:
            continue
        if commit not in made_by or number != expected:
            raise TaskError(
                f"version {number} of {name} cannot be rebuilt under its number: no record of "
                f"the run that made it, or of a version before it; its code and data are in git "
                f"(instar/{name}/v{number}) and DVC."
            )
        with isolated(root, f"{name}-v{number}", commit) as place:
            bring_outputs(place)
            made = remake(place, made_by[commit], uri)
        if made != str(number):
            raise TaskError(
                f"version {number} of {name} was made again as version {made}, since MLflow goes "
                "on counting from versions it had: delete it there; the others were left alone."
            )
        rebuilt.append(made)
    if rebuilt or there:
        stand_as_logged(name, root, uri)
    return rebuilt


def _tagged(root: Path, name: str) -> list[tuple[int, str]]:
    """Numbers and commits of the versions that git knows, in their order."""
    refs = f"refs/tags/instar/{name}/"
    listed = git(root, "for-each-ref", "--format=%(refname) %(objectname)", refs)
    found = [re.fullmatch(rf"{re.escape(refs)}v(\d+) (\w+)", line) for line in listed.split("\n")]
    return sorted((int(match[1]), match[2]) for match in found if match)
