"""Reading and validating params.yaml; every problem is reported with its remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from tasks.errors import TaskError
from tasks.settings.project_files import read_yaml
from tasks.settings.schema import Params, models_in, tag_of


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
        return f"{dotted} is missing; add it (see docs/reference/params.md)"
    if problem["type"] in {"union_tag_invalid", "union_tag_not_found"}:
        tags = problem["ctx"].get("expected_tags") or "see docs/reference/params.md"
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
        options = {tag_of(m): m for m in models_in(found)} if found is not None else {}
        inside = next(iter(options.values())) if len(options) == 1 else None
        if len(options) == 1:
            options = {tag_of(inside): inside} if inside and "name" in inside.model_fields else {}
    return model, keys


def _names(model: type[BaseModel]) -> Iterator[str]:
    for name, info in model.model_fields.items():
        yield info.alias or name


def _field(model: type[BaseModel], key: str) -> Any:
    for name, info in model.model_fields.items():
        if (info.alias or name) == key:
            return info.annotation
    return None
