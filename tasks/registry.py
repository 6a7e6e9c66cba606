"""Model versions: what may become one.

Where they stand is in `tasks.standing`, how they move in `tasks.moves`, who moved them when and why
in `tasks.promotion_log`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks import lineage, tracking
from tasks.contents import digest
from tasks.errors import ServerAwayError, TaskError
from tasks.held import held
from tasks.moves import WHOEVER, Move, carry_out, set_tags, traces
from tasks.params import load_params
from tasks.promotion_log import PROMOTIONS, REJECTED, promotions, rejections, stood
from tasks.proxies import by_proxy
from tasks.serving import log_served_model
from tasks.standing import STAGES, Place, set_stage, settle, standing

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

EVALUATE = Path("artifacts/evaluate")
LEARNERS = lineage.LEARNERS
# Where the evaluation of a registered run lies among the artifacts of its MLflow run.
EVALUATION = "evaluation"
# The tag in which the gate leaves its outcome.
GATE = "gate"


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
        tracking_uri: MLflow; see `tracking.tracking_uri_of`.
        pushed: Whether `dvc push` confirmed that the remote has every output.

    Raises:
        TaskError: Something that the version needs exists only here (untracked code, an output
            that was not pushed), the flow run is not in MLflow, or MLflow does not answer.
    """
    root = Path(root)
    _refuse_unrepeatable(root, pushed)
    name, commit, tags = _description(root, run_id)
    uri = tracking_uri or tracking.tracking_uri_of(root)
    with one_at_a_time(root, f"a registration by run {run_id}"), explained(uri) as client:
        run = _flow_run(client, name, run_id)
        known = find_same(client, name, tags)
        if known is not None:
            return _register_again(client, name, known, root, run_id, tracking_uri)
        made = _make_version(client, root, name, run, tags)
        _keep_commit(root, name, str(made.version), commit)
        why = f"registered by flow run {run_id}"
        version = str(made.version)
        move(name, version, "challenger", person(root), why, {}, root, tracking_uri)
    _log_picture(name, version, run, root, uri)
    return RegisteredVersion(name, version, run, commit, created=True)


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


def remake(root: str | Path, run_id: str, tracking_uri: str | None = None) -> str:
    """Makes a version of the present artifacts that MLflow had and lost; moves and notes nothing.

    Returns:
        Its number.

    Raises:
        TaskError: The flow run is not in MLflow, or MLflow does not answer.
    """
    root = Path(root)
    name, _, tags = _description(root, run_id)
    with explained(tracking_uri or tracking.tracking_uri_of(root)) as client:
        return str(_make_version(client, root, name, _flow_run(client, name, run_id), tags).version)


def stand_as_logged(name: str, root: str | Path, tracking_uri: str | None = None) -> None:
    """Gives aliases, stages and rejections back that the promotion log tells of and MLflow lost."""
    logged = promotions(root)
    # The last of each version.
    moved = {line["version"]: line for line in logged if line["name"] == name}
    places = stood(logged, name)
    with explained(tracking_uri or tracking.tracking_uri_of(root)) as client:
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
    weights = {"weights": lineage.hash_file(root / lineage.WEIGHTS)}
    with explained(tracking_uri or tracking.tracking_uri_of(root)) as client:
        name = load_params(root / "params.yaml").register_.name
        known = find_same(client, name, {**weights, **_evaluation_tags(root)})
        return str(known.version) if known is not None and GATE in known.tags else None


def move(
    name: str,
    version: str,
    to: Place,
    who: str,
    why: str,
    evidence: Mapping[str, Any],
    root: str | Path = ".",
    tracking_uri: str | None = None,
    *,
    tags: Mapping[str, str] | None = None,
    tags_of_replaced: Mapping[str, str] | None = None,
    over: str | None = WHOEVER,
) -> None:
    """Moves a version; see `moves.Move` and `moves.carry_out`. The caller is `one_at_a_time`.

    Raises:
        TaskError: There is no such version, MLflow does not answer, or another was faster.
    """
    wanted = Move(name, version, to, who, why, evidence, tags or {}, tags_of_replaced or {})
    with explained(tracking_uri or tracking.tracking_uri_of(root)) as client:
        carry_out(client, wanted, root, over)


