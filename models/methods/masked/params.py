"""Settings of the masked methods; torch is not needed to read them."""

from typing import ClassVar, Literal

from pydantic import Field, PositiveInt

from models.methods.settings import (
    MaskBlock,
    MaskRatio,
    MethodSettings,
    RisingMomentum,
    TopLayers,
    TransformerWidth,
)


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
