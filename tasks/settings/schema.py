"""The one schema of params.yaml: nothing starts before the whole file is valid."""

from __future__ import annotations

from types import UnionType
from typing import Annotated, Any, Literal, Self, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, model_validator

from data.images.augment.params import AugmentationParams
from data.sources.params import DataParams
from models.encoders.params import EncoderParams
from models.learners import FinetuneParams as FineTuning
from models.learners import LearnerParams
from models.methods import MethodParams
from models.training.params import OptimizerParams


class Group(BaseModel):
    """A group of settings: unknown keys are refused."""

    model_config = ConfigDict(extra="forbid")


class PretrainParams(Group):
    """Self-supervised pretraining on all training images, without a label."""

    seed: int = Field(0, ge=0, description="Seed of weights, order and views.")
    encoder: EncoderParams = Field(default_factory=EncoderParams, description="The network.")
    method: MethodParams = Field(description="The self-supervised method.")
    augmentation: AugmentationParams = Field(
        default_factory=AugmentationParams, description="How the views are made."
    )
    epochs: int = Field(10, ge=1, description="Passes over the training images.")
    batch_size: int = Field(256, ge=4, description="Images a step.")
    optimizer: OptimizerParams = Field(
        default_factory=OptimizerParams, description="How it descends."
    )
    probe_fraction: float = Field(
        0.01,
        ge=0,
        le=1,
        description="Labels of the online kNN curve (watched only, never learned from); 0 is off.",
    )
    workers: int = Field(0, ge=0, description="Loader processes; never changes the result.")
    threads: int = Field(2, ge=1, description="Compute threads; part of the result's last bits.")

    @model_validator(mode="after")
    def _fitting_encoder(self) -> Self:
        name = self.method.name
        if self.method.takes_vit_only and self.encoder.name == "resnet_tiny":
            raise ValueError(
                f"method {name} takes a ViT, not resnet_tiny; `instar set --preset methods/{name}` "
                "sets one, and the method simmim suits a CNN"
            )
        return self


class ControlParams(Group):
    """How the control learns: the same learner from scratch, tuned on its own."""

    learner: LearnerParams = Field(description="What the learner's settings are from scratch.")
    augmentation: AugmentationParams = Field(description="How its labelled images are varied.")


class FinetuneParams(Group):
    """Low-label learning: the pretrained encoder, and the same learner from scratch as control."""

    label_fraction: float = Field(
        0.01, gt=0, le=1, description="Share of the training images whose labels may be used."
    )
    draws: int = Field(5, ge=1, description="Label draws, each with its own seed, for both arms.")
    seed: int = Field(0, ge=0, description="Seed of the draws and of each fit.")
    learner: LearnerParams = Field(description="How the labels are learned.")
    augmentation: AugmentationParams = Field(
        default_factory=AugmentationParams, description="How labelled images are varied."
    )
    control: ControlParams = Field(
        description="Keys of `learner` and `augmentation` that differ for the same learner from "
        "scratch, so that it can be tuned on its own.",
    )
    abstain_target: float = Field(
        0.95,
        ge=0,
        lt=1,
        description="Share of its answers that is to be right: the served model answers as many "
        "images as its own labels say it may and abstains from the others; 0 never abstains.",
    )
    workers: int = Field(2, ge=1, description="Fits side by side; never changes the result.")
    threads: int = Field(1, ge=1, description="Threads a fit; part of the result's last bits.")

    @model_validator(mode="before")
    @classmethod
    def _control_completed(cls, raw: Any) -> Any:
        """The control's settings are those of the other arm, but for what it says itself."""
        if not isinstance(raw, dict) or not isinstance(own := raw.get("control") or {}, dict):
            return raw
        completed = {
            key: {**raw.get(key, {}), **(own.get(key) or {})} for key in ("learner", "augmentation")
        }
        return {**raw, "control": {**own, **completed}}

    @model_validator(mode="after")
    def _same_effort(self) -> Self:
        mine, other = self.learner, self.control.learner
        if mine.name != other.name:
            raise ValueError("learner and control must be the same learner (their name differs)")
        if isinstance(mine, FineTuning) and isinstance(other, FineTuning):
            for key in ("steps", "batch_size"):
                if getattr(mine, key) != getattr(other, key):
                    raise ValueError(f"learner and control must get the same steps ({key} differs)")
        return self


class EvaluateParams(Group):
    """The test set, touched once."""

    neighbours: int = Field(20, ge=1, description="k of the kNN accuracy.")
    embedding_points: int = Field(2000, ge=50, description="Test images on the embedding map.")
    bins: int = Field(15, ge=2, description="Bins of the reliability curve and of ECE.")
    threads: int = Field(2, ge=1, description="Compute threads; part of the result's last bits.")


class RegisterParams(Group):
    """The registered model."""

    name: str = Field(
        "instar",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$",  # also part of a git tag's name
        description="MLflow experiment and registered model.",
    )


class GateParams(Group):
    """When a challenger becomes champion."""

    require_gain: bool = Field(
        True, description="It must beat its own from-scratch control beyond noise."
    )
    max_class_drop: float = Field(
        0.1, ge=0, le=1, description="Largest fall of any class's recall against the champion."
    )
    approval: Literal["auto", "human"] = Field(
        "auto",
        description="Who lets a version that passed into Production: auto at once; human waits for "
        "`instar promote NAME@VERSION --approve` or a paused flow run in Prefect's UI.",
    )


class Params(Group):
    """The whole of params.yaml."""

    data: DataParams = Field(description="What is learned from.")
    pretrain: PretrainParams
    finetune: FinetuneParams
    evaluate: EvaluateParams = Field(default_factory=EvaluateParams)
    register_: RegisterParams = Field(default_factory=RegisterParams, alias="register")
    gate: GateParams = Field(default_factory=GateParams)

    @model_validator(mode="after")
    def _fitting_channels(self) -> Self:
        method, channels = self.pretrain.method, self.data.channels
        if method.takes_channels not in (None, channels):
            raise ValueError(
                f"pretrain.method {method.name} takes images of {method.takes_channels} channels, "
                f"and data.channels is {channels}; set it, or choose another method"
            )
        return self


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """The pydantic models within an annotation, unions and Annotated looked through."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) in (Union, UnionType, Annotated):
        return [model for part in get_args(annotation) for model in models_in(part)]
    return []


def tag_of(model: type[BaseModel]) -> str:
    """A union member's tag: the default of its `name`."""
    info = model.model_fields.get("name")
    return str(info.default) if info is not None else model.__name__
