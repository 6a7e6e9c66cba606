"""The user's settings of git, and a caller's variables, do not reach what Instar asks of git."""

import shutil
import subprocess

import psutil
import pytest

from tasks.errors import TaskError
from tasks.execution.workspace import isolated
from tasks.registry import promotion_log_git, registration
from tasks.reproduction.clone import private_clone
from tasks.system import unattended
from tasks.system import unattended as system_unattended
from tasks.system.supervised_process import Leash
from tasks.versioning import git as versioning_git
from tests.tasks.conftest import git

HOOKS = (
    "post-checkout", "reference-transaction", "pre-commit", "commit-msg", "post-commit",
    "post-index-change", "pre-auto-gc", "post-merge", "fsmonitor-watchman",
)  # fmt: skip
# Each with PROGRAM for one that must not run, and HOOKS for a folder full of it.
SETTINGS = {
    "signed tags": {"tag.gpgSign": "true", "gpg.program": "PROGRAM", "core.editor": "PROGRAM"},
    "annotated tags": {"tag.forceSignAnnotated": "true", "tag.gpgSign": "true"},
    "signed commits": {"commit.gpgSign": "true", "gpg.program": "PROGRAM"},
    "ssh signatures": {"tag.gpgSign": "true", "gpg.format": "ssh", "gpg.ssh.program": "PROGRAM"},
    "hooks": {"core.hooksPath": "HOOKS"},
    "fsmonitor": {"core.fsmonitor": "PROGRAM"},
    "pager": {"core.pager": "PROGRAM", "pager.log": "true", "pager.tag": "true"},
    "colours": {"color.ui": "always", "column.ui": "always"},
    "signatures shown": {"log.showSignature": "true", "gpg.program": "PROGRAM"},
    "template": {"init.templateDir": "TEMPLATE"},
    "no file transport": {"protocol.file.allow": "never"},
    "safecrlf": {"core.autocrlf": "true", "core.safecrlf": "true"},
    "diff": {"diff.external": "PROGRAM", "diff.relative": "true", "diff.noprefix": "true"},
    "short names": {"core.abbrev": "4", "log.abbrevCommit": "true", "log.decorate": "full"},
    "encodings": {"i18n.commitEncoding": "UTF-16", "i18n.logOutputEncoding": "UTF-16"},
    "status": {"status.showUntrackedFiles": "no", "status.short": "true"},
    "no guessed name": {"user.useConfigOnly": "true"},
    "submodules": {"submodule.recurse": "true", "diff.ignoreSubmodules": "all"},
}
VARIABLES = {
    "hook of another repository": {"GIT_DIR": "/nowhere/.git", "GIT_WORK_TREE": "/nowhere"},
    "index": {"GIT_INDEX_FILE": "/nowhere/index"},
    "objects": {"GIT_OBJECT_DIRECTORY": "/nowhere/objects", "GIT_QUARANTINE_PATH": "/nowhere"},
    "editors": {"GIT_EDITOR": "PROGRAM", "EDITOR": "PROGRAM", "VISUAL": "PROGRAM"},
    "prompts": {"GIT_ASKPASS": "PROGRAM", "SSH_ASKPASS": "PROGRAM", "GIT_PAGER": "PROGRAM"},
    "tracing": {"GIT_TRACE": "1", "GIT_TRACE2_EVENT": "1", "GIT_CURL_VERBOSE": "1"},
    "settings": {"GIT_CONFIG_PARAMETERS": "'tag.gpgsign'='true'"},
    "numbered settings": {
        "GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "Tag.GPGSign", "GIT_CONFIG_VALUE_0": "true",
    },
    "pathspecs": {"GIT_LITERAL_PATHSPECS": "1"},
    "a foreign namespace": {"GIT_NAMESPACE": "other"},
    "another language": {"LC_ALL": "de_DE.UTF-8", "LANGUAGE": "de"},
}  # fmt: skip


@pytest.fixture
def program(tmp_path):
    """One that leaves a trace and fails; see `ran`."""
    path = tmp_path / "program"
    path.write_text(f'#!/bin/sh\necho "$0 $*" >> "{tmp_path}/ran"\nexit 1\n')
    path.chmod(0o755)
    for folder in ("hooks", "template/hooks"):
        (tmp_path / folder).mkdir(parents=True)
        for hook in HOOKS:
            (tmp_path / folder / hook).symlink_to(path)
    return path


