"""Whether the settings fit the data: all that does not, in one message, before anything is trained.

Each stage refuses what it cannot do, but one after the other, and the last of them after minutes.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data.packing.census import Census, count_listed
from data.sources.params import DataParams
from data.store.splits import drawn_labels, smallest_fraction
from models.methods.clustering.params import DeepClusterV2Params
from models.methods.contrastive.params import MoCoV2Params
from tasks.errors import TaskError
from tasks.settings.loading import load_params
from tasks.settings.misfit import Misfit
from tasks.settings.schema import Params, PretrainParams

# Labels a class that a remedy gives, where there are twice as many: so that draws differ.
LABELS_A_CLASS = 5
SMALLEST_BATCH = next(
    rule.ge for rule in PretrainParams.model_fields["batch_size"].metadata if hasattr(rule, "ge")
)


def require_fitting(params: Params, census: Census, rehearsed: bool = False) -> None:
    """Refuse settings that a stage would refuse for these data.

    Args:
        params: Valid settings.
        census: What there is to learn from.
        rehearsed: Whether it is known already that encoder, method and learner go together.

    Raises:
        TaskError: Lists all that does not fit, with a command that sets values that do.
    """
    found = list(_too_few(params, census))
    if not rehearsed:
        from tasks.settings.rehearsal import rehearse

        found += rehearse(params)
    if not found:
        return
    remedy = {key: value for misfit in found for key, value in misfit.remedy.items()}
    command = " ".join(["instar set", *(f"{key}={_as_typed(remedy[key])}" for key in remedy)])
    said = [misfit.problem for misfit in found]
    what = "these do" if len(remedy) > 1 else "this does"
    does = f"{what}: `{command}`" if remedy else ""
    if len(said) == 1:
        raise TaskError("; ".join([*said, *([does] if does else [])]))
    data = f"{census.train} training images, {len(census.per_class)} classes"
    listed = "".join(f"\n  - {problem}" for problem in said)
    tail = f"\n{does[:1].upper()}{does[1:]}" if does else ""
    raise TaskError(f"{len(said)} settings do not fit the data ({data}):{listed}{tail}")


def require_fitting_here(root: Path) -> bool:
    """Refuse the settings of a checkout that do not fit what its data's listing promises.

    Returns:
        Whether the data are there to be looked at.

    Raises:
        TaskError: See `require_fitting`.
        DataError: The data cannot be used at all.
    """
    params = load_params(root / "params.yaml")
    if not (root / params.data.path).exists():
        return False
    require_fitting(params, count_listed(at(root, params.data)))
    return True


def at(root: Path, data: DataParams) -> DataParams:
    """The data of a checkout; in the checkout itself by the path that the user wrote."""
    if root.resolve() == Path.cwd():
        return data
    return data.model_copy(update={"path": str(root / data.path)})


def _too_few(params: Params, census: Census) -> Iterator[Misfit]:
    """What asks for more images or labels than there are."""
    train, pretrain = census.train, params.pretrain
    method = pretrain.method
    if pretrain.batch_size > train:
        problem = (
            f"pretrain.batch_size = {pretrain.batch_size}: a batch needs as many training images, "
            f"and there are {train}"
        )
        if train < SMALLEST_BATCH:
            yield Misfit(f"{problem}; the smallest batch is {SMALLEST_BATCH}: add images")
        else:
            remedy = {"pretrain.batch_size": _batch(train)}
            if isinstance(method, MoCoV2Params) and method.groups > _batch(train) // 2:
                # Batch norm wants two images in each group.
                remedy["pretrain.method.groups"] = _batch(train) // 2
            yield Misfit(problem, remedy)
    if isinstance(method, DeepClusterV2Params) and method.clusters > train:
        yield Misfit(
            f"pretrain.method.clusters = {method.clusters}: {train} training images cannot make as "
            "many",
            {"pretrain.method.clusters": max(1, train // 4)},
        )
    if pretrain.probe_fraction:
        yield from _few_labels("pretrain.probe_fraction", pretrain.probe_fraction, census)
    yield from _few_labels("finetune.label_fraction", params.finetune.label_fraction, census)


def _few_labels(key: str, fraction: float, census: Census) -> Iterator[Misfit]:
    classes = len(census.per_class)
    labels = drawn_labels(fraction, census.train, census.labelled)
    if labels >= classes:
        return
    least = smallest_fraction(classes, census.train)
    each = min(LABELS_A_CLASS, max(1, census.labelled // (2 * classes)))
    yield Misfit(
        f"{key} = {fraction:g}: of {census.train} training images that is {labels} labels for "
        f"{classes} classes; raise {key} to at least {least:g}",
        {key: smallest_fraction(each * classes, census.train, digits=2)},
    )


def _batch(train: int) -> int:
    """A power of two that leaves two steps an epoch, where there are images for that."""
    return max(SMALLEST_BATCH, 1 << ((train // 2).bit_length() - 1))


def _as_typed(value: Any) -> str:
    return "null" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
