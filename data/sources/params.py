"""The group `data` of ``params.yaml``; the descriptions below become its documentation."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class DataParams(BaseModel):
    """Where the images come from and how they are packed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: Literal["fashion-mnist", "cifar10", "folder", "npz"] = Field(
        description="Kind of source: a built-in set, a folder (or .tar/.zip) of images, or an .npz."
    )
    path: str = Field(
        min_length=1,
        description="Folder, archive or .npz of your own data; for a built-in set, its tracked "
        "file of checksums (data/pinned/fashion-mnist.sha256 or data/pinned/cifar10.sha256).",
    )
    size: int = Field(
        ge=8, le=1024, description="Side in pixels of the square that every image is resized to."
    )
    channels: Literal[1, 3] = Field(description="1 packs grey images, 3 packs RGB.")
    test_fraction: float = Field(
        default=0.2,
        gt=0,
        lt=1,
        description="Share of the labelled images split off as the test set, class by class, "
        "where the source brings no test set of its own.",
    )
    max_quarantined: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.1,
        description="Largest share of images that may be quarantined (damaged, no image, same "
        "pixels under two labels); above it prepare stops before anything is trained. Exact "
        "duplicates do not count. 0: none may.",
    )
    seed: int = Field(default=0, ge=0, lt=2**63, description="Seed of the test split.")