@pytest.fixture
def ran(tmp_path):
    return lambda: (tmp_path / "ran").read_text() if (tmp_path / "ran").exists() else ""


def work(root):
    """What Instar does with git: snapshot, tags, worktree, clone, mirror of the log."""
    (root / "params.yaml").write_text((root / "params.yaml").read_text() + "# edited\n")
    (root / "models" / "ü ñ.py").write_text("# new\n")
    assert versioning_git.untracked_code(root) == ["models/ü ñ.py"]
    head = versioning_git.require_git(root)
    commit = versioning_git.snapshot_commit(root, "run-1")
    assert commit != head, "the edit is part of the run's commit"
    assert versioning_git.snapshot_commit(root, "run-1") == commit, "found again"
    registration._keep_commit(root, "tiny", "1", commit)
    registration._keep_commit(root, "tiny", "1", commit)
    for place, how in (
        ("tree", ("worktree", "add", "--detach", "{}", commit)),
        ("clone", ("clone", "--quiet", "--branch", "instar/tiny/v1", str(root), "{}")),
    ):
        there = root.with_name(place)
        system_unattended.git(root, *(word.format(there) for word in how))
        assert "# edited" in (there / "params.yaml").read_text()
        shutil.rmtree(there)
    log = root / "log.jsonl"
    log.write_text("{}\n")
    promotion_log_git.keep(root, log, 1)
    assert promotion_log_git.text_of(root) == "{}\n"
    return commit


def check(root, commit):
    git(root, "fsck", "--strict")
    assert git(root, "cat-file", "-t", "instar/tiny/v1") == "commit", "neither signed nor annotated"
    assert git(root, "rev-parse", "instar/tiny/v1") == commit
    changed = git(root, "diff", "--name-only", "HEAD", commit)
    assert changed == "params.yaml"
    assert git(root, "diff", "--cached", "--name-only") == "", "the user's index is as it was"


@pytest.mark.parametrize("kind", SETTINGS)
def test_no_setting_of_the_user_stops_or_changes_a_run(
    project, tmp_path, program, ran, monkeypatch, kind
):
    given = {
        key: value.replace("PROGRAM", str(program))
        .replace("HOOKS", str(tmp_path / "hooks"))
        .replace("TEMPLATE", str(tmp_path / "template"))
        for key, value in SETTINGS[kind].items()
    }
    for key, value in given.items():
        git(project, "config", "--file", str(tmp_path / "gitconfig"), key, value)
    with monkeypatch.context() as patch:
        patch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
        commit = work(project)
    assert ran() == ""
    check(project, commit)


def test_the_repository_s_own_hooks_do_not_run(project, program, ran):
    for hook in HOOKS:
        (project / ".git" / "hooks" / hook).unlink(missing_ok=True)
        (project / ".git" / "hooks" / hook).symlink_to(program)
    commit = work(project)
    assert ran() == ""
    for hook in HOOKS:
        (project / ".git" / "hooks" / hook).unlink()
    check(project, commit)


def test_worktrees_and_clones_of_runs_are_made_without_hooks(
    project, program, ran, tmp_path, monkeypatch
):
    (tmp_path / "store").mkdir()
    (project / ".dvc").mkdir()
    (project / ".dvc" / "config").write_text(
        f"[core]\n    remote = there\n['remote \"there\"']\n    url = {tmp_path}/store\n"
    )
    git(project, "add", "-A", "-f", ".dvc")
    git(project, "commit", "-q", "-m", "remote")
    git(project, "tag", "one")
    for kind in SETTINGS.values():
        for key, value in kind.items():
            given = value.replace("PROGRAM", str(program)).replace("HOOKS", f"{tmp_path}/hooks")
            given = given.replace("TEMPLATE", f"{tmp_path}/template")
            git(project, "config", "--file", str(tmp_path / "gitconfig"), key, given)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    with isolated(project, "run-1") as place, private_clone(project, "one") as clone:
        assert (place / "params.yaml").exists() and (clone / "params.yaml").exists()
    assert ran() == ""


