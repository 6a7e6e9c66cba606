"""What the settings of several methods share; torch is not needed to read them."""

from typing import Annotated, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt


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
