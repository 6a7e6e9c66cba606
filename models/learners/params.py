"""Settings of the learners, one class each; torch is not needed to read them."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt

from models.encoders.params import Readout

_LAYOUT = Readout(grid=7, stages=2)


class LinearProbeParams(BaseModel):
    """Multinomial logistic regression on frozen, standardised features."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Literal["linear-probe"] = Field("linear-probe", description="The learner.")
    readout: Readout = Field(_LAYOUT, description="What the head reads.")
    penalties: tuple[PositiveFloat, ...] = Field(
        (0.03, 0.1, 0.3, 1.0),
        min_length=1,
        description="Weight penalties to choose from, by cross-validation inside the labels.",
    )
    folds: int = Field(default=5, ge=2, description="Folds of that cross-validation.")


class FinetuneParams(BaseModel):
    """Training of the whole network on the labels, from a probe's head if wished."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Literal["finetune"] = Field("finetune", description="The learner.")
    readout: Readout = Field(_LAYOUT, description="What the head reads.")
    steps: PositiveInt = Field(
        720,
        description="Batches to learn from, over and over; a number of epochs would starve the "
        "learner of few labels.",
    )
    batch_size: int = Field(64, ge=2, description="Images a step.")
    lr: float = Field(2e-3, gt=0, description="Peak learning rate of AdamW.")
    encoder_lr: float = Field(
        1.0,
        ge=0,
        description="The encoder's share of lr; below 1 keeps more of what pretraining found.",
    )
    weight_decay: float = Field(0.05, ge=0, description="Not applied to norms and biases.")
    warmup_steps: int = Field(36, ge=0, description="Linear warm-up before the cosine decay.")
    label_smoothing: float = Field(0.1, ge=0, lt=1, description="Target mass spread over classes.")
    ema: float = Field(
        0.99,
        ge=0,
        lt=1,
        description="Memory of the average of the weights, the result; 0 takes the last weights.",
    )
    start_from_probe: bool = Field(
        default=True,
        description="Whether the first head is a linear probe's (Kumar et al. 2022), or 0.",
    )
    head_penalty: PositiveFloat = Field(
        0.2, description="Weight penalty on the head: the probe's, and from then on in the loss."
    )


LearnerParams = Annotated[LinearProbeParams | FinetuneParams, Field(discriminator="name")]
