"""Model versions: what may become one.

Where they stand is in `registry.aliases`, how they move in `registry.transitions`, who moved them
when and why in `registry.promotion_log`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.errors import TaskError
from tasks.registry import tags as registry_tags
from tasks.registry.aliases import STAGES, set_stage, settle, standing
from tasks.registry.move import Move, traces
from tasks.registry.promotion_log import REJECTED, promotions, rejections, stood
from tasks.registry.tags import EVALUATE, EVALUATION, GATE, evaluation_tags, label_draws
from tasks.registry.transitions import move, one_at_a_time, person, set_tags
from tasks.serving.packaging import log_served_model
from tasks.settings.loading import load_params
from tasks.system import unattended
from tasks.tracking import client as tracking_client
from tasks.tracking import runs
from tasks.tracking.client import explained
from tasks.versioning import git

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion


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
    becomes challenger again if it was archived. A run of the very tree that made it leaves no
    branch.

    Args:
        root: The checkout whose artifacts are registered.
        run_id: The flow run that made them, already published.
        tracking_uri: MLflow; see `client.tracking_uri_of`.
        pushed: Whether `dvc push` confirmed that the remote has every output.

    Raises:
        TaskError: Something that the version needs exists only here (untracked code, an output
            that was not pushed), the flow run is not in MLflow, or MLflow does not answer.
    """
    root = Path(root)
    _refuse_unrepeatable(root, pushed)
    name, commit, tags = _description(root, run_id)
    uri = tracking_uri or tracking_client.tracking_uri_of(root)
    with one_at_a_time(root, f"a registration by run {run_id}"), explained(uri) as client:
        run = _flow_run(client, name, run_id)
        known = find_same(client, name, tags)
        if known is not None:
            return _register_again(client, name, known, root, run_id, tracking_uri)
        made = _make_version(client, root, name, run, tags)
        _keep_commit(root, name, str(made.version), commit)
        why = f"registered by flow run {run_id}"
        version = str(made.version)
        move(Move(name, version, "challenger", person(root), why), root, tracking_uri)
    _log_picture(name, version, run, root, uri)
    return RegisteredVersion(name, version, run, commit, created=True)


def remake(root: str | Path, run_id: str, tracking_uri: str | None = None) -> str:
    """Makes a version of the present artifacts that MLflow had and lost; moves and notes nothing.

    Returns:
        Its number.

    Raises:
        TaskError: The flow run is not in MLflow, or MLflow does not answer.
    """
    root = Path(root)
    name, _, tags = _description(root, run_id)
    with explained(tracking_uri or tracking_client.tracking_uri_of(root)) as client:
        return str(_make_version(client, root, name, _flow_run(client, name, run_id), tags).version)


def stand_as_logged(name: str, root: str | Path, tracking_uri: str | None = None) -> None:
    """Gives aliases, stages and rejections back that the promotion log has and MLflow lost."""
    logged = promotions(root)
    # The last of each version.
    moved = {line["version"]: line for line in logged if line["name"] == name}
    places = stood(logged, name)
    with explained(tracking_uri or tracking_client.tracking_uri_of(root)) as client:
        for version, line in moved.items():
            set_tags(client, name, version, traces(line))
        for version, why in rejections(logged, name).items():
            set_tags(client, name, version, {REJECTED: why})
        for version in moved.keys() - set(places.values()):
            set_stage(client, name, version, STAGES["archived"])
        for place, version in places.items():
            client.set_registered_model_alias(name, place, version)
        settle(client, name)


def judged_version(root: str | Path, tracking_uri: str | None = None) -> str | None:
    """The version of the present artifacts, if there is one that the gate has judged."""
    root = Path(root)
    weights = {"weights": registry_tags.hash_file(root / registry_tags.WEIGHTS)}
    with explained(tracking_uri or tracking_client.tracking_uri_of(root)) as client:
        name = load_params(root / "params.yaml").register_.name
        known = find_same(client, name, {**weights, **evaluation_tags(root)})
        return str(known.version) if known is not None and GATE in known.tags else None


