"""Settings of the encoder; importing this file never imports torch."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator


class Readout(BaseModel):
    """Which features of an encoder a head reads; the default is the pooled ones.

    Few labels reward features that still know *where* things are, above all in images centred
    on one object: the maps of the last `stages` stages, each averaged to at most `grid` x `grid`
    positions, side by side.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    grid: PositiveInt = Field(
        1, description="Each map is averaged to at most grid x grid positions; 1 pools wholly."
    )
    stages: PositiveInt = Field(1, description="Maps of so many last stages, side by side.")


class EncoderParams(BaseModel):
    """Which network turns an image into features; its weights always start random."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(
        "resnet_tiny", description="resnet_tiny, for images up to about 64 px, or any timm model."
    )
    stem_width: PositiveInt = Field(16, description="Channels of resnet_tiny's first layer.")
    stem_stride: Literal[1, 2] = Field(2, description="Stride of resnet_tiny's first layer.")
    widths: tuple[PositiveInt, ...] = Field(
        (32, 64), min_length=1, description="Channels of each stage of resnet_tiny."
    )
    blocks: tuple[PositiveInt, ...] = Field((1, 1), description="Blocks of each stage.")
    strides: tuple[Literal[1, 2], ...] = Field((2, 2), description="Stride of each stage.")
    readout: Readout = Field(
        Readout(), description="What its features are, to methods, probes and neighbours."
    )
    patch_size: PositiveInt | None = Field(
        None, description="For timm models that cut the image into patches; null keeps theirs."
    )

    @model_validator(mode="after")
    def _one_entry_a_stage(self) -> Self:
        if not len(self.widths) == len(self.blocks) == len(self.strides):
            raise ValueError(
                f"widths {list(self.widths)}, blocks {list(self.blocks)} and strides "
                f"{list(self.strides)} must have one entry for each stage"
            )
        return self
