"""Settings of the pretext methods; torch is not needed to read them."""

from typing import ClassVar, Literal

from pydantic import Field, PositiveInt

from models.methods.settings import MethodSettings


class RotationParams(MethodSettings):
    """Rotation (Gidaris et al. 2018): predicts by which right angle an image was turned."""

    views: ClassVar[int] = 1

    name: Literal["rotation"] = Field("rotation", description="The method.")


class JigsawParams(MethodSettings):
    """Jigsaw (Noroozi and Favaro 2016): predicts how the tiles of an image were shuffled."""

    views: ClassVar[int] = 1

    name: Literal["jigsaw"] = Field("jigsaw", description="The method.")
    permutations: int = Field(64, ge=2, le=1000, description="Orders of the tiles to choose from.")
    tile_dim: PositiveInt = Field(64, description="Width to which a tile's features are brought.")
    hidden: PositiveInt = Field(512, description="Width of the layer that sees all tiles.")


class RelativePositionParams(MethodSettings):
    """Relative position (Doersch et al. 2015): predicts where one patch lies from another."""

    views: ClassVar[int] = 1

    name: Literal["relative-position"] = Field("relative-position", description="The method.")
    hidden: PositiveInt = Field(512, description="Width of the head's layers.")


class RelativeRotationParams(MethodSettings):
    """Relative rotation: regresses by which angle one view is turned against the other."""

    name: Literal["relative-rotation"] = Field("relative-rotation", description="The method.")
    hidden: PositiveInt = Field(256, description="Width of the head's hidden layer.")
