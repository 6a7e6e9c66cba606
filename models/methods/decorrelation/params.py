"""Settings of the decorrelation methods; torch is not needed to read them."""

from typing import Literal

from pydantic import Field, PositiveInt

from models.methods.settings import (
    Embeddings,
    MethodSettings,
    ProjectorAndEmbeddings,
    ProjectorTwoHidden,
)


class BarlowTwinsParams(MethodSettings):
    """Barlow Twins (Zbontar et al. 2021): two views agree, no two dimensions do."""

    name: Literal["barlow-twins"] = Field("barlow-twins", description="The method.")
    redundancy_weight: float = Field(
        0.005, ge=0, description="Weight of the correlation of different dimensions."
    )
    projector_dim: ProjectorAndEmbeddings = 1024


class VICRegParams(MethodSettings):
    """VICReg (Bardes et al. 2022): views agree, dimensions vary and do not covary."""

    name: Literal["vicreg"] = Field("vicreg", description="The method.")
    invariance_weight: float = Field(25.0, ge=0, description="Weight of the difference of views.")
    variance_weight: float = Field(25.0, ge=0, description="Weight of dimensions that hardly vary.")
    covariance_weight: float = Field(
        1.0, ge=0, description="Weight of the covariance of different dimensions."
    )
    projector_dim: ProjectorAndEmbeddings = 1024


class LeJEPAParams(MethodSettings):
    """LeJEPA (Balestriero and LeCun 2025): views agree, and are Gaussian over the batch."""

    name: Literal["lejepa"] = Field("lejepa", description="The method.")
    gaussian_weight: float = Field(
        0.02, gt=0, lt=1, description="Weight of the Gaussian's test against the views' agreement."
    )
    slices: PositiveInt = Field(
        256, description="Random directions on which each step tests for a Gaussian."
    )
    projector_hidden: ProjectorTwoHidden = 256
    projector_dim: Embeddings = 16
