"""Settings of the clustering methods; torch is not needed to read them."""

from typing import Literal

from pydantic import Field, PositiveInt

from models.methods.settings import (
    Embeddings,
    FrozenSteps,
    MultiCropSettings,
    ProjectorHidden,
    PrototypeTemperature,
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


class DeepClusterV2Params(MultiCropSettings):
    """DeepCluster v2 (Caron et al. 2020): clusters of former embeddings are the classes."""

    name: Literal["deepcluster-v2"] = Field("deepcluster-v2", description="The method.")
    temperature: PrototypeTemperature = 0.1
    clusters: PositiveInt = Field(
        256, description="Of k-means, as each epoch begins; at most as many as there are images."
    )
    projector_hidden: ProjectorHidden = 256
    projector_dim: Embeddings = 128
