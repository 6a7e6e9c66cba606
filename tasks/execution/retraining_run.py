"""The steps of a retraining and what they hand on; free of Prefect."""

from __future__ import annotations

import dataclasses
import json
import os
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.packing.census import count_packed
from data.store.packed_store import PackedStore
from tasks.errors import TaskError
from tasks.execution.preflight import find_data_at_home, require_project
from tasks.execution.skip_unchanged import source_key
from tasks.execution.stage_runner import StageOutcome, log_of, run_stage, started
from tasks.reporting.understood import SUMMARY, read_understood
from tasks.settings.fitness import require_fitting, require_fitting_here
from tasks.settings.loading import load_params
from tasks.system.redaction import shown
from tasks.system.terminal import at_terminal
from tasks.system.unattended import git
from tasks.tracking.client import tracking_uri_of
from tasks.tracking.publisher import Publisher
from tasks.versioning.dvc_remote import fetch, push, restore
from tasks.versioning.git import snapshot_commit, untracked_code
from tasks.versioning.stage_key import edited, key_of, stage_inputs

if TYPE_CHECKING:
    from tasks.promotion.verdict import Verdict
    from tasks.registry.registration import RegisteredVersion

Tell = Callable[[str], None]


def require_ready(root: Path) -> None:
    """Refuse, besides what `require_project` refuses, settings that do not fit the data.

    Data that are still to be fetched are looked at when they are there.

    Raises:
        TaskError: Says all that does not fit, and values that do.
        DataError: The data cannot be used at all.
    """
    require_project(root)
    require_fitting_here(root)


