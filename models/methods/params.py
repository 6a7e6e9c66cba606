"""Settings of the methods, one class each; torch is not needed to read them."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt


class SimCLRParams(BaseModel):
    """SimCLR (Chen et al. 2020): two views of an image attract, all other images repel."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Literal["simclr"] = Field("simclr", description="The method.")
    temperature: float = Field(
        0.2, gt=0, description="Of the softmax; lower looks harder at the nearest images."
    )
    projector_hidden: PositiveInt = Field(256, description="Width of the projector's hidden layer.")
    projector_dim: PositiveInt = Field(128, description="Width of the embeddings.")


# With a second method: Annotated[SimCLRParams | OtherParams, Field(discriminator="name")]
# (pydantic refuses a discriminator on a union of one).
MethodParams = SimCLRParams
