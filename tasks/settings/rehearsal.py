"""Whether encoder, method and learner go together for images of this shape: tried, not trained."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from models.encoders.params import Readout
from models.errors import ModelError
from models.methods.clustering.params import DeepClusterV2Params
from models.methods.settings import MultiCropSettings
from tasks.errors import TaskError
from tasks.settings.misfit import Misfit, with_remedy
from tasks.settings.schema import Params

if TYPE_CHECKING:
    from models.encoders.images.encoder import Encoder

READOUTS = ("pretrain.encoder", "finetune.learner", "finetune.control.learner")
# Images of a step that is tried: two in each group of a batch that is normed in four.
IMAGES = 8
# Each remedy can bring up the next problem; settings that need more than this are beyond remedy.
MOST = 12


def rehearse(params: Params) -> list[Misfit]:
    """What encoder, method and learner would refuse, the remedy of each applied before the next.

    So all remedies together do. The small CNN is known without building it, which takes torch.
    """
    if params.pretrain.encoder.name == "resnet_tiny":
        return list(_too_many_stages(params))
    found: list[Misfit] = []
    while len(found) < MOST:
        misfit = _first_problem(params)
        if misfit is None:
            break
        found.append(misfit)
        try:
            changed = with_remedy(params, misfit.remedy)
        except TaskError:
            break
        if changed == params:
            break
        params = changed
    return found


def _too_many_stages(params: Params) -> Iterator[Misfit]:
    """Readouts of the small CNN that want more maps than it has: the stem's and each stage's."""
    maps = 1 + len(params.pretrain.encoder.widths)
    for key, readout in _readouts(params).items():
        if readout.stages > maps:
            yield Misfit(
                f"{key}.readout.stages = {readout.stages}: this encoder has {maps}, stem included",
                {f"{key}.readout.stages": maps},
            )


def _readouts(params: Params) -> dict[str, Readout]:
    finetune = params.finetune
    found = (params.pretrain.encoder, finetune.learner, finetune.control.learner)
    return {key: part.readout for key, part in zip(READOUTS, found, strict=True)}


def _first_problem(params: Params) -> Misfit | None:
    try:
        encoder = _pooled_encoder(params)
    except ModelError as error:
        return Misfit(f"pretrain.encoder: {error}", error.remedy)
    for key, readout in _readouts(params).items():
        if misfit := _unreadable(encoder, key, readout):
            return misfit
    try:
        _try_step(params, encoder)
    except ModelError as error:
        return Misfit(f"pretrain.method {params.pretrain.method.name}: {error}", error.remedy)
    return None


def _pooled_encoder(params: Params) -> Encoder:
    """The encoder without its readout, which is tried apart."""
    from models.encoders.images.encoder import build_encoder

    described = params.pretrain.encoder.model_copy(update={"readout": Readout()})
    grey = [0.5] * params.data.channels
    return build_encoder(described, len(grey), params.data.size, grey, grey, seed=0)


def _unreadable(encoder: Encoder, key: str, readout: Readout) -> Misfit | None:
    """A readout that the encoder does not have, and the nearest that it has."""
    candidates = [
        *(readout.model_copy(update={"stages": n}) for n in range(readout.stages, 0, -1)),
        Readout(),
    ]
    said = None
    for candidate in candidates:
        try:
            encoder.read_out_dim(candidate)
        except ModelError as error:
            said = said or str(error)
            continue
        if said is None:
            return None
        changes = {
            f"{key}.readout.{name}": value
            for name, value in candidate.model_dump().items()
            if value != getattr(readout, name)
        }
        return Misfit(f"{key}.readout: {said}", changes)
    return Misfit(f"{key}.readout: {said}")


def _try_step(params: Params, pooled: Encoder) -> None:
    """Take the loss of a step on images of noise; raise ModelError if that is refused."""
    import torch

    from models.encoders.images.encoder import Encoder
    from models.methods import build_method
    from models.training.randomness import seeded

    settings, policy = params.pretrain.method, params.pretrain.augmentation
    grey = [0.5] * params.data.channels
    encoder = Encoder(pooled.network, params.pretrain.encoder.readout, params.data.size, grey, grey)
    method = build_method(settings, encoder, seed=0)
    # Whether there are enough images is asked of the census.
    clusters = settings.clusters if isinstance(settings, DeepClusterV2Params) else 0
    method.expect(max(IMAGES, clusters))
    sides = [policy.view_size or params.data.size] * settings.views
    if isinstance(settings, MultiCropSettings):
        sides += [settings.local_size] * settings.local_views
    with seeded(0, "rehearsal"), torch.no_grad():
        views = [torch.rand(IMAGES, params.data.channels, side, side) for side in sides]
        method.training_step({"views": views, "index": torch.arange(IMAGES)})
