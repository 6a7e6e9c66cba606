"""The methods themselves by name; importing this module imports torch."""

from collections.abc import Callable
from typing import Any

from models.encoders.images.encoder import Encoder
from models.methods.base import Method
from models.methods.clustering.deepcluster_v2 import DeepClusterV2
from models.methods.clustering.swav import SwAV
from models.methods.contrastive.moco_v2 import MoCoV2
from models.methods.contrastive.moco_v3 import MoCoV3
from models.methods.contrastive.nnclr import NNCLR
from models.methods.contrastive.simclr import SimCLR
from models.methods.decorrelation.barlow_twins import BarlowTwins
from models.methods.decorrelation.lejepa import LeJEPA
from models.methods.decorrelation.vicreg import VICReg
from models.methods.generative.autoencoder import Autoencoder
from models.methods.generative.colorization import Colorization
from models.methods.generative.denoising_autoencoder import DenoisingAutoencoder
from models.methods.generative.inpainting import Inpainting
from models.methods.generative.pixelcnn import PixelCNN
from models.methods.generative.vae import VAE
from models.methods.masked.data2vec import Data2Vec
from models.methods.masked.data2vec2 import Data2Vec2
from models.methods.masked.ijepa import IJEPA
from models.methods.masked.mae import MAE
from models.methods.masked.simmim import SimMIM
from models.methods.pretext.jigsaw import Jigsaw
from models.methods.pretext.relative_position import RelativePosition
from models.methods.pretext.relative_rotation import RelativeRotation
from models.methods.pretext.rotation import Rotation
from models.methods.self_distillation.byol import BYOL
from models.methods.self_distillation.dino import DINO
from models.methods.self_distillation.simsiam import SimSiam

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