def require_known_champion(client: MlflowClient, name: str, root: str | Path = ".") -> str | None:
    """The champion's version; None if there is none and the promotion log agrees.

    Raises:
        TaskError: The log tells of a champion of whom MLflow knows nothing.
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
    name = lineage.git(root, "config", "user.name", check=False)
    mail = lineage.git(root, "config", "user.email", check=False)
    return f"{name} <{mail}>" if name and mail else name or lineage.os_user()


def find_same(client: MlflowClient, name: str, tags: Mapping[str, str]) -> ModelVersion | None:
    """The version of the same weights and abstention, judged on the same test set."""
    parts = ("weights", "test_digest", "abstains_below")
    same = [f"tags.{key} = '{tags[key]}'" for key in parts]
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

        refused = tracking.refusal(self.uri, error)
        if refused is not None:
            raise TaskError(refused) from None
        if isinstance(error, MlflowException):
            said = tracking.shown(" ".join(str(error).split()))[:300]
            where = tracking.shown(self.uri)
            # Not `from error`: what it says may hold the password, and would be logged.
            raise ServerAwayError(
                f"MLflow at {where}{by_proxy(self.uri)}: {said}. Check that it runs there, then "
                "try again."
            ) from None


def _register_again(
    client: MlflowClient,
    name: str,
    known: ModelVersion,
    root: Path,
    run_id: str,
    tracking_uri: str | None,
) -> RegisteredVersion:
    version, commit = str(known.version), known.tags["git_commit"]
    if lineage.git(root, "rev-parse", "--verify", "--quiet", f"{commit}^{{commit}}", check=False):
        # This clone has it, and a registration that broke off may have left it without a tag.
        _keep_commit(root, name, version, commit)
        lineage.drop_repetition(root, run_id, commit)
    if version not in standing(client, name).values():
        why = f"made again by flow run {run_id}"
        move(name, version, "challenger", person(root), why, {}, root, tracking_uri)
    return RegisteredVersion(name, version, str(known.run_id), commit, created=False)


def _keep_commit(root: Path, name: str, version: str, commit: str) -> None:
    """Tags a version's commit, which keeps it, and what it names, from `git gc` and `dvc gc`.

    After a loss of MLflow's database the numbers of versions begin anew: a tag that names another
    commit stays, and the new one carries the commit's own beginning.
    """
    tag = f"instar/{name}/v{version}"
    held = lineage.git(root, "rev-parse", "--verify", "--quiet", f"{tag}^{{commit}}", check=False)
    if held not in ("", commit):
        tag = f"{tag}-{commit[:12]}"
    lineage.git(root, "tag", "--force", tag, commit)


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


def _description(root: Path, run_id: str) -> tuple[str, str, dict[str, str]]:
    """Name, commit and tags of the version that the present artifacts make."""
    commit = lineage.snapshot_commit(root, run_id)
    tags = {**lineage.lineage_tags(root, commit), **_evaluation_tags(root), "run_id": run_id}
    tags["label_draws"] = _label_draws(root)
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
    from tasks.ancestry import ancestry
    from tasks.family_tree import log_picture

    found = ancestry(f"{name}@{version}", root, uri)
    with explained(uri) as client:
        log_picture(client, run, found)


def _evaluation_tags(root: Path) -> dict[str, str]:
    try:
        metrics = json.loads((root / EVALUATE / "metrics.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise TaskError(
            f"{EVALUATE}/metrics.json is missing or broken: run `dvc repro evaluate`."
        ) from None
    tags = {"test_digest": str(metrics["test_digest"]), "labels": str(metrics["labels"])}
    # Part of what a model is: the same weights that abstain elsewhere are another.
    abstention = metrics.get("abstention") or {}
    tags["abstains_below"] = str(abstention.get("threshold", "never")).lower()
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


def _label_draws(root: Path) -> str:
    """One hash over the labelled rows and the seed of each draw; see `intervals.paired_gain`."""
    fits = json.loads((root / LEARNERS).read_text(encoding="utf-8"))["arms"]["pretrained"]
    return digest(json.dumps([(fit["seed"], fit["rows"]) for fit in fits]).encode())


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
