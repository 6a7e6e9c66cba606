"""Settings of the methods, one class each; torch is not needed to read them."""

from typing import Annotated

from pydantic import Field

from models.methods.clustering.params import DeepClusterV2Params, SwAVParams
from models.methods.contrastive.params import MoCoV2Params, MoCoV3Params, NNCLRParams, SimCLRParams
from models.methods.decorrelation.params import BarlowTwinsParams, LeJEPAParams, VICRegParams
from models.methods.generative.params import (
    AutoencoderParams,
    ColorizationParams,
    DenoisingAutoencoderParams,
    InpaintingParams,
    PixelCNNParams,
    VAEParams,
)
from models.methods.masked.params import (
    Data2Vec2Params,
    Data2VecParams,
    IJEPAParams,
    MAEParams,
    SimMIMParams,
)
from models.methods.pretext.params import (
    JigsawParams,
    RelativePositionParams,
    RelativeRotationParams,
    RotationParams,
)
from models.methods.self_distillation.params import BYOLParams, DINOParams, SimSiamParams

MethodParams = Annotated[
    SimCLRParams
    | SimSiamParams
    | BYOLParams
    | MoCoV3Params
    | MoCoV2Params
    | NNCLRParams
    | BarlowTwinsParams
    | VICRegParams
    | LeJEPAParams
    | AutoencoderParams
    | DenoisingAutoencoderParams
    | VAEParams
    | InpaintingParams
    | ColorizationParams
    | PixelCNNParams
    | SwAVParams
    | DINOParams
    | DeepClusterV2Params
    | RotationParams
    | JigsawParams
    | RelativePositionParams
    | RelativeRotationParams
    | MAEParams
    | SimMIMParams
    | IJEPAParams
    | Data2VecParams
    | Data2Vec2Params,
    Field(discriminator="name"),
]
