"""Edits params.yaml as a careful person would: comments stay, and only a valid file is written."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML, YAMLError
from ruamel.yaml.representer import RoundTripRepresenter

from tasks.errors import TaskError
from tasks.settings.data_path import require_presence
from tasks.settings.loading import validate_params
from tasks.settings.project_files import read_yaml

PRESETS = Path("examples")
# Groups of which `name` says what else they hold.
VARIANTS = ("method", "learner")


def change_settings(
    root: Path, assignments: Iterable[str] = (), presets: Iterable[str] = ()
) -> list[str]:
    """Merge presets and `group.key=value` assignments into params.yaml, all or nothing.

    Args:
        root: The checkout.
        assignments: Each `group.key=value`, the value as in YAML (`[0.2, 1.0]`, `null`).
        presets: Names of files `examples/<preset>.yaml`, merged first, in this order.

    Returns:
        What changed, one line a key: `finetune.label_fraction: 0.01 → 0.05`.

    Raises:
        TaskError: The preset or an assignment is not right, or names data that are not there;
            params.yaml is as it was.
        ModelError: So with an encoder that is unknown.
    """
    path = root / "params.yaml"
    before = read_yaml(path)
    text, after = _edited(root, assignments, presets)
    changes = list(_differences(before, after))
    if changes:
        fresh = path.with_name(f".params.{os.getpid()}.yaml")
        fresh.write_text(text, encoding="utf-8")
        fresh.replace(path)
    return changes


def require_valid(root: Path, assignments: Iterable[str]) -> None:
    """Refuse assignments that `change_settings` would refuse; writes nothing.

    Raises:
        TaskError: As `change_settings` does.
        ModelError: So with an encoder that is unknown.
    """
    _edited(root, assignments, ())


def _edited(
    root: Path, assignments: Iterable[str], presets: Iterable[str]
) -> tuple[str, dict[str, Any]]:
    """The text and the content of params.yaml as it would be, valid."""
    path = root / "params.yaml"
    document = _editor().load(path.read_text(encoding="utf-8"))
    for preset in presets:
        _merge(document, _read_preset(root, preset))
    for assignment in assignments:
        keys, value = _parse(assignment)
        _assign(document, keys, value)
    _drop_strange_control(read_yaml(path), document)
    stream = io.StringIO()
    _editor().dump(document, stream)
    after = YAML(typ="safe", pure=True).load(stream.getvalue())
    require_presence(validate_params(after), root)
    return stream.getvalue(), after


def known_presets(root: Path) -> list[str]:
    """Names of the presets that come with the checkout."""
    folder = root / PRESETS
    found = (path.relative_to(folder).with_suffix("") for path in folder.rglob("*.yaml"))
    return sorted(path.as_posix() for path in found)


class _NullAsWritten(RoundTripRepresenter):
    """Writes `key: null` as it stood, where ruamel.yaml would write `key:`."""


_NullAsWritten.add_representer(
    type(None), lambda to, _: to.represent_scalar("tag:yaml.org,2002:null", "null")
)


def _editor() -> YAML:
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096  # never fold a line the user wrote
    yaml.Representer = _NullAsWritten
    return yaml


def _read_preset(root: Path, name: str) -> dict[str, Any]:
    path = root / PRESETS / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(known_presets(root)) or "none"
        raise TaskError(f"no preset {name!r} in {PRESETS}/: there are {known}.")
    return read_yaml(path)


def _parse(assignment: str) -> tuple[list[str], Any]:
    try:
        assignment.encode()
    except UnicodeEncodeError:
        raise TaskError(f"{assignment!r} is not UTF-8, as params.yaml is: rename it.") from None
    key, equals, text = assignment.partition("=")
    if not equals or not key.strip():
        raise TaskError(f"{assignment!r} is not KEY=VALUE, as in finetune.label_fraction=0.05.")
    try:
        value = YAML(typ="safe", pure=True).load(text) if text.strip() else text
    except YAMLError:
        raise TaskError(
            f"the value of {key} is not YAML: {text!r}; quote it: {key}='\"…\"'."
        ) from None
    return key.strip().split("."), value


def _assign(document: Any, keys: list[str], value: Any) -> None:
    tree: dict[str, Any] = {}
    inner = tree
    for key in keys[:-1]:
        inner[key] = {}
        inner = inner[key]
    inner[keys[-1]] = value
    _merge(document, tree)


def _merge(target: Any, changes: Mapping[str, Any]) -> None:
    for key, value in changes.items():
        there = target.get(key)
        another = key in VARIANTS and isinstance(there, dict) and _other(there, value)
        if isinstance(value, Mapping) and isinstance(there, dict) and not another:
            _merge(there, value)
        else:
            target[key] = value


def _other(there: Mapping[str, Any], value: Any) -> bool:
    """Whether `value` names another variant, whose settings are its own."""
    return isinstance(value, Mapping) and value.get("name", there.get("name")) != there.get("name")


def _drop_strange_control(before: dict[str, Any], document: Any) -> None:
    """What was tuned for the control of another learner says nothing of this one's."""

    def part(settings: Any, *keys: str) -> Any:
        for key in keys:
            settings = settings.get(key) if isinstance(settings, dict) else None
        return settings

    name, own = ("finetune", "learner", "name"), ("finetune", "control", "learner")
    unsaid = part(document, *own) == part(before, *own) is not None
    if unsaid and part(document, *name) != part(before, *name):
        document["finetune"]["control"]["learner"] = {}


def _differences(before: Any, after: Any, prefix: str = "") -> Iterable[str]:
    if isinstance(before, dict) and isinstance(after, dict):
        for key in [*before, *(key for key in after if key not in before)]:
            dotted = f"{prefix}.{key}" if prefix else str(key)
            yield from _differences(before.get(key), after.get(key), dotted)
    elif before != after:
        yield f"{prefix}: {_shown(before)} → {_shown(after)}"


def _shown(value: Any) -> str:
    return "unset" if value is None else str(value)
