"""Whether the settings can work with so many images: every setting that cannot, at once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from data.outlook import Outlook, look_ahead
from data.splits import labels_drawn, smallest_fraction
from tasks.errors import TaskError
from tasks.params import Params, load_params


@dataclass(frozen=True)
class Misfit:
    """A setting that the data refuse.

    Attributes:
        key: Its dotted name.
        why: What is wrong with it.
        remedy: A value that works.
    """

    key: str
    why: str
    remedy: str


def misfits(params: Params, data: Outlook) -> list[Misfit]:
    """The settings that some stage would refuse for these data, in the order of the stages."""
    found = []
    batch = params.pretrain.batch_size
    if batch > data.train:
        # A power of two, as is usual; the whole of a smaller set.
        fits = 1 << (data.train.bit_length() - 1)
        why = f"a batch of {batch:,} images cannot be made of {data.train:,}"
        found.append(Misfit("pretrain.batch_size", why, str(fits)))
    clusters = getattr(params.pretrain.method, "clusters", 0)
    if clusters > data.train:
        why = f"{data.train:,} images cannot make {clusters:,} clusters"
        fewer = max(2, data.train // 4)
        found.append(Misfit("pretrain.method.clusters", why, str(fewer)))
    fractions = {
        "pretrain.probe_fraction": params.pretrain.probe_fraction,
        "finetune.label_fraction": params.finetune.label_fraction,
    }
    for key, fraction in fractions.items():
        classes = sum(count > 0 for count in data.per_class)
        labels = labels_drawn(fraction, data.train, sum(data.per_class))
        # No probe is one that suits any data.
        if labels < classes and not (key == "pretrain.probe_fraction" and fraction == 0):
            why = f"{fraction:g} of {data.train:,} images is {labels} labels for {classes} classes"
            found.append(Misfit(key, why, f"{smallest_fraction(classes, data.train):g}"))
    return found


def require_suitable(params: Params, data: Outlook) -> None:
    """Refuse settings that some stage would refuse for these data.

    Raises:
        TaskError: Names all of them, with values that work.
    """
    found = misfits(params, data)
    if found:
        lines = "".join(f"\n  {misfit.key}: {misfit.why}" for misfit in found)
        remedies = " ".join(f"{misfit.key}={misfit.remedy}" for misfit in found)
        raise TaskError(
            f"params.yaml does not suit these data ({data.train:,} training images, "
            f"{sum(data.per_class):,} of them labelled, {len(data.per_class)} classes):{lines}\n"
            f"What works, if not always well: instar set {remedies}"
        )


def require_suitable_project(root: Path) -> None:
    """The same of a checkout, before anything is computed, as far as names of files tell.

    Raises:
        TaskError: See `require_suitable`.
        DataError: The data cannot be understood.
    """
    params = load_params(root / "params.yaml")
    data = params.data.model_copy(update={"path": str(root / params.data.path)})
    outlook = look_ahead(data)
    if outlook is not None:
        require_suitable(params, outlook)
