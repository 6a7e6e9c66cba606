"""Makes a model version again from its commit and the DVC remote alone, and compares all of it.

What is compared: the md5 of every output with the version's dvc.lock, every number with MLflow's.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.errors import TaskError
from tasks.execution.stage_runner import log_of, run_stage, started
from tasks.registry.lineage import git_tag, stage_runs
from tasks.registry.tags import WEIGHTS
from tasks.reproduction.clone import private_clone
from tasks.reproduction.refusals import no_tag, why_not_pulled
from tasks.reproduction.result import (
    ROUNDING,
    Difference,
    Reproduction,
    close_to,
    record_on_version,
    verdict_of,
)
from tasks.settings.data_path import BUILT_IN
from tasks.settings.project_files import read_lock, read_yaml
from tasks.system.hashing import hash_file
from tasks.system.unattended import git
from tasks.tracking.client import explained, tracking_uri_of
from tasks.tracking.metrics import numbers
from tasks.tracking.model_versions import find_version
from tasks.versioning.dvc import run_dvc
from tasks.versioning.dvc_cache import cache_folder, files_of
from tasks.versioning.stage_key import made_by_stages

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

# The cheapest start that makes the weights again: from `evaluate` on only the numbers would be.
DEFAULT_START = "finetune"
_LOGS = Path(".instar") / "logs" / "reproduce"
_OUR_MODULE = re.compile(r"No module named '((?:flows|tasks|models|data)[.\w]*)'")

Tell = Callable[[str], None]


def reproduce(
    reference: str,
    root: str | Path,
    tell: Tell,
    start: str | None = None,
    tracking_uri: str | None = None,
    keep: Path | None = None,
    *,
    record: bool = True,
) -> Reproduction:
    """Computes a version's stages again in a clone at its tag, and compares.

    Args:
        reference: `NAME@3` or `NAME@production`; see `model_versions.find_version`.
        root: The checkout whose commits and remote settings are used, nothing else of it.
        tell: Called with a line for each thing that a watcher wants to know.
        start: The first stage to compute; what comes before is pulled. `DEFAULT_START` if None.
        tracking_uri: MLflow; see `client.tracking_uri_of`.
        keep: Where the clone is to stay.
        record: Write the verdict on the version.

    Raises:
        TaskError: It cannot be tried: no such version, tag, stage or remote, the remote lacks what
            is needed, or a stage fails.
    """
    root, uri = Path(root).resolve(), tracking_uri or tracking_uri_of(root)
    with explained(uri) as client:
        version = find_version(client, reference)
        known = {
            stage: dict(run.data.metrics) for stage, run in stage_runs(client, version).items()
        }
    tag = git_tag(root, version) or no_tag(root, version)
    keep = keep.resolve() if keep else None
    with private_clone(root, tag, keep) as place:
        trial = _Trial(place, root, tag, version, known, start or DEFAULT_START, tell)
        done = trial.run(keep)
    return record_on_version(done, uri) if record else done


class _Trial:
    """One reproduction in its clone."""

    def __init__(
        self,
        place: Path,
        root: Path,
        tag: str,
        version: ModelVersion,
        known: Mapping[str, Mapping[str, float]],
        start: str,
        tell: Tell,
    ):
        self.place = place
        self.root = root
        self.tag = tag
        self.version = version
        self.known = known
        self.tell = tell
        self.notes: list[str] = []
        # Stages whose numbers MLflow has lost.
        self.unmeasured: set[str] = set()
        self._require_lock()
        self.promised = _outputs(place)
        if start not in self.promised:
            raise TaskError(
                f"{tag} has no stage {start!r}: it has {', '.join(self.promised)} (`--from STAGE`)."
            )
        names = list(self.promised)
        self.earlier, self.stages = names[: names.index(start)], names[names.index(start) :]

    def run(self, keep: Path | None) -> Reproduction:
        self._bring_inputs()
        seconds = {}
        try:
            for stage in self.stages:
                seconds[stage] = self._compute(stage)
        finally:
            self._keep_logs()
        differences = [d for stage in self.stages for d in self._compare(stage)]
        before = {name: self.version.tags.get(name, "") for name in ("device", "torch")}
        now = _here()
        alike = all(now[name].startswith(before[name]) for name in now) and self._same_lock()
        return Reproduction(
            name=self.version.name,
            version=str(self.version.version),
            tag=self.tag,
            commit=str(self.version.tags["git_commit"]),
            verdict=verdict_of(differences, tolerant=not alike and not self.unmeasured),
            stages=self.stages,
            seconds=seconds,
            files=sum(1 for stage in self.stages for _ in self._files(stage)),
            metrics=sum(len(self._numbers(stage)) for stage in self.stages),
            differences=differences,
            before=before,
            now=now,
            notes=self.notes,
            recorded=False,
            clone=str(keep) if keep else None,
        )

    def _require_lock(self) -> None:
        if hash_file(self.place / "dvc.lock") != self.version.tags.get("dvc_lock"):
            raise TaskError(
                f"dvc.lock at {self.tag} is not the one that {self.version.name} version "
                f"{self.version.version} was registered with, so the tag or MLflow's tags were "
                "changed: `instar lineage` shows what was registered."
            )

    def _bring_inputs(self) -> None:
        paths = [path for stage in self.earlier for path in self.promised[stage]]
        if paths:
            self.tell(f"pull: outputs of {', '.join(self.earlier)}")
            self._pull(paths)
            self.notes.append(f"from the DVC remote: outputs of {', '.join(self.earlier)}")
        if not self.earlier:
            self._bring_raw_data()

    def _bring_raw_data(self) -> None:
        tracked = [name for name in git(self.place, "ls-files", "-z", "*.dvc").split("\0") if name]
        if tracked:
            self.tell(f"pull: {', '.join(tracked)}")
            self._pull(tracked)
            self.notes.append(f"from the DVC remote: the raw data of {', '.join(tracked)}")
        # Not `load_params`: settings of then need not be valid now.
        data = read_yaml(self.place / "params.yaml")["data"]
        source, path = data["source"], data["path"]
        if source in BUILT_IN:
            # Its content is pinned by checksum, so it may come from this machine's own download.
            os.environ.setdefault("INSTAR_DATASETS", str(self.root / "data" / "raw"))
            self.notes.append(
                f"raw data: {source}, pinned by the checksums in {path}; from this machine or the "
                "Internet, not from the DVC remote"
            )
        elif not (self.place / path).exists():
            raise TaskError(
                f"the raw data {path} is in no commit and in no DVC remote, so {self.tag} cannot "
                f"be computed from it: `dvc add {path}`, commit, `dvc push` for the versions to "
                "come; this one reproduces with `--from pretrain`."
            )
        elif not tracked:
            self.notes.append(f"raw data: {path}, from git")

    def _pull(self, targets: list[str]) -> None:
        answer = run_dvc(["pull", *targets], self.place)
        if answer.returncode != 0:
            raise TaskError(why_not_pulled(answer.stdout, self.tag))

    def _compute(self, stage: str) -> float:
        def watch(line: str) -> None:
            if started(line):
                self.tell(f"{stage}: running")

        try:
            outcome = run_stage(stage, self.place, watch, force=True)
        except TaskError as problem:
            raise TaskError(self._why_failed(stage, str(problem))) from None
        self.tell(f"{stage}: {outcome.seconds:.0f} s")
        return outcome.seconds

    def _why_failed(self, stage: str, said: str) -> str:
        if lacking := _OUR_MODULE.search(said):
            return (
                f"{self.tag} lacks {lacking[1]}, which stage {stage} needs: that code was never "
                "added to git. `git add` it, run again and register a new version."
            )
        said = said.replace(str(log_of(stage)), str(_LOGS / f"{stage}.log"))
        return f"{self.tag}, in its clone: {said}"

    def _keep_logs(self) -> None:
        """The clone goes, what its stages said stays."""
        for stage in self.stages:
            log = self.place / log_of(stage)
            if log.exists():
                (self.root / _LOGS).mkdir(parents=True, exist_ok=True)
                shutil.copyfile(log, self.root / _LOGS / log.name)

    def _compare(self, stage: str) -> Iterator[Difference]:
        made = made_by_stages(self.place)
        for path, md5 in self.promised[stage].items():
            if made.get(path) != md5:
                for file, before, now in self._inside(path, md5, made.get(path)):
                    yield Difference(stage, "file", file, before, now)
        if stage == "finetune" and (now := hash_file(self.place / WEIGHTS)) != (
            before := self.version.tags.get("weights")
        ):
            yield Difference(stage, "file", f"{WEIGHTS} (sha256 in MLflow)", before, now)
        known = self.known.get(stage, {})
        for name, value in self._numbers(stage).items():
            if not close_to(known[name], value, ROUNDING):
                yield Difference(stage, "metric", name, known[name], value)

    def _inside(
        self, path: str, md5: str, made: str | None
    ) -> Iterator[tuple[str, str | None, str | None]]:
        """The files of an output that differ; of a folder, those in it."""
        if made is None or not md5.endswith(".dir"):
            yield path, md5, made
            return
        before, now = self._listed(path, md5), self._listed(path, made)
        for file in sorted({*before, *now}):
            if before.get(file) != now.get(file):
                yield file, before.get(file), now.get(file)

    def _listed(self, path: str, md5: str) -> dict[str, str]:
        """Files and md5 of a folder; what the version's held only the remote knows."""
        cache = cache_folder(self.place)
        if not (cache / "files" / "md5" / md5[:2] / md5[2:]).exists():
            lock = self.place / "dvc.lock"
            made = lock.read_bytes()
            try:
                lock.write_text(git(self.place, "show", "HEAD:dvc.lock") + "\n", encoding="utf-8")
                run_dvc(["fetch", path], self.place)
            finally:
                lock.write_bytes(made)
        try:
            found = files_of(cache, path, md5)
            return {file: place.parent.name + place.name for file, place in found}
        except TaskError:
            # Not in the remote any more: the folder as a whole differs, that much is known.
            return {path: md5}

    def _files(self, stage: str) -> Iterator[str]:
        made = made_by_stages(self.place)
        for path in self.promised[stage]:
            if path in made:
                yield from (
                    file for file, _ in files_of(cache_folder(self.place), path, made[path])
                )

    def _numbers(self, stage: str) -> dict[str, float]:
        """What the stage's own file of numbers says now, as far as MLflow knows the same."""
        name = "summary.json" if stage == "prepare" else "metrics.json"
        path = self.place / "artifacts" / stage / name
        found = numbers(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}
        known = self.known.get(stage, {})
        if found and not known and stage not in self.unmeasured:
            self.unmeasured.add(stage)
            self.notes.append(
                f"MLflow has lost the run of {stage}, so its numbers were not compared"
            )
        return {name: value for name, value in found.items() if name in known}

    def _same_lock(self) -> bool:
        theirs, ours = self.place / "requirements.lock", self.root / "requirements.lock"
        alike = not theirs.exists() or (ours.exists() and theirs.read_bytes() == ours.read_bytes())
        if not alike:
            self.notes.append(
                "requirements.lock was another then: for equal bytes install the version's own"
            )
        return alike


def _outputs(place: Path) -> dict[str, dict[str, str]]:
    """What dvc.lock promises: of each stage, in dvc.yaml's order, its outputs and their md5."""
    locked = read_lock(place).get("stages", {})
    return {
        stage: {out["path"]: out["md5"] for out in locked[stage].get("outs", []) if "md5" in out}
        for stage in read_yaml(place / "dvc.yaml").get("stages", {})
        if stage in locked
    }


def _here() -> dict[str, str]:
    import torch

    from tasks.stages.hardware import machine

    return machine(torch.device("cpu"))
