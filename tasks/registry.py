"""Model versions: what may become one, who stands where, and who moved it.

Aliases and tags are the truth. MLflow's stages, which teams still read, follow the aliases in one
place (`_set_stage`). Every move is a line in `.instar/promotions.jsonl`.
"""

from __future__ import annotations

import json
import os
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tasks import lineage, tracking
from tasks.errors import TaskError
from tasks.params import load_params
from tasks.serving import log_served_model

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

Place = Literal["champion", "challenger", "archived"]

PROMOTIONS = Path(".instar") / "promotions.jsonl"
EVALUATE = Path("artifacts/evaluate")
# Where the evaluation of a registered run lies among the artifacts of its MLflow run.
EVALUATION = "evaluation"
STAGES: Mapping[str, str] = {
    "champion": "Production",
    "challenger": "Staging",
    "archived": "Archived",
}
# Every alias of a place; the second ones are the words of teams that think in stages.
ALIASES: Mapping[str, tuple[str, ...]] = {
    "champion": ("champion", "production"),
    "challenger": ("challenger", "staging"),
    "archived": (),
}


@dataclass(frozen=True)
class RegisteredVersion:
    """A version of the registered model.

    Attributes:
        name: The registered model.
        version: MLflow's version number, a decimal string.
        run: The MLflow run of the flow run that made it.
        commit: The git commit that holds it.
        created: False if these very weights had been registered before.
    """

    name: str
    version: str
    run: str
    commit: str
    created: bool


def register(
    root: str | Path, run_id: str, tracking_uri: str | None = None, *, pushed: bool
) -> RegisteredVersion:
    """Makes the present artifacts a model version, challenger and in Staging.

    The same weights judged on the same test set are the same model: registering them again makes
    no second version. The one that there is stays champion or challenger if it is one, and
    becomes challenger again if it was archived.

    Args:
        root: The checkout whose artifacts are registered.
        run_id: The flow run that made them, already published.
        tracking_uri: MLflow; see `tracking.tracking_uri_of`.
        pushed: Whether `dvc push` confirmed that the remote has every output.

    Raises:
        TaskError: Something that the version needs exists only here (untracked code, an output
            that was not pushed), the flow run is not in MLflow, or MLflow does not answer.
    """
    root = Path(root)
    _refuse_unrepeatable(root, pushed)
    params = load_params(root / "params.yaml")
    name = params.register_.name
    commit = lineage.snapshot_commit(root, run_id)
    tags = {**lineage.lineage_tags(root, commit), **_evaluation_tags(root), "run_id": run_id}
    with explained(tracking_uri or tracking.tracking_uri_of(root)) as client:
        run = _flow_run(client, name, run_id)
        known = find_same(client, name, tags)
        if known is not None:
            return _register_again(client, name, known, root, run_id, tracking_uri)
        _ensure_model(client, name)
        for file in ("metrics.json", "predictions.parquet"):
            client.log_artifact(run, str(root / EVALUATE / file), EVALUATION)
        model_id = log_served_model(client, run, root, name)
        # Not `models:/<id>`: with a database, MLflow looks that up at its global tracking URI.
        source = client.get_logged_model(model_id).artifact_location
        made = client.create_model_version(
            name, source=source, run_id=run, tags=tags, model_id=model_id
        )
        # A tag on the commit keeps it, and what it names, from `git gc` and `dvc gc`.
        lineage.git(root, "tag", "--force", f"instar/{name}/v{made.version}", commit)
    why = f"registered by flow run {run_id}"
    version = str(made.version)
    move(name, version, "challenger", person(root), why, {}, root, tracking_uri)
    return RegisteredVersion(name, version, run, commit, created=True)


def move(
    name: str,
    version: str,
    to: Place,
    who: str,
    why: str,
    evidence: Mapping[str, Any],
    root: str | Path = ".",
    tracking_uri: str | None = None,
) -> None:
    """Moves a version: its aliases, its MLflow stage and a line in the promotion log.

    Who stood on a champion's or challenger's place before is archived, with a line of its own.

    Args:
        name: The registered model.
        version: The version to move.
        to: 'champion' (Production), 'challenger' (Staging) or 'archived'.
        who: A person; see `person`.
        why: The reason, in words.
        evidence: Numbers or file names that the decision rests on.
        root: The checkout whose promotion log is written.
        tracking_uri: MLflow; see `tracking.tracking_uri_of`.

    Raises:
        TaskError: There is no such version, or MLflow does not answer.
    """
    with explained(tracking_uri or tracking.tracking_uri_of(root)) as client:
        former = standing(client, name)
        if to != "archived" and former.get(to) not in (None, version):
            replaced = str(former[to])
            _stand(client, name, replaced, "archived", former)
            line = f"replaced by version {version}"
            _log_move(Path(root), name, replaced, to, "archived", who, line, evidence)
        start = next((place for place, held in former.items() if held == version), None)
        _stand(client, name, version, to, former)
        _log_move(Path(root), name, version, start, to, who, why, evidence)


