"""The one schema of params.yaml: nothing starts before the whole file is valid."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Self, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from data.images.augment.params import AugmentationParams
from data.sources.params import DataParams
from models.encoders.params import EncoderParams
from models.learners import FinetuneParams as FineTuning
from models.learners import LearnerParams
from models.methods import MethodParams
from models.training.params import OptimizerParams
from tasks.errors import TaskError
from tasks.project_files import read_yaml


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


def load_params(path: Path | str = "params.yaml") -> Params:
    """Read and validate the whole file.

    Raises:
        TaskError: The file is missing or not YAML, or lists every key that is unknown (with the
            nearest valid one) or has a value that is not allowed (with what is).
    """
    path = Path(path)
    return validate_params(read_yaml(path), path.name)


def validate_params(raw: dict[str, Any], name: str = "params.yaml") -> Params:
    """Check a whole mapping; see `load_params` for what is raised."""
    try:
        return Params.model_validate(raw)
    except ValidationError as error:
        problems = [_explain(problem) for problem in error.errors(include_url=False)]
    listed = problems[0] if len(problems) == 1 else "".join(f"\n  - {p}" for p in problems)
    raise TaskError(f"{name}: {listed}")


def _explain(problem: Any) -> str:
    model, keys = _locate(problem["loc"])
    dotted = ".".join(keys)
    if problem["type"] == "extra_forbidden":
        valid = sorted(_names(model)) if model else []
        nearest = difflib.get_close_matches(keys[-1], valid, n=1, cutoff=0.5)
        parent = ".".join(keys[:-1])
        if nearest:
            hint = f"did you mean {parent + '.' if parent else ''}{nearest[0]}?"
        else:
            hint = f"valid here: {', '.join(valid)}"
        return f"unknown key {dotted}; {hint}"
    if problem["type"] == "missing":
        return f"{dotted} is missing; add it (see docs/params.md)"
    if problem["type"] in {"union_tag_invalid", "union_tag_not_found"}:
        tags = problem["ctx"].get("expected_tags") or "see docs/params.md"
        given = problem["ctx"].get("tag", "nothing")
        return f"{dotted}.name = {given}: allowed are {tags}"
    message = problem["msg"].removeprefix("Value error, ")
    if isinstance(problem["input"], dict | BaseModel):
        return f"{dotted}: {message}" if dotted else message
    return f"{dotted} = {problem['input']!r}: {_lower_first(message)}"


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]


def _locate(loc: tuple[int | str, ...]) -> tuple[type[BaseModel] | None, list[str]]:
    """The model an error's last key stands in, and the keys as the user wrote them.

    pydantic puts the tag of a discriminated union into the location; a user never wrote it.
    """
    model: type[BaseModel] | None = Params
    keys: list[str] = []
    options: dict[str, type[BaseModel]] = {}
    inside: type[BaseModel] | None = Params
    for part in loc:
        if str(part) in options:
            inside = options[str(part)]
            options = {}
            continue
        model = inside
        keys.append(str(part))
        found = _field(model, str(part)) if model else None
        options = {_tag(m): m for m in _models(found)} if found is not None else {}
        inside = next(iter(options.values())) if len(options) == 1 else None
        if len(options) == 1:
            options = {_tag(inside): inside} if inside and "name" in inside.model_fields else {}
    return model, keys


def _names(model: type[BaseModel]) -> Iterator[str]:
    for name, info in model.model_fields.items():
        yield info.alias or name


def _field(model: type[BaseModel], key: str) -> Any:
    for name, info in model.model_fields.items():
        if (info.alias or name) == key:
            return info.annotation
    return None


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The pydantic models within an annotation, unions and Annotated looked through."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) in (Union, UnionType, Annotated):
        return [model for part in get_args(annotation) for model in _models(part)]
    return []


def _tag(model: type[BaseModel]) -> str:
    """A union member's tag: the default of its `name`."""
    info = model.model_fields.get("name")
    return str(info.default) if info is not None else model.__name__


def reference() -> str:
    """The Markdown of docs/params.md, made from the schema."""
    lines = ["# Settings", "", "Made from the schema by `instar params`; do not edit by hand.", ""]
    for name, info in Params.model_fields.items():
        model = _models(info.annotation)[0]
        key = info.alias or name
        lines += [f"## {key}", "", (model.__doc__ or "").strip().splitlines()[0], ""]
        lines += ["| key | default | meaning |", "|---|---|---|", *_rows(model, key), ""]
    return "\n".join(lines)


def _rows(model: type[BaseModel], prefix: str) -> Iterator[str]:
    for name, info in model.model_fields.items():
        key = f"{prefix}.{info.alias or name}"
        inner = _models(info.annotation)
        if inner == [ControlParams]:
            yield f"| `{key}` | nothing | {_meaning(info)} |"
            continue
        if not inner:
            default = "" if info.is_required() else f"`{_shown(info.get_default())}`"
            yield f"| `{key}` | {default} | {_meaning(info)} |"
        for option in inner:
            if len(inner) > 1:
                about = (option.__doc__ or "").splitlines()[0]
                yield f"| `{key}.name: {_tag(option)}` | | {about} |"
            yield from _rows(option, key)


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        value = list(value)
    return (
        "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    )


def _meaning(info: Any) -> str:
    limits = []
    for rule in info.metadata:
        for attribute, sign in (("gt", ">"), ("ge", "≥"), ("lt", "<"), ("le", "≤")):
            bound = getattr(rule, attribute, None)
            if bound is not None:
                limits.append(f"{sign} {bound:g}")
    text = (info.description or "").replace("|", "\\|")
    return f"{text} ({', '.join(limits)})" if limits else text
