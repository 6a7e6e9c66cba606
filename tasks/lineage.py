"""What a result was made of: the key of a stage, the tags of a model, the commit of a run.

DVC is asked only through the files that it keeps in git, dvc.yaml and dvc.lock.
"""

import getpass
import json
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tasks.contents import content_hash, digest, hash_file
from tasks.errors import TaskError
from tasks.project_files import read_lock, read_yaml
from tasks.unattended import run_git

ROOMS = ("flows", "tasks", "models", "data")
WEIGHTS = Path("artifacts/finetune/classifiers/pretrained-0.safetensors")
MANIFEST = Path("artifacts/prepare/store/manifest.json")
LEARNERS = Path("artifacts/finetune/learners.json")
# Of artifacts from before learners.json told it.
NOT_RECORDED = "not recorded"


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


def lineage_tags(root: str | Path = ".", commit: str | None = None) -> dict[str, str]:
    """All that is needed to make the present weights again, as tags of a model version.

    Args:
        root: The checkout with the artifacts.
        commit: The commit that holds the run (`snapshot_commit`'s answer); HEAD if None.

    Raises:
        TaskError: A file of the lineage is missing, or this is no git repository.
    """
    root = Path(root)
    params = read_yaml(root / "params.yaml")
    tags = {
        "git_commit": commit or require_git(root),
        "dvc_lock": hash_file(root / "dvc.lock"),
        "params": digest(json.dumps(params, sort_keys=True, default=str).encode()),
        "data_version": data_version(root),
        "weights": hash_file(root / WEIGHTS),
        **trained_on(root),
        "method": str(params.get("pretrain", {}).get("method", {}).get("name", "")),
        "label_fraction": str(params.get("finetune", {}).get("label_fraction", "")),
    }
    if (root / "requirements.lock").exists():
        tags["requirements_lock"] = hash_file(root / "requirements.lock")
    return tags


def data_version(root: str | Path = ".") -> str:
    """The digest of the packed store: one sha256 over every image, id and split."""
    try:
        return str(json.loads((Path(root) / MANIFEST).read_text(encoding="utf-8"))["digest"])
    except (OSError, ValueError, KeyError):
        raise TaskError(
            f"{MANIFEST} is missing or broken: run `dvc repro prepare` (or `dvc pull`)."
        ) from None


def trained_on(root: str | Path = ".") -> dict[str, str]:
    """torch's version and the device that the present weights were learned with.

    Not this machine's: the weights may come from DVC's cache, or from another's run.
    """
    try:
        found = json.loads((Path(root) / LEARNERS).read_text(encoding="utf-8")).get("machine", {})
    except (OSError, ValueError):
        raise TaskError(
            f"{LEARNERS} is missing or broken: run `dvc repro finetune` (or `dvc pull`)."
        ) from None
    return {name: str(found.get(name, NOT_RECORDED)) for name in ("torch", "device")}


def require_git(root: str | Path = ".") -> str:
    """Returns the commit that HEAD stands on.

    Raises:
        TaskError: git is not installed, or this is not a repository with at least one commit.
    """
    if shutil.which("git") is None:
        raise TaskError("git is not installed: install it, so that runs can be recorded.")
    head = git(root, "rev-parse", "--verify", "--quiet", "HEAD^{commit}", check=False)
    if head:
        return head
    if git(root, "rev-parse", "--git-dir", check=False):
        raise TaskError("This git repository has no commit yet: `git add -A && git commit` first.")
    raise TaskError(f"{Path(root).resolve()} is no git repository: `git init` and commit first.")


def untracked_code(root: str | Path = ".") -> list[str]:
    """Files in the code rooms that git neither tracks nor ignores, so that no commit holds them."""
    require_git(root)
    listed = git(root, "ls-files", "-z", "--others", "--exclude-standard", "--", *ROOMS)
    return sorted(name for name in listed.split("\0") if name)


