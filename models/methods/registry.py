"""The methods themselves by name; each is imported when it is asked for."""

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from models.encoders.images.encoder import Encoder
    from models.methods.base import Method

# Module, within this package, and class of each.
METHODS = {
    "autoencoder": "generative.autoencoder.Autoencoder",
    "barlow-twins": "decorrelation.barlow_twins.BarlowTwins",
    "byol": "self_distillation.byol.BYOL",
    "colorization": "generative.colorization.Colorization",
    "data2vec": "masked.data2vec.Data2Vec",
    "data2vec-2": "masked.data2vec2.Data2Vec2",
    "deepcluster-v2": "clustering.deepcluster_v2.DeepClusterV2",
    "denoising-autoencoder": "generative.denoising_autoencoder.DenoisingAutoencoder",
    "dino": "self_distillation.dino.DINO",
    "i-jepa": "masked.ijepa.IJEPA",
    "inpainting": "generative.inpainting.Inpainting",
    "jigsaw": "pretext.jigsaw.Jigsaw",
    "lejepa": "decorrelation.lejepa.LeJEPA",
    "mae": "masked.mae.MAE",
    "moco-v2": "contrastive.moco_v2.MoCoV2",
    "moco-v3": "contrastive.moco_v3.MoCoV3",
    "nnclr": "contrastive.nnclr.NNCLR",
    "pixelcnn": "generative.pixelcnn.PixelCNN",
    "relative-position": "pretext.relative_position.RelativePosition",
    "relative-rotation": "pretext.relative_rotation.RelativeRotation",
    "rotation": "pretext.rotation.Rotation",
    "simclr": "contrastive.simclr.SimCLR",
    "simmim": "masked.simmim.SimMIM",
    "simsiam": "self_distillation.simsiam.SimSiam",
    "swav": "clustering.swav.SwAV",
    "vae": "generative.vae.VAE",
    "vicreg": "decorrelation.vicreg.VICReg",
}


def method_class(name: str) -> "Callable[[Any, Encoder], Method]":
    """The class of a method; importing it imports torch."""
    module, _, class_name = METHODS[name].rpartition(".")
    found: Callable[[Any, Encoder], Method] = getattr(
        import_module(f"models.methods.{module}"), class_name
    )
    return found
