"""The methods themselves by name; importing this module imports torch."""

from collections.abc import Callable
from typing import Any

from models.encoders import Encoder
from models.methods.barlow_twins import BarlowTwins
from models.methods.byol import BYOL
from models.methods.lejepa import LeJEPA
from models.methods.method import Method
from models.methods.moco_v2 import MoCoV2
from models.methods.moco_v3 import MoCoV3
from models.methods.nnclr import NNCLR
from models.methods.simclr import SimCLR
from models.methods.simsiam import SimSiam
from models.methods.vicreg import VICReg

METHODS: dict[str, Callable[[Any, Encoder], Method]] = {
    "barlow-twins": BarlowTwins,
    "byol": BYOL,
    "lejepa": LeJEPA,
    "moco-v2": MoCoV2,
    "moco-v3": MoCoV3,
    "nnclr": NNCLR,
    "simclr": SimCLR,
    "simsiam": SimSiam,
    "vicreg": VICReg,
}
