"""Settings shared by several parts of this room; importing this file never imports torch."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class OptimizerParams(BaseModel):
    """How pretraining descends: warm-up to `lr`, then a cosine to zero, step by step."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Literal["adamw", "sgd"] = Field("adamw", description="The optimizer.")
    lr: float = Field(3e-3, gt=0, description="Peak learning rate.")
    weight_decay: float = Field(1e-2, ge=0, description="Not applied to norms and biases.")
    warmup_epochs: float = Field(1.0, ge=0, description="Linear warm-up before the cosine decay.")
