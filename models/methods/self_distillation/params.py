"""Settings of the self-distillation methods; torch is not needed to read them."""

from typing import Literal

from pydantic import Field, PositiveInt

from models.methods.settings import (
    Embeddings,
    FrozenSteps,
    MethodSettings,
    MultiCropSettings,
    PredictorHidden,
    ProjectorHidden,
    ProjectorTwoHidden,
    PrototypeTemperature,
    RisingMomentum,
)


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
