"""Self-supervised methods by name; importing this package does not import torch.

A method is a module with an `encoder`, trained in place, and `training_step(batch)`: a batch is
a dict with `views`, a list of float images (N, C, H, W); it gives a dict with the scalar `loss`
and, where it has any, `embeddings` (M, D), which the collapse monitor watches. To add one: a
file beside `simclr.py`, its params in `params.py`, and its line in `METHODS`.
"""

from contextlib import nullcontext
from typing import TYPE_CHECKING

from models.methods.params import MethodParams, SimCLRParams

if TYPE_CHECKING:
    from models.encoders import Encoder
    from models.methods.method import Method

__all__ = ["METHODS", "MethodParams", "SimCLRParams", "build_method"]


def _simclr(params: SimCLRParams, encoder: "Encoder") -> "Method":
    from models.methods.simclr import SimCLR

    return SimCLR(params, encoder)


# Each imports its method when called, so that reading the settings costs no import of torch.
METHODS = {"simclr": _simclr}


def build_method(params: MethodParams, encoder: "Encoder", seed: int | None = None) -> "Method":
    """Build the method that `params.name` names, around the encoder it trains.

    Args:
        params: Settings of the method.
        encoder: Trained in place.
        seed: Makes the fresh heads a function of itself and leaves the global generator alone;
            None draws from the global generator.
    """
    from models.randomness import seeded

    with nullcontext() if seed is None else seeded(seed, "method"):
        return METHODS[params.name](params, encoder)
