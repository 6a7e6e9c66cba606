"""Settings of the methods, one class each; torch is not needed to read them."""

from typing import Annotated, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveInt,
)


def _ordered(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[0] > pair[1]:
        raise ValueError(f"the range runs from {pair[0]} down to {pair[1]}; write the lower first")
    return pair


Share = Annotated[float, Field(gt=0, le=1)]
Temperature = Annotated[
    float, Field(gt=0, description="Of the softmax; lower looks harder at the nearest images.")
]
PrototypeTemperature = Annotated[
    float, Field(gt=0, description="Of the softmax over prototypes or clusters; lower is surer.")
]
RisingMomentum = Annotated[
    float,
    Field(ge=0, le=1, description="Share of itself that the teacher keeps at first; rises to 1."),
]
ProjectorHidden = Annotated[
    PositiveInt, Field(description="Width of the projector's hidden layer.")
]
ProjectorTwoHidden = Annotated[
    PositiveInt, Field(description="Width of the projector's two hidden layers.")
]
Embeddings = Annotated[PositiveInt, Field(description="Width of the embeddings.")]
ProjectorAndEmbeddings = Annotated[
    PositiveInt, Field(description="Width of the projector and of the embeddings.")
]
PredictorHidden = Annotated[
    PositiveInt, Field(description="Width of the predictor's hidden layer.")
]
FrozenSteps = Annotated[
    NonNegativeInt, Field(description="First steps in which the prototypes stay as they are.")
]

DecoderWidth = Annotated[
    PositiveInt,
    Field(description="Channels of the decoder's last map; four times as many of its first."),
]

MaskRatio = Annotated[float, Field(gt=0, lt=1, description="Share of the image that is hidden.")]
MaskBlock = Annotated[
    PositiveInt, Field(description="Side of the blocks of patches that masks are made of.")
]
TransformerWidth = Annotated[
    PositiveInt, Field(multiple_of=32, description="Width of its tokens; each 32 are a head.")
]
TopLayers = Annotated[
    PositiveInt, Field(description="Last layers of the teacher whose mean is the target.")
]


class MethodSettings(BaseModel):
    """What all of them share: unknown keys are refused, and nothing changes once it is read.

    Attributes:
        views: How many views of each image a step takes.
        takes_vit_only: Whether it needs a plain ViT for its encoder.
        takes_channels: How many channels images must have; None is any number.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    views: ClassVar[int] = 2
    takes_vit_only: ClassVar[bool] = False
    takes_channels: ClassVar[int | None] = None


class MultiCropSettings(MethodSettings):
    """What methods share that compare small crops with views (SwAV, section 3.2).

    A batch holds the views first, then the small crops.
    """

    local_views: NonNegativeInt = Field(
        4, description="Small crops of each image, besides its two views; 0 does without."
    )
    local_size: int = Field(12, ge=8, le=1024, description="Side of a small crop in pixels.")
    local_crop_scale: Annotated[tuple[Share, Share], AfterValidator(_ordered)] = Field(
        (0.2, 0.6),
        description="Range of a small crop's share of the image's area; that of the views is "
        "augmentation.crop_scale.",
    )


class SimCLRParams(MethodSettings):
    """SimCLR (Chen et al. 2020): two views of an image attract, all other images repel."""

    name: Literal["simclr"] = Field("simclr", description="The method.")
    temperature: Temperature = 0.2
    projector_hidden: ProjectorHidden = 256
    projector_dim: Embeddings = 128


class SimSiamParams(MethodSettings):
    """SimSiam (Chen and He 2021): predicts one view from the other, with a stop-gradient."""

    name: Literal["simsiam"] = Field("simsiam", description="The method.")
    projector_hidden: ProjectorTwoHidden = 256
    projector_dim: Embeddings = 256
    predictor_hidden: PositiveInt = Field(64, description="Width of the predictor's bottleneck.")


class BYOLParams(MethodSettings):
    """BYOL (Grill et al. 2020): predicts what a slow copy of itself says of the other view."""

    name: Literal["byol"] = Field("byol", description="The method.")
    momentum: RisingMomentum = 0.99
    projector_hidden: ProjectorHidden = 512
    projector_dim: Embeddings = 256
    predictor_hidden: PredictorHidden = 512


class MoCoV3Params(MethodSettings):
    """MoCo v3 (Chen, Xie and He 2021): contrasts with a slow copy's view of the batch."""

    name: Literal["moco-v3"] = Field("moco-v3", description="The method.")
    temperature: Temperature = 0.2
    momentum: RisingMomentum = 0.99
    projector_hidden: ProjectorHidden = 512
    projector_dim: Embeddings = 256
    predictor_hidden: PredictorHidden = 512


class MoCoV2Params(MethodSettings):
    """MoCo v2 (Chen et al. 2020): contrasts with a queue of a slow copy's former views."""

    name: Literal["moco-v2"] = Field("moco-v2", description="The method.")
    temperature: Temperature = 0.2
    momentum: float = Field(
        0.98, ge=0, le=1, description="Share of itself that the teacher keeps at each step."
    )
    queue: PositiveInt = Field(4096, description="Keys of former batches that are the negatives.")
    groups: PositiveInt = Field(
        4, description="Parts of a batch that batch norm sees apart, shuffled for the keys."
    )
    projector_hidden: ProjectorHidden = 256
    projector_dim: Embeddings = 128


class NNCLRParams(MethodSettings):
    """NNCLR (Dwibedi et al. 2021): the positive is the nearest of earlier images."""

    name: Literal["nnclr"] = Field("nnclr", description="The method.")
    temperature: Temperature = 0.1
    support: PositiveInt = Field(
        4096, description="Embeddings of former batches among which neighbours are sought."
    )
    projector_hidden: ProjectorTwoHidden = 256
    projector_dim: Embeddings = 256
    predictor_hidden: PredictorHidden = 512


class BarlowTwinsParams(MethodSettings):
    """Barlow Twins (Zbontar et al. 2021): two views agree, no two dimensions do."""

    name: Literal["barlow-twins"] = Field("barlow-twins", description="The method.")
    redundancy_weight: float = Field(
        0.005, ge=0, description="Weight of the correlation of different dimensions."
    )
    projector_dim: ProjectorAndEmbeddings = 1024


class VICRegParams(MethodSettings):
    """VICReg (Bardes et al. 2022): views agree, dimensions vary and do not covary."""

    name: Literal["vicreg"] = Field("vicreg", description="The method.")
    invariance_weight: float = Field(25.0, ge=0, description="Weight of the difference of views.")
    variance_weight: float = Field(25.0, ge=0, description="Weight of dimensions that hardly vary.")
    covariance_weight: float = Field(
        1.0, ge=0, description="Weight of the covariance of different dimensions."
    )
    projector_dim: ProjectorAndEmbeddings = 1024


class LeJEPAParams(MethodSettings):
    """LeJEPA (Balestriero and LeCun 2025): views agree, and are Gaussian over the batch."""

    name: Literal["lejepa"] = Field("lejepa", description="The method.")
    gaussian_weight: float = Field(
        0.02, gt=0, lt=1, description="Weight of the Gaussian's test against the views' agreement."
    )
    slices: PositiveInt = Field(
        256, description="Random directions on which each step tests for a Gaussian."
    )
    projector_hidden: ProjectorTwoHidden = 256
    projector_dim: Embeddings = 16


class AutoencoderParams(MethodSettings):
    """Autoencoder (Hinton and Salakhutdinov 2006): rebuilds images from a narrow code."""

    views: ClassVar[int] = 1

    name: Literal["autoencoder"] = Field("autoencoder", description="The method.")
    code: PositiveInt = Field(30, description="Width of the code, far below the image's pixels.")
    decoder_width: DecoderWidth = 16


class DenoisingAutoencoderParams(MethodSettings):
    """Denoising autoencoder (Vincent et al. 2008): rebuilds clean images from corrupted ones."""

    views: ClassVar[int] = 1

    name: Literal["denoising-autoencoder"] = Field(
        "denoising-autoencoder", description="The method."
    )
    masked: float = Field(
        0.25, gt=0, lt=1, description="Share of the image's values that are set to 0."
    )
    decoder_width: DecoderWidth = 16


class VAEParams(MethodSettings):
    """VAE (Kingma and Welling 2014): codes are samples, and as if from a standard Gaussian."""

    views: ClassVar[int] = 1

    name: Literal["vae"] = Field("vae", description="The method.")
    latents: PositiveInt = Field(32, description="Width of the code.")
    beta: float = Field(
        1.0, ge=0, description="Weight of the divergence from the prior; 1 is the bound."
    )
    decoder_width: DecoderWidth = 16


class InpaintingParams(MethodSettings):
    """Inpainting (Pathak et al. 2016): fills in what was removed of an image."""

    views: ClassVar[int] = 1

    name: Literal["inpainting"] = Field("inpainting", description="The method.")
    region: Literal["blocks", "centre"] = Field(
        "blocks",
        description="What is removed: blocks at random places, or a quarter in the middle.",
    )
    blocks: PositiveInt = Field(
        4, description="Number of blocks, together a quarter of the image or less, as they overlap."
    )
    decoder_width: DecoderWidth = 16


class ColorizationParams(MethodSettings):
    """Colorization (Zhang et al. 2016): tells the colours of an image in grey."""

    views: ClassVar[int] = 1
    takes_channels: ClassVar[int | None] = 3

    name: Literal["colorization"] = Field("colorization", description="The method.")
    bins: PositiveInt = Field(
        15, description="Steps of each of the two axes of chroma; odd, so that grey is a class."
    )
    head_width: PositiveInt = Field(64, description="Channels of the head's hidden map.")


class PixelCNNParams(MethodSettings):
    """PixelCNN decoder (van den Oord et al. 2016): predicts pixels from earlier ones."""

    views: ClassVar[int] = 1

    name: Literal["pixelcnn"] = Field("pixelcnn", description="The method.")
    side: PositiveInt = Field(
        16, description="Images are shrunk to at most this for the decoder, which is slow."
    )
    levels: int = Field(16, ge=2, le=256, description="Steps that a pixel's values are cut into.")
    width: PositiveInt = Field(16, description="Channels of the decoder.")
    layers: PositiveInt = Field(4, description="Gated layers after the first.")
    code: PositiveInt = Field(100, description="Width of what the decoder is told of the image.")
    alone: float = Field(
        0.25, gt=0, lt=1, description="Share of images that the decoder is told nothing of."
    )


class SwAVParams(MultiCropSettings):
    """SwAV (Caron et al. 2020): predicts the clusters of a view, shared out evenly, from crops."""

    name: Literal["swav"] = Field("swav", description="The method.")
    temperature: PrototypeTemperature = 0.1
    epsilon: float = Field(
        0.05, gt=0, description="Smoothness of the shares; near 0 each view has one prototype."
    )
    prototypes: PositiveInt = Field(
        128, description="Directions that views are shared out among; fewer than batch_size."
    )
    frozen_steps: FrozenSteps = 100
    projector_hidden: ProjectorHidden = 256
    projector_dim: Embeddings = 128


class DINOParams(MultiCropSettings):
    """DINO (Caron et al. 2021): gives for crops what its own average gives for whole views."""

    name: Literal["dino"] = Field("dino", description="The method.")
    temperature: PrototypeTemperature = 0.1
    teacher_temperatures: tuple[PrototypeTemperature, PrototypeTemperature] = Field(
        (0.04, 0.07), description="Of the teacher, at first and after its warm-up."
    )
    warmup: float = Field(
        0.3, ge=0, le=1, description="Share of the run in which the teacher's temperature rises."
    )
    momentum: RisingMomentum = 0.99
    centre_momentum: float = Field(
        0.9, ge=0, le=1, description="Share of itself that the centre keeps at each step."
    )
    prototypes: PositiveInt = Field(512, description="Width of the output, K.")
    frozen_steps: FrozenSteps = 100
    projector_hidden: ProjectorTwoHidden = 256
    projector_dim: PositiveInt = Field(128, description="Width of the bottleneck before the last.")


class DeepClusterV2Params(MultiCropSettings):
    """DeepCluster v2 (Caron et al. 2020): clusters of former embeddings are the classes."""

    name: Literal["deepcluster-v2"] = Field("deepcluster-v2", description="The method.")
    temperature: PrototypeTemperature = 0.1
    clusters: PositiveInt = Field(
        256, description="Of k-means, as each epoch begins; at most as many as there are images."
    )
    projector_hidden: ProjectorHidden = 256
    projector_dim: Embeddings = 128


class RotationParams(MethodSettings):
    """Rotation (Gidaris et al. 2018): tells by which right angle an image was turned."""

    views: ClassVar[int] = 1

    name: Literal["rotation"] = Field("rotation", description="The method.")


class JigsawParams(MethodSettings):
    """Jigsaw (Noroozi and Favaro 2016): tells how the tiles of an image were shuffled."""

    views: ClassVar[int] = 1

    name: Literal["jigsaw"] = Field("jigsaw", description="The method.")
    permutations: int = Field(64, ge=2, le=1000, description="Orders of the tiles to choose from.")
    tile_dim: PositiveInt = Field(64, description="Width to which a tile's features are brought.")
    hidden: PositiveInt = Field(512, description="Width of the layer that sees all tiles.")


class RelativePositionParams(MethodSettings):
    """Relative position (Doersch et al. 2015): tells where one patch lies from another."""

    views: ClassVar[int] = 1

    name: Literal["relative-position"] = Field("relative-position", description="The method.")
    hidden: PositiveInt = Field(512, description="Width of the head's layers.")


class RelativeRotationParams(MethodSettings):
    """Relative rotation: regresses by which angle one view is turned against the other."""

    name: Literal["relative-rotation"] = Field("relative-rotation", description="The method.")
    hidden: PositiveInt = Field(256, description="Width of the head's hidden layer.")


class MAEParams(MethodSettings):
    """MAE (He et al. 2022): a ViT that sees a quarter of the patches; a decoder draws the rest."""

    views: ClassVar[int] = 1
    takes_vit_only: ClassVar[bool] = True

    name: Literal["mae"] = Field("mae", description="The method.")
    mask_ratio: MaskRatio = 0.75
    decoder_dim: TransformerWidth = 32
    decoder_depth: PositiveInt = Field(2, description="Blocks of the decoder.")


class SimMIMParams(MethodSettings):
    """SimMIM (Xie et al. 2022): paints over squares of the image and predicts their pixels."""

    views: ClassVar[int] = 1

    name: Literal["simmim"] = Field("simmim", description="The method.")
    mask_ratio: MaskRatio = 0.6
    mask_size: PositiveInt = Field(4, description="Side of the hidden squares in pixels.")


class IJEPAParams(MethodSettings):
    """I-JEPA (Assran et al. 2023): predicts what a slow copy makes of blocks that it cannot see."""

    views: ClassVar[int] = 1
    takes_vit_only: ClassVar[bool] = True

    name: Literal["i-jepa"] = Field("i-jepa", description="The method.")
    momentum: RisingMomentum = 0.99
    predictor_dim: TransformerWidth = 32
    predictor_depth: PositiveInt = Field(3, description="Blocks of the predictor.")


class Data2VecParams(MethodSettings):
    """data2vec (Baevski et al. 2022): predicts the upper layers of a teacher that sees it all."""

    views: ClassVar[int] = 1
    takes_vit_only: ClassVar[bool] = True

    name: Literal["data2vec"] = Field("data2vec", description="The method.")
    mask_ratio: MaskRatio = 0.6
    block: MaskBlock = 2
    top_layers: TopLayers = 3
    momentum: RisingMomentum = 0.99


class Data2Vec2Params(MethodSettings):
    """data2vec 2.0 (Baevski et al. 2022): several masks an image for one look of the teacher."""

    views: ClassVar[int] = 1
    takes_vit_only: ClassVar[bool] = True

    name: Literal["data2vec-2"] = Field("data2vec-2", description="The method.")
    mask_ratio: MaskRatio = 0.8
    block: MaskBlock = 2
    masks: PositiveInt = Field(4, description="Masks of each image in a step.")
    top_layers: TopLayers = 3
    momentum: RisingMomentum = 0.99
    decoder_dim: PositiveInt = Field(32, description="Channels of the decoder.")
    decoder_depth: PositiveInt = Field(2, description="Convolutions of the decoder.")


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