def find_same(client: MlflowClient, name: str, tags: Mapping[str, str]) -> ModelVersion | None:
    """The version of the same weights and abstention, judged on the same test set."""
    parts = ("weights", "test_digest", "abstains_below")
    same = [f"tags.{key} = '{tags[key]}'" for key in parts]
    found = client.search_model_versions(" and ".join([f"name = '{name}'", *same]))
    return min(found, key=lambda version: int(version.version), default=None)


def _register_again(
    client: MlflowClient,
    name: str,
    known: ModelVersion,
    root: Path,
    run_id: str,
    tracking_uri: str | None,
) -> RegisteredVersion:
    version, commit = str(known.version), known.tags["git_commit"]
    if unattended.git(
        root, "rev-parse", "--verify", "--quiet", f"{commit}^{{commit}}", check=False
    ):
        # This clone has it, and a registration that broke off may have left it without a tag.
        _keep_commit(root, name, version, commit)
        git.drop_repetition(root, run_id, commit)
    if version not in standing(client, name).values():
        why = f"made again by flow run {run_id}"
        move(Move(name, version, "challenger", person(root), why), root, tracking_uri)
    return RegisteredVersion(name, version, str(known.run_id), commit, created=False)


def _keep_commit(root: Path, name: str, version: str, commit: str) -> None:
    """Tags a version's commit, which keeps it, and what it names, from `git gc` and `dvc gc`.

    After a loss of MLflow's database the numbers of versions start again: a tag that names another
    commit stays, and the new one carries the commit's own beginning.
    """
    tag = f"instar/{name}/v{version}"
    held = unattended.git(
        root, "rev-parse", "--verify", "--quiet", f"{tag}^{{commit}}", check=False
    )
    if held not in ("", commit):
        tag = f"{tag}-{commit[:12]}"
    unattended.git(root, "tag", "--force", tag, commit)


def _refuse_unrepeatable(root: Path, pushed: bool) -> None:
    missing = git.untracked_code(root)
    if missing:
        listed = "".join(f"\n  {path}" for path in missing)
        raise TaskError(
            f"not registered: no commit holds this code, so nobody could repeat the run:{listed}\n"
            "`git add` these files (or delete them) and run again."
        )
    if not pushed:
        raise TaskError(
            "not registered: `dvc push` did not confirm that the remote holds the run's outputs; "
            "set a remote (`dvc remote add -d`) or fix the connection, and run again."
        )


def _description(root: Path, run_id: str) -> tuple[str, str, dict[str, str]]:
    """Name, commit and tags of the version that the present artifacts make."""
    commit = git.snapshot_commit(root, run_id)
    tags = {**registry_tags.lineage_tags(root, commit), **evaluation_tags(root), "run_id": run_id}
    tags["label_draws"] = label_draws(root)
    return load_params(root / "params.yaml").register_.name, commit, tags


def _make_version(
    client: MlflowClient, root: Path, name: str, run: str, tags: Mapping[str, str]
) -> ModelVersion:
    _ensure_model(client, name)
    for file in ("metrics.json", "predictions.parquet"):
        client.log_artifact(run, str(root / EVALUATE / file), EVALUATION)
    model_id = log_served_model(client, run, root, name)
    # Not `models:/<id>`: with a database, MLflow looks that up at its global tracking URI.
    source = client.get_logged_model(model_id).artifact_location
    return client.create_model_version(
        name,
        source=source,
        run_id=run,
        tags=dict(tags),
        model_id=model_id,
        await_creation_for=0,  # it is there at once; waiting would only say so
    )


def _log_picture(name: str, version: str, run: str, root: Path, uri: str) -> None:
    """Shows the lineage of a new version on the page of its run."""
    from tasks.registry.lineage import ancestry
    from tasks.registry.lineage_plot import log_picture

    found = ancestry(f"{name}@{version}", root, uri)
    with explained(uri) as client:
        log_picture(client, run, found)


def _flow_run(client: MlflowClient, name: str, run_id: str) -> str:
    experiment = client.get_experiment_by_name(name)
    found = experiment and runs.find_run(client, experiment.experiment_id, {runs.FLOW_RUN: run_id})
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