def snapshot_commit(root: str | Path, run_id: str) -> str:
    """Puts the tracked tree as it lies, edits included, on the branch ``runs/<run_id>``.

    The user's branch, index and files are not touched: the tree is made in an index of its own. A
    tree equal to HEAD's makes no new commit, the branch then names HEAD; nor does a tree that the
    branch holds already.

    Returns:
        The commit's hash.
    """
    root = Path(root)
    head = require_git(root)
    top = Path(git(root, "rev-parse", "--show-toplevel"))
    index = Path(git(root, "rev-parse", "--path-format=absolute", "--git-path", "index"))
    with tempfile.TemporaryDirectory(prefix="instar-index-") as scratch:
        env = {**author(root), "GIT_INDEX_FILE": str(Path(scratch) / "index")}
        if index.exists():
            # A copy keeps git's cache of file times, so only what was edited is read again.
            shutil.copy2(index, env["GIT_INDEX_FILE"])
        else:
            git(top, "read-tree", head, env=env)
        git(top, "add", "--update", "--", ".", env=env)
        for name in ("dvc.lock", "params.yaml"):
            if (root / name).exists():
                git(root, "add", "--force", "--", name, env=env)
        tree = git(top, "write-tree", env=env)
        commit = _holding(root, tree, head, f"refs/heads/runs/{run_id}") or git(
            top, "commit-tree", tree, "-p", head, "-m", f"Run {run_id}", env=env
        )
    git(root, "update-ref", f"refs/heads/runs/{run_id}", commit)
    return commit


def drop_repetition(root: str | Path, run_id: str, commit: str) -> None:
    """Removes the branch `runs/<run_id>` if `commit`, which stays, holds the very same tree."""
    branch = f"refs/heads/runs/{run_id}"
    if git(root, "rev-parse", f"{branch}^{{tree}}") == git(root, "rev-parse", f"{commit}^{{tree}}"):
        git(root, "update-ref", "-d", branch)


def _holding(root: Path, tree: str, head: str, branch: str) -> str | None:
    """The commit that is `tree` already: HEAD, or a child of it on the branch."""
    if git(root, "rev-parse", f"{head}^{{tree}}") == tree:
        return head
    tip = git(root, "log", "-1", "--format=%T %P %H", branch, "--", check=False).split()
    return tip[2] if tip[:2] == [tree, head] and len(tip) == 3 else None


def author(root: str | Path) -> dict[str, str]:
    """Environment that lets git commit where nobody told it a name (a container, a fresh CI)."""
    found = {}
    for role in ("AUTHOR", "COMMITTER"):
        name = os.environ.get(f"GIT_{role}_NAME") or git(root, "config", "user.name", check=False)
        mail = os.environ.get(f"GIT_{role}_EMAIL") or git(root, "config", "user.email", check=False)
        found[f"GIT_{role}_NAME"] = name or os_user()
        found[f"GIT_{role}_EMAIL"] = mail or f"{os_user()}@localhost"
    return found


def os_user() -> str:
    """The login name; 'unknown' for a numeric user without one (arbitrary ids in containers)."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


def git(
    root: str | Path, *arguments: str, check: bool = True, env: dict[str, str] | None = None
) -> str:
    """Runs git in ``root`` and returns what it said, without the last line end.

    It asks nothing and runs no hook, editor or pager; see `tasks.unattended`.

    Args:
        root: Where to run it.
        arguments: Its command line.
        check: Whether a failure is an error.
        env: More for its environment.

    Raises:
        TaskError: git failed and ``check`` is set (unchecked, the answer is then empty), or it did
            not end in time.
    """
    try:
        done = run_git(root, arguments, env or {})
    except subprocess.TimeoutExpired as late:
        raise TaskError(
            f"git {arguments[0]} did not end within {late.timeout:.0f} seconds and was stopped: "
            f"type `git {shlex.join(arguments)}` in {Path(root).resolve()} to see why."
        ) from None
    if done.returncode == 0:
        return done.stdout.rstrip("\n")
    if check:
        raise TaskError(f"git {arguments[0]} failed: {done.stderr.strip() or 'no reason given'}")
    return ""


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