@pytest.mark.parametrize("kind", VARIABLES)
def test_no_variable_of_the_caller_stops_or_changes_a_run(project, program, ran, monkeypatch, kind):
    with monkeypatch.context() as patch:
        for name, value in VARIABLES[kind].items():
            patch.setenv(name, value.replace("PROGRAM", str(program)))
        commit = work(project)
    assert ran() == ""
    check(project, commit)


def test_what_the_user_means_for_a_commit_counts(project, tmp_path, monkeypatch):
    """Names, filters, line ends and excluded files are those of the user's own `git commit`."""
    config = tmp_path / "gitconfig"
    (tmp_path / "excluded").write_text("ignored.py\n")
    (tmp_path / "attributes").write_text("*.txt filter=upper\n")
    for key, value in {
        "filter.upper.clean": "tr a-z A-Z", "core.autocrlf": "input",
        "core.excludesFile": str(tmp_path / "excluded"),
        "core.attributesFile": str(tmp_path / "attributes"),
    }.items():  # fmt: skip
        subprocess.run(["git", "config", "--file", str(config), key, value], check=True)
    (project / "models" / "words.txt").write_text("one")
    git(project, "add", "-A")
    git(project, "commit", "-q", "-m", "words")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
    monkeypatch.setenv("GIT_AUTHOR_NAME", "Grace")
    (project / "models" / "words.txt").write_text("two\r\n")
    (project / "models" / "ignored.py").write_text("")
    assert versioning_git.untracked_code(project) == []
    commit = versioning_git.snapshot_commit(project, "run-1")
    assert git(project, "cat-file", "blob", f"{commit}:models/words.txt") == "TWO"
    assert git(project, "cat-file", "-s", f"{commit}:models/words.txt") == "4"
    assert git(project, "log", "-1", "--format=%an", commit) == "Grace"


@pytest.mark.parametrize("unchecked", [False, True])
def test_git_that_does_not_end_is_ended_with_what_it_started(
    project, tmp_path, monkeypatch, unchecked
):
    pid = tmp_path / "pid"
    git(project, "config", "filter.slow.clean", f"echo $$ > '{pid}'; exec sleep 600")
    (project / ".git" / "info" / "attributes").write_text("params.yaml filter=slow\n")
    (project / "params.yaml").write_text("changed: true\n")
    monkeypatch.setattr(unattended, "_PATIENCE_WITH_FILES", 1.0)
    with pytest.raises(TaskError, match=r"`git add --update` in .*my project"):
        system_unattended.git(project, "add", "--update", check=not unchecked)
    left = int(pid.read_text())
    # Who takes a dead orphan's exit status is up to the system.
    assert not psutil.pid_exists(left) or psutil.Process(left).status() == psutil.STATUS_ZOMBIE
    assert not (project / ".git" / "index.lock").exists()


def test_git_has_neither_input_nor_terminal(project, tmp_path):
    seen = tmp_path / "seen"
    git(project, "config", "filter.look.clean", f"(tty </dev/tty; echo $?) > '{seen}' 2>&1; cat")
    (project / ".git" / "info" / "attributes").write_text("params.yaml filter=look\n")
    (project / "params.yaml").write_text("changed: true\n")
    system_unattended.git(project, "add", "--update")
    assert not seen.read_text().startswith("/dev")


def test_children_of_a_run_inherit_it(project, program, ran, tmp_path, monkeypatch):
    """DVC asks git too, and what a stage starts."""
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    monkeypatch.setenv("GIT_EDITOR", str(program))
    git_config = tmp_path / "gitconfig"
    git_config.write_text(f"[tag]\n gpgSign = true\n[core]\n hooksPath = {tmp_path}/hooks\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(git_config))
    with Leash(["sh", "-c", "cat; git tag -f one && git commit --allow-empty"], project) as leash:
        leash.wait(30)
    assert ran() == ""
    monkeypatch.undo()
    assert git(project, "cat-file", "-t", "one") == "commit"


def test_the_environment_does_not_grow_from_child_to_child():
    once = unattended.unattended({"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "user.name",
                                  "GIT_CONFIG_VALUE_0": "Ada", "HOME": "/home/ada"})  # fmt: skip
    assert unattended.unattended(once) == once
    assert once["HOME"] == "/home/ada"
    assert "Ada" in once.values()