def standing(client: MlflowClient, name: str) -> dict[str, str]:
    """Which version is champion and which challenger, by alias."""
    aliases = client.get_registered_model(name).aliases
    return {place: str(aliases[place]) for place in ("champion", "challenger") if place in aliases}


def promotions(root: str | Path = ".") -> list[dict[str, Any]]:
    """The promotion log, oldest first; see `move`."""
    path = Path(root) / PROMOTIONS
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


def person(root: str | Path = ".") -> str:
    """Who acts: git's user where one is set, else the login name."""
    name = lineage.git(root, "config", "user.name", check=False)
    mail = lineage.git(root, "config", "user.email", check=False)
    return f"{name} <{mail}>" if name and mail else name or lineage.os_user()


def find_same(client: MlflowClient, name: str, tags: Mapping[str, str]) -> ModelVersion | None:
    """The version of the same weights, judged on the same test set."""
    same = [f"tags.{key} = '{tags[key]}'" for key in ("weights", "test_digest")]
    found = client.search_model_versions(" and ".join([f"name = '{name}'", *same]))
    return min(found, key=lambda version: int(version.version), default=None)


class explained:
    """A client, and MLflow's failures as one sentence with a remedy."""

    def __init__(self, tracking_uri: str):
        self.uri = tracking_uri

    def __enter__(self) -> MlflowClient:
        return tracking.connect(self.uri)

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        from mlflow.exceptions import MlflowException

        if isinstance(error, MlflowException):
            said = tracking.shown(" ".join(str(error).split()))[:300]
            where = tracking.shown(self.uri)
            # Not `from error`: what it says may hold the password, and would be logged.
            raise TaskError(
                f"MLflow at {where}: {said}. Check that it runs there, then try again."
            ) from None


def _register_again(
    client: MlflowClient,
    name: str,
    known: ModelVersion,
    root: Path,
    run_id: str,
    tracking_uri: str | None,
) -> RegisteredVersion:
    version = str(known.version)
    if version not in standing(client, name).values():
        why = f"made again by flow run {run_id}"
        move(name, version, "challenger", person(root), why, {}, root, tracking_uri)
    commit = known.tags["git_commit"]
    return RegisteredVersion(name, version, str(known.run_id), commit, created=False)


def _refuse_unrepeatable(root: Path, pushed: bool) -> None:
    missing = lineage.untracked_code(root)
    if missing:
        listed = "".join(f"\n  {path}" for path in missing)
        raise TaskError(
            f"not registered: no commit holds this code, so nobody could repeat the run:{listed}\n"
            "`git add` these files (or delete them) and run again."
        )
    if not pushed:
        raise TaskError(
            "not registered: `dvc push` did not confirm that the remote holds the run's outputs; "
            "set a remote (`dvc remote add -d`) or mend the connection, and run again."
        )


def _evaluation_tags(root: Path) -> dict[str, str]:
    try:
        metrics = json.loads((root / EVALUATE / "metrics.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise TaskError(
            f"{EVALUATE}/metrics.json is missing or broken: run `dvc repro evaluate`."
        ) from None
    tags = {"test_digest": str(metrics["test_digest"]), "labels": str(metrics["labels"])}
    measured = {
        "accuracy": metrics["pretrained"]["accuracy"],
        "scratch_accuracy": metrics["scratch"]["accuracy"],
        "gain": metrics["gain"],
    }
    for name, value in measured.items():
        # One label draw has no interval.
        parts = {part: value[part] for part in ("mean", "low", "high")}
        tags |= {f"{name}_{p}": str(number) for p, number in parts.items() if number is not None}
    return tags


def _flow_run(client: MlflowClient, name: str, run_id: str) -> str:
    experiment = client.get_experiment_by_name(name)
    found = experiment and tracking.find_run(
        client, experiment.experiment_id, {tracking.FLOW_RUN: run_id}
    )
    if not found:
        raise TaskError(f"MLflow does not know run {run_id} yet: `instar sync`, then try again.")
    return found.info.run_id


def _ensure_model(client: MlflowClient, name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _stand(
    client: MlflowClient, name: str, version: str, to: Place, former: Mapping[str, str]
) -> None:
    """Aliases first: should the rest fail, they are the truth and a second move mends it."""
    for place, held in former.items():
        if held == version and place != to:
            for alias in ALIASES[place]:
                client.delete_registered_model_alias(name, alias)
    for alias in ALIASES[to]:
        client.set_registered_model_alias(name, alias, version)
    _set_stage(client, name, version, STAGES[to])


def _set_stage(client: MlflowClient, name: str, version: str, stage: str) -> None:
    """The one place that knows MLflow's deprecated stages."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        client.transition_model_version_stage(name, version, stage)


def _log_move(
    root: Path,
    name: str,
    version: str,
    start: str | None,
    to: Place,
    who: str,
    why: str,
    evidence: Mapping[str, Any],
) -> None:
    line = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "name": name,
        "version": version,
        "from": start,
        "to": to,
        "who": who,
        "why": why,
        "evidence": dict(evidence),
    }
    path = root / PROMOTIONS
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
        file.flush()
        os.fsync(file.fileno())
