"""Where a model version comes from: all that made it, and where each part is to be seen.

MLflow's tags and runs tell it, so that it needs neither the checkout's files nor DVC's cache; of a
stage that came out of a cache, the run that computed it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from tasks.registry.tags import GATE, NOT_RECORDED
from tasks.system.redaction import shown
from tasks.system.unattended import git
from tasks.tracking.client import explained, tracking_uri_of
from tasks.tracking.model_versions import find_version
from tasks.tracking.runs import PARENT, STAGE, knows

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

STAGES = ("prepare", "pretrain", "finetune", "evaluate")
# Of prepare's summary.json, in MLflow as metrics.
_COUNTS = ("train", "unlabelled", "test", "duplicates", "quarantined")


def ancestry(
    reference: str, root: str | Path = ".", tracking_uri: str | None = None
) -> dict[str, Any]:
    """The whole lineage of a version, as plain JSON; what was not recorded is None.

    Args:
        reference: `NAME@3` or `NAME@production`; see `model_versions.find_version`.
        root: The checkout, whose git knows the version's tag.
        tracking_uri: MLflow; see `client.tracking_uri_of`.

    Raises:
        TaskError: There is no such version, or MLflow does not answer.
    """
    uri = tracking_uri or tracking_uri_of(root)
    with explained(uri) as client:
        version = find_version(client, reference)
        before = _version_before(client, version)
        runs = stage_runs(client, version)
        flow = str(version.run_id)
        parent = client.get_run(flow) if knows(client, flow) else None
        settings = _settings_of(client, version)
        earlier = _settings_of(client, before) if before else None
    tags = version.tags
    return {
        "name": version.name,
        "version": str(version.version),
        "url": _page(uri, f"models/{quote(version.name)}/versions/{version.version}"),
        "code": {
            "commit": tags.get("git_commit"),
            "tag": git_tag(root, version),
            "requirements_lock": tags.get("requirements_lock"),
            "dvc_lock": tags.get("dvc_lock"),
        },
        "settings": {
            "hash": tags.get("params"),
            "before": str(before.version) if before else None,
            "changed": _changes(earlier, settings),
        },
        "data": {
            "version": tags.get("data_version"),
            "source": settings.get("data.source"),
            "path": settings.get("data.path"),
            "counts": _counts(runs.get("prepare")),
        },
        "labels": {
            "draw": tags.get("label_draws"),
            "fraction": tags.get("label_fraction"),
            "labels": tags.get("labels"),
            "draws": settings.get("finetune.draws"),
            "seed": settings.get("finetune.seed"),
        },
        "method": tags.get("method"),
        "runs": {
            "flow": _described(uri, parent, version),
            **{stage: _described(uri, runs.get(stage), version) for stage in STAGES},
        },
        "machine": {name: tags.get(name, NOT_RECORDED) for name in ("device", "torch")},
        "weights": tags.get("weights"),
        "test_digest": tags.get("test_digest"),
        "accuracy": _interval(tags, "accuracy"),
        "gain": _interval(tags, "gain"),
        "verdict": {"gate": tags.get(GATE), "reasons": tags.get("gate_reasons")},
        "reproduced": {
            name: tags.get(f"reproduced{part}")
            for name, part in (("verdict", ""), ("scope", "_scope"), ("at", "_at"), ("on", "_on"))
        },
    }


def stage_runs(client: MlflowClient, version: ModelVersion) -> dict[str, Run]:
    """The MLflow run that computed each stage of a version, by the stage's name.

    What MLflow has lost is left out.
    """
    flow = str(version.run_id)
    if not knows(client, flow):
        return {}
    parent = client.get_run(flow)
    children = client.search_runs(
        [parent.info.experiment_id], f"tags.`{PARENT}` = '{flow}'", order_by=["start_time ASC"]
    )
    # A retry may have left another run of the stage that failed: the last one counts.
    found = {child.data.tags[STAGE]: child for child in children if STAGE in child.data.tags}
    for stage in STAGES:
        computed = parent.data.tags.get(f"cached.{stage}")
        if computed and knows(client, computed):
            found[stage] = client.get_run(computed)
    return found


def git_tag(root: str | Path, version: ModelVersion) -> str | None:
    """The git tag that keeps the version's commit; None where this repository has none.

    After a loss of MLflow's database numbers repeat, and tags bear the commit's beginning.
    """
    commit = version.tags.get("git_commit", "")
    plain = f"instar/{version.name}/v{version.version}"
    for tag in (plain, f"{plain}-{commit[:12]}"):
        held = git(
            root, "rev-parse", "--verify", "--quiet", f"refs/tags/{tag}^{{commit}}", check=False
        )
        if commit and held == commit:
            return tag
    return None


def _version_before(client: MlflowClient, version: ModelVersion) -> ModelVersion | None:
    every = client.search_model_versions(f"name = '{version.name}'")
    earlier = [other for other in every if int(other.version) < int(version.version)]
    return max(earlier, key=lambda other: int(other.version), default=None)


def _settings_of(client: MlflowClient, version: ModelVersion) -> dict[str, str]:
    """All settings of the run that made a version, flat; empty where MLflow has lost it."""
    run = str(version.run_id)
    return dict(client.get_run(run).data.params) if knows(client, run) else {}


def _changes(before: dict[str, str] | None, now: dict[str, str]) -> dict[str, list[str | None]]:
    """Settings that differ: name to the value before and the one now."""
    if not before:
        return {}
    names = sorted({*before, *now})
    return {n: [before.get(n), now.get(n)] for n in names if before.get(n) != now.get(n)}


def _counts(prepare: Run | None) -> dict[str, int]:
    """How many images there are of which kind."""
    numbers = prepare.data.metrics if prepare else {}
    return {name: int(numbers[name]) for name in _COUNTS if name in numbers}


def _described(uri: str, run: Run | None, version: ModelVersion) -> dict[str, Any] | None:
    if run is None:
        return None
    tags = run.data.tags
    own = str(version.run_id) in (run.info.run_id, tags.get(PARENT))
    where = f"experiments/{run.info.experiment_id}/runs/{run.info.run_id}"
    return {
        "id": run.info.run_id,
        "name": run.info.run_name,
        "url": _page(uri, where),
        # Of an earlier flow run, whose result came out of DVC's cache.
        "from_cache": not own,
        "ended": run.info.end_time,
    }


def _page(uri: str, where: str) -> str | None:
    """A page of MLflow's UI; None for a bare database, which has none."""
    web = uri.startswith(("http://", "https://"))
    return f"{shown(uri).rstrip('/')}/#/{where}" if web else None


def _interval(tags: dict[str, str], name: str) -> dict[str, float | None]:
    values = {part: tags.get(f"{name}_{part}") for part in ("mean", "low", "high")}
    return {part: None if value is None else float(value) for part, value in values.items()}
