"""The reference of all settings, made from the schema."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from tasks.settings.schema import ControlParams, Params, models_in, tag_of


def reference() -> str:
    """The Markdown of docs/reference/params.md, made from the schema."""
    lines = ["# Settings", "", "Made from the schema by `instar params`; do not edit by hand.", ""]
    for name, info in Params.model_fields.items():
        model = models_in(info.annotation)[0]
        key = info.alias or name
        lines += [f"## {key}", "", (model.__doc__ or "").strip().splitlines()[0], ""]
        lines += ["| key | default | meaning |", "|---|---|---|", *_rows(model, key), ""]
    return "\n".join(lines)


def _rows(model: type[BaseModel], prefix: str) -> Iterator[str]:
    for name, info in model.model_fields.items():
        key = f"{prefix}.{info.alias or name}"
        inner = models_in(info.annotation)
        if inner == [ControlParams]:
            yield f"| `{key}` | nothing | {_meaning(info)} |"
            continue
        if not inner:
            default = "" if info.is_required() else f"`{_shown(info.get_default())}`"
            yield f"| `{key}` | {default} | {_meaning(info)} |"
        for option in inner:
            if len(inner) > 1:
                about = (option.__doc__ or "").splitlines()[0]
                yield f"| `{key}.name: {tag_of(option)}` | | {about} |"
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
