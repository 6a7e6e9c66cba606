"""The methods themselves by name; importing this module imports torch."""

from collections.abc import Callable
from typing import Any

from models.encoders import Encoder
from models.methods.autoencoder import Autoencoder
from models.methods.barlow_twins import BarlowTwins
from models.methods.byol import BYOL
from models.methods.colorization import Colorization
from models.methods.data2vec import Data2Vec
from models.methods.data2vec2 import Data2Vec2
from models.methods.deepcluster_v2 import DeepClusterV2
from models.methods.denoising_autoencoder import DenoisingAutoencoder
from models.methods.dino import DINO
from models.methods.ijepa import IJEPA
from models.methods.inpainting import Inpainting
from models.methods.jigsaw import Jigsaw
from models.methods.lejepa import LeJEPA
from models.methods.mae import MAE
from models.methods.method import Method
from models.methods.moco_v2 import MoCoV2
from models.methods.moco_v3 import MoCoV3
from models.methods.nnclr import NNCLR
from models.methods.pixelcnn import PixelCNN
from models.methods.relative_position import RelativePosition
from models.methods.relative_rotation import RelativeRotation
from models.methods.rotation import Rotation
from models.methods.simclr import SimCLR
from models.methods.simmim import SimMIM
from models.methods.simsiam import SimSiam
from models.methods.swav import SwAV
from models.methods.vae import VAE
from models.methods.vicreg import VICReg

METHODS: dict[str, Callable[[Any, Encoder], Method]] = {
    "autoencoder": Autoencoder,
    "barlow-twins": BarlowTwins,
    "byol": BYOL,
    "colorization": Colorization,
    "data2vec": Data2Vec,
    "data2vec-2": Data2Vec2,
    "deepcluster-v2": DeepClusterV2,
    "denoising-autoencoder": DenoisingAutoencoder,
    "dino": DINO,
    "i-jepa": IJEPA,
    "inpainting": Inpainting,
    "jigsaw": Jigsaw,
    "lejepa": LeJEPA,
    "mae": MAE,
    "moco-v2": MoCoV2,
    "moco-v3": MoCoV3,
    "nnclr": NNCLR,
    "pixelcnn": PixelCNN,
    "relative-position": RelativePosition,
    "relative-rotation": RelativeRotation,
    "rotation": Rotation,
    "simclr": SimCLR,
    "simmim": SimMIM,
    "simsiam": SimSiam,
    "swav": SwAV,
    "vae": VAE,
    "vicreg": VICReg,
}
