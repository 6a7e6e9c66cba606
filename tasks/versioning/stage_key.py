"""What a result was made of: the key of a stage, the tags of a model, the commit of a run.

DVC is asked only through the files that it keeps in git, dvc.yaml and dvc.lock.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tasks.errors import TaskError
from tasks.settings.project_files import read_lock, read_yaml
from tasks.system.hashing import content_hash, digest


def stage_key(stage: str, root: str | Path = ".") -> str:
    """The name of one computation: 16 hex digits over its command, settings and inputs.

    Equal keys mean equal results, so checkpoints, journals and MLflow runs are found by it.

    Raises:
        TaskError: dvc.yaml has no such stage, or an input or a parameter of it is missing.
    """
    return key_of(stage_inputs(stage, root))


def key_of(inputs: Mapping[str, Any]) -> str:
    """The key of a stage with these inputs; see `stage_key` and `stage_inputs`."""
    return digest(json.dumps(inputs, sort_keys=True, default=str).encode())[:16]


def stage_inputs(stage: str, root: str | Path = ".") -> dict[str, Any]:
    """All that decides a stage's result, by name: its command, its settings and its inputs.

    Inputs that another stage makes count by their md5 in dvc.lock, all others by their content.

    Raises:
        TaskError: dvc.yaml has no such stage, or an input or a parameter of it is missing.
    """
    root = Path(root)
    params = read_yaml(root / "params.yaml")
    stages = read_yaml(root / "dvc.yaml").get("stages", {})
    if stage not in stages:
        raise TaskError(f"dvc.yaml has no stage {stage!r}: it has {', '.join(stages) or 'none'}.")
    described = _resolve(stages[stage], params)
    made = made_by_stages(root)
    inputs = {path: made.get(path) or content_hash(root, path) for path in _deps(described, made)}
    settings = {
        f"{key} in {file}": _lookup(read_yaml(root / file), key, file)
        for file, key in _settings(described)
    }
    return {f"the command of {stage}": described["cmd"], **settings, **inputs}


def outside_inputs(root: str | Path = ".") -> list[str]:
    """The paths that stages read and none makes: raw data, code and locks, in order of name.

    Raises:
        TaskError: dvc.yaml uses a parameter that is missing.
    """
    params = read_yaml(Path(root) / "params.yaml")
    stages = _resolve(read_yaml(Path(root) / "dvc.yaml").get("stages", {}), params)
    outs = [*_paths(stages, "outs"), *_paths(stages, "metrics")]
    deps = _paths(stages, "deps")
    return sorted({dep for dep in deps if not any(Path(dep).is_relative_to(out) for out in outs)})


def edited(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two answers of `stage_inputs`, by name."""
    return sorted(name for name in {*before, *now} if before.get(name) != now.get(name))


def _resolve(value: Any, params: dict[str, Any]) -> Any:
    """Fills DVC's ``${group.key}`` from params.yaml, as DVC itself does."""
    if isinstance(value, dict):
        return {key: _resolve(inner, params) for key, inner in value.items()}
    if isinstance(value, list):
        return [_resolve(inner, params) for inner in value]
    if isinstance(value, str):
        return re.sub(
            r"\$\{\s*([^}]+?)\s*\}", lambda m: str(_lookup(params, m[1], "params.yaml")), value
        )
    return value


def _lookup(params: dict[str, Any], dotted: str, file: str) -> Any:
    found: Any = params
    for part in dotted.split("."):
        if not isinstance(found, dict) or part not in found:
            raise TaskError(f"{file} has no {dotted}, which dvc.yaml uses: add it there.")
        found = found[part]
    return found


def _settings(described: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for entry in described.get("params", []):
        if isinstance(entry, dict):
            for file, keys in entry.items():
                yield from ((file, key) for key in keys or [])
        else:
            yield "params.yaml", entry


def _paths(stages: dict[str, Any], kind: str) -> list[str]:
    entries = [entry for described in stages.values() for entry in described.get(kind, [])]
    return [os.path.normpath(next(iter(e)) if isinstance(e, dict) else e) for e in entries]


def _deps(described: dict[str, Any], made: dict[str, str]) -> Iterator[str]:
    """Paths of the inputs; of one inside a stage's output directory, that directory."""
    for entry in described.get("deps", []):
        path = os.path.normpath(next(iter(entry)) if isinstance(entry, dict) else entry)
        parents = (str(parent) for parent in Path(path).parents)
        yield path if path in made else next((p for p in parents if p in made), path)


def made_by_stages(root: Path) -> dict[str, str]:
    """What dvc.lock says of the outputs of stages: path to md5 (of a folder: `….dir`)."""
    stages = read_lock(root).get("stages", {}).values()
    outs = [out for stage in stages for out in stage.get("outs", [])]
    return {os.path.normpath(out["path"]): out["md5"] for out in outs if out.get("md5")}
