"""DVC sees the code that each stage runs. Which room may import from which: see pyproject.toml."""

import ast
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from models.methods.registry import METHODS

ROOT = Path(__file__).parent.parent
ROOMS = ("flows", "tasks", "models", "data")
# What carries a stage but computes nothing: an edit here changes no result. (The schema only
# checks: params.yaml holds every key, see test_schema.)
FRAME = {
    "tasks/stages/context.py",
    "tasks/system/scratch.py",
    "tasks/settings/schema.py",
    "tasks/settings/loading.py",
    "tasks/system/atomic_files.py",
    "tasks/layout.py",
    "tasks/stages/progress.py",
    "tasks/settings/project_files.py",
    "tasks/tracking/journal.py",
    "tasks/versioning/stage_key.py",
    "tasks/errors.py",
    "tasks/system/locks.py",
    "tasks/system/parent_watchdog.py",
    "tasks/system/terminal.py",
    "tasks/settings/fitness.py",
    "tasks/settings/misfit.py",
    "tasks/settings/rehearsal.py",
    "tasks/reporting/understood.py",
    "data/packing/census.py",
    "tasks/system/unattended.py",
    "data/errors.py",
    "models/errors.py",
}


def imported_modules(path: Path) -> set[str]:
    """Every absolute module a file imports, also inside functions; `from a import b` gives both."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def files_behind(module: str) -> list[Path]:
    """The file of a module of ours, and the packages above it."""
    parts = module.split(".")
    found = []
    for n in range(1, len(parts) + 1):
        base = ROOT.joinpath(*parts[:n])
        found += [p for p in (base / "__init__.py", base.with_suffix(".py")) if p.is_file()]
    return found


def is_marker(path: Path) -> bool:
    """Whether this is a package's file with nothing but a docstring, which runs nothing."""
    body = ast.parse(path.read_text()).body
    return path.name == "__init__.py" and all(isinstance(node, ast.Expr) for node in body)


def code_of(stage: str) -> set[str]:
    """All files of ours that a stage's process can come to run."""
    todo, seen = [ROOT / "tasks" / "stages" / f"{stage}.py"], set()
    while todo:
        path = todo.pop()
        name = path.relative_to(ROOT).as_posix()
        if name in seen or name in FRAME:
            continue
        seen.add(name)
        modules = imported_modules(path)
        if name == "models/methods/registry.py":
            modules |= {f"models.methods.{entry.rpartition('.')[0]}" for entry in METHODS.values()}
        for module in modules:
            if module.split(".")[0] in ROOMS:
                todo += files_behind(module)
    return seen


@pytest.mark.parametrize("stage", ["prepare", "pretrain", "finetune", "evaluate"])
def test_dvc_sees_every_file_a_stage_runs(stage):
    deps = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"][stage]["deps"]
    unseen = {
        name
        for name in code_of(stage)
        if not any(name == dep or name.startswith(f"{dep}/") for dep in deps)
        and not is_marker(ROOT / name)
    }
    assert not unseen, f"add to the deps of {stage} in dvc.yaml: {sorted(unseen)}"
    assert "requirements.lock" in deps
    code_deps = [d for d in deps if d.split("/")[0] in ROOMS and not d.endswith(".html")]
    idle = [
        d for d in code_deps if not any(n == d or n.startswith(f"{d}/") for n in code_of(stage))
    ]
    assert not idle, f"{stage} lists code it never runs: {idle}"
