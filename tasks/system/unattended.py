"""Git, and what else a run starts, as a program with nobody at the keyboard needs it.

The user's settings of git are made for commands that a person types. A run must not wait for an
editor, a passphrase or a pager that nobody sees, and must not set off the user's hooks.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from tasks.errors import TaskError

# What of git's own variables goes on to git. All others are left out: those that a hook sets for
# its own repository (GIT_DIR, GIT_INDEX_FILE, …), tracing, and those that change what git prints.
_KEPT = (
    "GIT_AUTHOR_",
    "GIT_COMMITTER_",
    "GIT_CONFIG_GLOBAL",
    "GIT_CONFIG_SYSTEM",
    "GIT_CONFIG_NOSYSTEM",
    "GIT_ATTR_NOSYSTEM",
    "GIT_EXEC_PATH",
    "GIT_CEILING_DIRECTORIES",
    "GIT_DISCOVERY_ACROSS_FILESYSTEM",
    "GIT_ALLOW_PROTOCOL",
    "GIT_SSH",
    "GIT_SSL_",
    "GIT_PROXY_",
    "GIT_HTTP_",
    "GIT_LFS_",
    "GIT_PYTHON_",
)

_NOBODY_ANSWERS = {
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_ASKPASS": "false",
    "SSH_ASKPASS": "false",
    "GCM_INTERACTIVE": "never",
    "GIT_EDITOR": ":",
    "GIT_SEQUENCE_EDITOR": ":",
    "GIT_PAGER": "cat",
    "GIT_OPTIONAL_LOCKS": "0",
}

# Filters (LFS), excludesFile, attributesFile, autocrlf, safe.directory, names, proxies and ssh stay
# the user's: a snapshot holds what the user's own `git commit` would.
_SETTINGS = {
    "commit.gpgSign": "false",
    "tag.gpgSign": "false",
    "tag.forceSignAnnotated": "false",
    "push.gpgSign": "false",
    "core.hooksPath": os.devnull,
    "core.fsmonitor": "false",
    "core.safecrlf": "false",
    "core.quotePath": "true",
    "core.pager": "cat",
    "color.ui": "false",
    "column.ui": "never",
    "log.showSignature": "false",
    "log.follow": "false",
    "diff.relative": "false",
    "diff.renames": "false",
    "diff.ignoreSubmodules": "none",
    "i18n.commitEncoding": "UTF-8",
    "i18n.logOutputEncoding": "UTF-8",
    "credential.interactive": "false",
    "init.templateDir": "",
    "clone.rejectShallow": "false",
    "protocol.file.allow": "always",
    "submodule.recurse": "false",
    "gc.auto": "0",
    "maintenance.auto": "false",
}

# Seconds: far more than any call needs; those that read or write whole trees, LFS' files too, may
# have gigabytes to move.
PATIENCE = 120.0
_PATIENCE_WITH_FILES = 7200.0
_MOVES_FILES = ("add", "checkout", "clone", "worktree")
_LAST_WORDS = 5.0


def unattended(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment for a child process in which git asks nothing and runs no hook or editor."""
    settings = {
        key: value
        for key, value in _given(environment)
        if key.lower() not in {ours.lower() for ours in _SETTINGS}
    }
    kept = {
        name: value
        for name, value in environment.items()
        if not name.startswith("GIT_") or name.startswith(_KEPT)
    }
    settings |= _SETTINGS
    numbered = {"GIT_CONFIG_COUNT": str(len(settings))}
    for number, (key, value) in enumerate(settings.items()):
        numbered[f"GIT_CONFIG_KEY_{number}"] = key
        numbered[f"GIT_CONFIG_VALUE_{number}"] = value
    return {**kept, **_NOBODY_ANSWERS, **numbered}


def run_git(
    root: str | Path, arguments: Sequence[str], more: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """Runs git in `root`, with `more` in its environment, and without a terminal.

    Raises:
        subprocess.TimeoutExpired: It did not end; it and all that it started were ended.
    """
    # Not LC_ALL=C: a filter that reads text needs UTF-8. LANGUAGE would go before LC_ALL.
    environment = {**unattended(os.environ), "LC_ALL": "C.UTF-8", "LANGUAGE": "", **more}
    limit = _PATIENCE_WITH_FILES if arguments[0] in _MOVES_FILES else PATIENCE
    with subprocess.Popen(
        ["git", *arguments],
        cwd=root,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="surrogateescape",
        # No terminal at all: ssh and gpg would open it whatever stdin is.
        start_new_session=True,
    ) as process:
        try:
            out, said = process.communicate(timeout=limit)
        except BaseException:
            _end(process)
            raise
    return subprocess.CompletedProcess(process.args, process.returncode, out, said)


def _given(environment: Mapping[str, str]) -> list[tuple[str, str]]:
    """The settings that the environment holds already."""
    count = environment.get("GIT_CONFIG_COUNT", "")
    pairs = (
        (environment.get(f"GIT_CONFIG_KEY_{n}"), environment.get(f"GIT_CONFIG_VALUE_{n}"))
        for n in range(int(count) if count.isdigit() else 0)
    )
    return [(key, value) for key, value in pairs if key is not None and value is not None]


def _end(process: subprocess.Popen[str]) -> None:
    """Ends git and what it started; asked first, so that it removes its lock files."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            # Reads to the end, which comes when the last one that holds the pipes is gone.
            process.communicate(timeout=_LAST_WORDS)
            return


def git(
    root: str | Path, *arguments: str, check: bool = True, env: dict[str, str] | None = None
) -> str:
    """Runs git in ``root`` and returns what it said, without the last line end.

    It asks nothing and runs no hook, editor or pager; see `tasks.system.unattended`.

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
