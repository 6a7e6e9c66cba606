"""Self-supervised methods by name; importing this package does not import torch.

A method is a module with an `encoder`, trained in place; `models.methods.base` says what it
takes and gives, docs/guides/add-a-method.md how to add one.
"""

from contextlib import nullcontext
from typing import TYPE_CHECKING

from models.methods.contrastive.params import SimCLRParams
from models.methods.params import MethodParams

if TYPE_CHECKING:
    from models.encoders.images.encoder import Encoder
    from models.methods.base import Method

__all__ = ["MethodParams", "SimCLRParams", "build_method"]


def build_method(params: MethodParams, encoder: "Encoder", seed: int | None = None) -> "Method":
    """Build the method that `params.name` names, around the encoder it trains.

    Args:
        params: Settings of the method.
        encoder: Trained in place.
        seed: Makes the fresh heads a function of itself and leaves the global generator alone;
            None draws from the global generator.
    """
    # Imported here, so that reading the settings costs no import of torch.
    from models.methods.registry import method_class
    from models.training.randomness import seeded

    with nullcontext() if seed is None else seeded(seed, "method"):
        return method_class(params.name)(params, encoder)
