"""What finished runs still owe because a server was away: a push, then a registration.

A run notes both as soon as its commit is made and strikes them off as they are done, so that one
that broke off anywhere in between is found here too.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from tasks.errors import TaskError, explain
from tasks.execution.workspace import isolated
from tasks.promotion.gate import judge
from tasks.registry.registration import judged_version, register
from tasks.tracking.client import tracking_uri_of
from tasks.tracking.run_records import RunRecord, Shelf, ended_runs
from tasks.versioning.dvc import dvc_complaint, run_dvc
from tasks.versioning.dvc_remote import push
from tasks.versioning.stage_key import made_by_stages

STORE = "artifacts/prepare/store"
MANIFEST = f"{STORE}/manifest.json"
_UNDELIVERED = "run {} is registered once MLflow has it: `instar sync` again."


@dataclass
class Settled:
    """What came of it.

    Attributes:
        pushed: Runs whose outputs the remote now has.
        registered: Of each registered run, the version and what the gate said.
        left: Runs that still owe something, and why.
    """

    pushed: list[str] = field(default_factory=list)
    registered: dict[str, str] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)


def settle_debts(root: str | Path, tracking_uri: str | None = None) -> Settled:
    """Pushes and registers what past runs could not, each from its own commit, oldest first.

    Whatever became of the checkout since does not matter: the work is done in a worktree of the
    run's commit, with that run's outputs from DVC's cache. Runs in progress are left alone.
    """
    root, uri = Path(root), tracking_uri or tracking_uri_of(root)
    settled = Settled()
    for shelf, record in ended_runs(root):
        if not record.owes or record.commit is None:
            continue
        if record.owes == ["register"] and not record.delivered:
            settled.left[record.run_id] = _UNDELIVERED.format(record.run_id)
            continue
        try:
            with isolated(root, record.run_id, record.commit) as place:
                _settle(place, shelf, record, uri, settled)
        except Exception as problem:
            said = explain(problem, [root])
            if said is None:
                raise
            settled.left[record.run_id] = said
    return settled


def _settle(place: Path, shelf: Shelf, record: RunRecord, uri: str, settled: Settled) -> None:
    run = record.run_id
    # First of all: DVC pushes what there is, and only warns of what is not. The store too: the gate
    # may have to show its images to a champion that never saw them.
    bring_outputs(place, store=True)
    if "push" in record.owes:
        push(place)
        record.owes.remove("push")
        shelf.save(record)
        settled.pushed.append(run)
    if "register" in record.owes:
        if not record.delivered:
            raise TaskError(_UNDELIVERED.format(run))
        version = judged_version(place, uri)
        if version is None:
            made = register(place, run, uri, pushed=True)
            verdict = judge(place, made.version, uri)
            settled.registered[run] = f"{made.name} version {made.version}: {verdict.outcome}"
        record.owes.remove("register")
        shelf.save(record)


def bring_outputs(place: Path, store: bool = False) -> None:
    """Puts what a registration needs of the workspace's outputs in place, from DVC's cache.

    Args:
        place: The workspace.
        store: The images as well, which are large.

    Raises:
        TaskError: They are not all there.
    """
    made = list(made_by_stages(place))
    wanted = made if store else [*(path for path in made if path != STORE), MANIFEST]
    answer = run_dvc(["checkout", "--quiet", "--force", *wanted], place)
    if answer.returncode != 0:
        raise TaskError(
            f"the run's outputs are not all in DVC's cache ({dvc_complaint(answer.stdout)}): "
            "`dvc fetch --all-branches --all-tags`, then the same command again."
        )