class Retraining:
    """One retraining in a workspace; its steps are called in the order in which they stand here.

    A step that was done already is not done again, so that a head start costs nothing.

    Attributes:
        root: The workspace: the checkout itself or a worktree of it.
        home: The checkout that keeps MLflow's database and the records.
    """

    def __init__(self, root: Path, home: Path, run_id: str, tell: Tell):
        """`tell` is called with one line for each thing a watcher wants to know."""
        self.root = root
        self.home = home
        self.run_id = run_id
        self.tracking_uri = tracking_uri_of(home)
        self._tell = tell
        self._publisher: Publisher | None = None
        self._fetched = False
        self._pushed = False
        self._published = False
        self._outcomes: dict[str, StageOutcome] = {}
        self._inputs: dict[str, dict[str, Any]] = {}
        self._version: RegisteredVersion | None = None
        self._verdict: Verdict | None = None

    def __enter__(self) -> Retraining:
        if self.root != self.home:
            find_data_at_home(self.root, self.home)
        missing = untracked_code(self.root)
        if missing:
            # Said now, as registration will refuse it after all the computing.
            self._tell(
                f"note: {', '.join(missing)} is untracked code, so the model will not be "
                "registered; `git add` it now"
            )
        self._publisher = Publisher(self.root, self.run_id, self.tracking_uri, on_notice=self._tell)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: Any, trace: Any) -> None:
        assert self._publisher is not None, "left as often as entered"
        if self._published:
            self._publisher.release()
        else:
            self._publisher.__exit__(kind, error, trace)

    def fetch(self) -> None:
        """Get what the DVC remote has; without it the run only computes more.

        Raises:
            TaskError: The raw data are tracked, but nowhere to be had; or the settings do not fit
                them.
        """
        if not self._fetched:
            said = fetch(self.root)
            if said != "fetched":
                self._tell(f"fetch: {said}")
            path = load_params(self.root / "params.yaml").data.path
            if not (self.root / path).exists():
                restore(path, self.root)
                require_fitting_here(self.root)
            self._fetched = True

    def stage(self, name: str) -> StageOutcome:
        """Bring a stage up to date and tell MLflow's publisher about it.

        Raises:
            TaskError: The stage's own explanation of why it failed.
        """
        if name in self._outcomes:
            return self._outcomes[name]
        assert self._publisher is not None, "steps run inside `with Retraining(...)`"
        inputs = stage_inputs(name, self.root)
        key = key_of(inputs)
        self._publisher.stage(name, key, "running")
        try:
            shows = partial(self._show_sign_of_life, name)
            outcome = run_stage(name, self.root, shows, partial(self._show_wait, name))
        except BaseException as error:
            failed = isinstance(error, Exception)
            self._publisher.stage(name, key, "failed" if failed else "killed")
            raise
        self._publisher.stage(name, key, outcome.status)
        self._outcomes[name], self._inputs[name] = outcome, inputs
        done = "cached" if outcome.status == "cached" else _duration(outcome.seconds)
        self._tell(f"{name}: {done}")
        if name == "prepare":
            self._tell_data(outcome)
        return outcome

    def push(self) -> None:
        """Send artifacts and run-cache to the DVC remote; raises TaskError when unconfirmed."""
        push(self.root)
        self._pushed = True

    def snapshot(self) -> str:
        """Commit the tree as it is on the branch `runs/<run_id>`.

        Raises:
            TaskError: It is no longer the tree that the stages ran on.
        """
        assert self._publisher is not None, "steps run inside `with Retraining(...)`"
        self._refuse_edits()
        commit = snapshot_commit(self.root, self.run_id)
        # Untracked code is in no commit: such a run cannot be registered from there.
        debts = [] if self._pushed else ["push"]
        self._publisher.owe(commit, debts if untracked_code(self.root) else [*debts, "register"])
        return commit

    def publish(self) -> None:
        """Wait until MLflow has all curves and artifacts of the run.

        Raises:
            TaskError: It has not; everything computed is kept.
        """
        assert self._publisher is not None, "steps run inside `with Retraining(...)`"
        self._published = True
        if not self._publisher.finish("FINISHED", timeout=120.0):
            raise TaskError(self._unreachable())

    def register(self) -> RegisteredVersion:
        """Register the model as a challenger with its whole lineage.

        Raises:
            TaskError: The tree is no longer the one that the stages ran on, or see
                `tasks.registry.registration.register`.
        """
        from tasks.registry.registration import register

        self._refuse_edits()
        # MLflow's own bars and advice would wall the terminal.
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            self._version = register(self.root, self.run_id, self.tracking_uri, pushed=self._pushed)
        return self._version

    def judge(self) -> Verdict:
        """Let the gate compare the new version with the champion."""
        from tasks.promotion.gate import judge

        assert self._version is not None, "the gate judges a registered version"
        self._verdict = judge(self.root, self._version.version, self.tracking_uri)
        assert self._publisher is not None, "steps run inside `with Retraining(...)`"
        made = f"{self._version.name}@{self._version.version}"
        self._publisher.judged(self._version.commit, source_key(self.root), made)
        return self._verdict

    @property
    def judged(self) -> bool:
        """Whether all steps are done."""
        return self._verdict is not None

    def note(self, line: str) -> None:
        """Say something to the watcher."""
        self._tell(f"note: {line}")

    def result(self) -> dict[str, Any]:
        """All that the summary shows, as plain JSON."""
        assert self._version is not None, "there is nothing to show before the registration"
        branch = f"refs/heads/runs/{self.run_id}"
        own = git(self.root, "rev-parse", "--verify", "--quiet", branch, check=False)
        metrics = self.root / "artifacts" / "evaluate" / "metrics.json"
        report = self.root / "artifacts" / "evaluate" / "report.html"
        return {
            "run_id": self.run_id,
            # A run that only repeated a version has left no branch of its own.
            "commit": own or self._version.commit,
            "stages": [dataclasses.asdict(outcome) for outcome in self._outcomes.values()],
            "metrics": json.loads(metrics.read_text(encoding="utf-8")),
            "registered": _plain(self._version),
            "gate": _plain(self._verdict),
            # A worktree is gone by the time anyone reads this; MLflow keeps its report.
            "report": str(report) if self.root == self.home else None,
        }

    def _tell_data(self, outcome: StageOutcome) -> None:
        """Say what `prepare` understood; refuse settings that do not fit what it left."""
        if not (self.root / SUMMARY).exists():
            return  # a team's own stage of that name
        # A stage that ran at a terminal has said so itself.
        if outcome.status == "cached" or not at_terminal():
            for line in read_understood(self.root):
                self._tell(f"prepare: {line}")
        store = PackedStore.open(self.root / "artifacts" / "prepare" / "store")
        params = load_params(self.root / "params.yaml")
        require_fitting(params, count_packed(store), rehearsed=True)

    def _show_sign_of_life(self, stage: str, line: str) -> None:
        """Where no progress bar shows, tell once where to look instead."""
        if started(line) and not at_terminal():
            log = (self.root / log_of(stage)).relative_to(self.home)
            self._tell(f"{stage}: running, see {log}")

    def _show_wait(self, stage: str, holder: str) -> None:
        self._tell(f"{stage}: waiting for the same computation ({holder})")

    def _refuse_edits(self) -> None:
        """See that the run's commit will hold what made the weights, not what was typed since."""
        now = {name: stage_inputs(name, self.root) for name in self._inputs}
        changed = {what for name in now for what in edited(self._inputs[name], now[name])}
        if changed:
            raise TaskError(
                f"not registered: {', '.join(sorted(changed))} changed after it had been used, so "
                "no commit would hold what made the model: `instar run` again (what did not "
                "change is not computed again)."
            )

    def _unreachable(self) -> str:
        return (
            "the model is computed but not registered, as MLflow at "
            f"{shown(self.tracking_uri)} did not take it. All is kept: once MLflow answers, "
            "`instar sync` delivers the curves and registers the model without computing anything "
            "again."
        )


def _plain(found: Any) -> dict[str, Any] | None:
    return None if found is None else json.loads(json.dumps(dataclasses.asdict(found), default=str))


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"
