"""Settings of the contrastive methods; torch is not needed to read them."""

from typing import Literal

from pydantic import Field, PositiveInt

from models.methods.settings import (
    Embeddings,
    MethodSettings,
    PredictorHidden,
    ProjectorHidden,
    ProjectorTwoHidden,
    RisingMomentum,
    Temperature,
)


class SimCLRParams(MethodSettings):
    """SimCLR (Chen et al. 2020): two views of an image attract, all other images repel."""

    name: Literal["simclr"] = Field("simclr", description="The method.")
    temperature: Temperature = 0.2
    projector_hidden: ProjectorHidden = 256
    projector_dim: Embeddings = 128


class MoCoV3Params(MethodSettings):
    """MoCo v3 (Chen, Xie and He 2021): contrasts with a slow copy's view of the batch."""

    name: Literal["moco-v3"] = Field("moco-v3", description="The method.")
    temperature: Temperature = 0.2
    momentum: RisingMomentum = 0.99
    projector_hidden: ProjectorHidden = 512
    projector_dim: Embeddings = 256
    predictor_hidden: PredictorHidden = 512


class MoCoV2Params(MethodSettings):
    """MoCo v2 (Chen et al. 2020): contrasts with a queue of a slow copy's former views."""

    name: Literal["moco-v2"] = Field("moco-v2", description="The method.")
    temperature: Temperature = 0.2
    momentum: float = Field(
        0.98, ge=0, le=1, description="Share of itself that the teacher keeps at each step."
    )
    queue: PositiveInt = Field(4096, description="Keys of former batches that are the negatives.")
    groups: PositiveInt = Field(
        4, description="Parts of a batch that batch norm sees apart, shuffled for the keys."
    )
    projector_hidden: ProjectorHidden = 256
    projector_dim: Embeddings = 128


class NNCLRParams(MethodSettings):
    """NNCLR (Dwibedi et al. 2021): the positive is the nearest of earlier images."""

    name: Literal["nnclr"] = Field("nnclr", description="The method.")
    temperature: Temperature = 0.1
    support: PositiveInt = Field(
        4096, description="Embeddings of former batches among which neighbours are sought."
    )
    projector_hidden: ProjectorTwoHidden = 256
    projector_dim: Embeddings = 256
    predictor_hidden: PredictorHidden = 512
