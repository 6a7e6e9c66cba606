"""The tags of a registered version: what made it and how well it does."""

from __future__ import annotations

import json
from pathlib import Path

from tasks.errors import TaskError
from tasks.settings.project_files import read_yaml
from tasks.system.hashing import digest, hash_file
from tasks.versioning.git import require_git

WEIGHTS = Path("artifacts/finetune/classifiers/pretrained-0.safetensors")
MANIFEST = Path("artifacts/prepare/store/manifest.json")
LEARNERS = Path("artifacts/finetune/learners.json")
# Of artifacts from before learners.json recorded it.
NOT_RECORDED = "not recorded"
EVALUATE = Path("artifacts/evaluate")
# Where the evaluation of a registered run lies among the artifacts of its MLflow run.
EVALUATION = "evaluation"
# The tag in which the gate leaves its outcome.
GATE = "gate"


def lineage_tags(root: str | Path = ".", commit: str | None = None) -> dict[str, str]:
    """All that is needed to make the present weights again, as tags of a model version.

    Args:
        root: The checkout with the artifacts.
        commit: The commit that holds the run (`snapshot_commit`'s answer); HEAD if None.

    Raises:
        TaskError: A file of the lineage is missing, or this is not a git repository.
    """
    root = Path(root)
    params = read_yaml(root / "params.yaml")
    tags = {
        "git_commit": commit or require_git(root),
        "dvc_lock": hash_file(root / "dvc.lock"),
        "params": digest(json.dumps(params, sort_keys=True, default=str).encode()),
        "data_version": data_version(root),
        "weights": hash_file(root / WEIGHTS),
        **trained_on(root),
        "method": str(params.get("pretrain", {}).get("method", {}).get("name", "")),
        "label_fraction": str(params.get("finetune", {}).get("label_fraction", "")),
    }
    if (root / "requirements.lock").exists():
        tags["requirements_lock"] = hash_file(root / "requirements.lock")
    return tags


def data_version(root: str | Path = ".") -> str:
    """The digest of the packed store: one sha256 over every image, id and split."""
    try:
        return str(json.loads((Path(root) / MANIFEST).read_text(encoding="utf-8"))["digest"])
    except (OSError, ValueError, KeyError):
        raise TaskError(
            f"{MANIFEST} is missing or broken: run `dvc repro prepare` (or `dvc pull`)."
        ) from None


def trained_on(root: str | Path = ".") -> dict[str, str]:
    """torch's version and the device that the present weights were learned with.

    Not this machine's: the weights may come from DVC's cache, or from another's run.
    """
    try:
        found = json.loads((Path(root) / LEARNERS).read_text(encoding="utf-8")).get("machine", {})
    except (OSError, ValueError):
        raise TaskError(
            f"{LEARNERS} is missing or broken: run `dvc repro finetune` (or `dvc pull`)."
        ) from None
    return {name: str(found.get(name, NOT_RECORDED)) for name in ("torch", "device")}


def evaluation_tags(root: Path) -> dict[str, str]:
    """What the evaluation of the present weights found, as tags of a model version.

    Raises:
        TaskError: There is none.
    """
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


def label_draws(root: Path) -> str:
    """One hash over the labelled rows and the seed of each draw, for `paired_gain`."""
    fits = json.loads((root / LEARNERS).read_text(encoding="utf-8"))["arms"]["pretrained"]
    return digest(json.dumps([(fit["seed"], fit["rows"]) for fit in fits]).encode())
