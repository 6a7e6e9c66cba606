"""Settings of the augmentation; the descriptions become its documentation."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


def _ordered(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[0] > pair[1]:
        raise ValueError(f"the range runs from {pair[0]} down to {pair[1]}; write the lower first")
    return pair


Probability = Annotated[float, Field(ge=0, le=1)]
Fraction = Annotated[float, Field(gt=0, le=1)]
Positive = Annotated[float, Field(gt=0, le=10)]
# Above 0.3 of the area, no rectangle of aspect 0.3 or 3.3 fits into a square.
ErasedFraction = Annotated[float, Field(gt=0, le=0.3)]


class AugmentationParams(BaseModel):
    """How a view is made of an image; a knob that is not written is off."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    engine: Literal["batched", "albumentations"] = Field(
        default="batched",
        description="batched: the whole batch at once in torch, on the batch's device (fast). "
        "albumentations: image by image in CPU workers.",
    )
    view_size: int | None = Field(
        default=None,
        ge=8,
        le=1024,
        description="Side of a view in pixels; small views are cheap. null: that of the images.",
    )
    crop_scale: Annotated[tuple[Fraction, Fraction], AfterValidator(_ordered)] = Field(
        default=(1.0, 1.0),
        description="Range of the random crop's share of the image's area; [1, 1] is off.",
    )
    crop_ratio: Annotated[tuple[Positive, Positive], AfterValidator(_ordered)] = Field(
        default=(0.75, 4 / 3), description="Range of the crop's width over height (log-uniform)."
    )
    hflip: Probability = Field(default=0.0, description="Probability of a left-right flip.")
    vflip: Probability = Field(default=0.0, description="Probability of an upside-down flip.")
    rotate: float = Field(
        default=0.0,
        ge=0,
        le=180,
        description="Rotation by up to so many degrees either way; the border is mirrored.",
    )
    brightness: float = Field(
        default=0.0, ge=0, le=1, description="Brightness factor is drawn from 1 ± this."
    )
    contrast: float = Field(
        default=0.0, ge=0, le=1, description="Contrast factor is drawn from 1 ± this."
    )
    saturation: float = Field(
        default=0.0, ge=0, le=1, description="Saturation factor is drawn from 1 ± this (RGB only)."
    )
    hue: float = Field(
        default=0.0,
        ge=0,
        le=0.5,
        description="Hue shift is drawn from ± this share of the colour wheel (RGB only).",
    )
    jitter_p: Probability = Field(
        default=1.0,
        description="Probability that brightness, contrast, saturation and hue are applied at all.",
    )
    grayscale: Probability = Field(
        default=0.0, description="Probability of removing the colour (RGB only)."
    )
    blur: Probability = Field(default=0.0, description="Probability of a Gaussian blur.")
    blur_sigma: Annotated[tuple[Positive, Positive], AfterValidator(_ordered)] = Field(
        default=(0.1, 2.0), description="Range of the blur's standard deviation, in pixels."
    )
    solarize: Probability = Field(
        default=0.0, description="Probability of inverting every value from the middle up."
    )
    noise: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Standard deviation of Gaussian noise on every pixel, values being in [0, 1].",
    )
    erase: Probability = Field(
        default=0.0,
        description="Probability of painting over a random rectangle, in one random colour.",
    )
    erase_scale: Annotated[tuple[ErasedFraction, ErasedFraction], AfterValidator(_ordered)] = Field(
        default=(0.02, 0.2), description="Range of the erased rectangle's share of the area."
    )
