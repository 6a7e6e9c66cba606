"""The checkout's data in a run's worktree: on real git and DVC, the checkout left as it was."""

import hashlib
import subprocess
import sys

import pytest

from tasks.errors import TaskError
from tasks.execution.workspace import isolated
from tasks.versioning.dvc_remote import push
from tasks.versioning.git import snapshot_commit
from tasks.versioning.raw_data import take_data
from tests.tasks.toy_project import git, make_toy_project

PARAMS = """\
speed: 1
data: {source: folder, path: %s, size: 16, channels: 1}
"""


@pytest.fixture
def project(tmp_path):
    root = make_toy_project(tmp_path / "project")
    use(root, "pics")
    return root


def use(root, path):
    """Let the settings name the path, and put an image there."""
    (root / "params.yaml").write_text(PARAMS % path)
    git(root, "commit", "-q", "-a", "-m", "settings")
    write(root / path / "a" / "1.png", b"one")


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def dvc(root, *arguments):
    subprocess.run([sys.executable, "-m", "dvc", *arguments, "-q"], cwd=root, check=True)


def run(project, name="run-1"):
    """Take the data as a run does, up to its commit and push; returns that."""
    with isolated(project, name) as place:
        take_data(project, place)
        push(place)
        return snapshot_commit(place, name)


def state(root):
    """All that belongs to the user: what git sees, and the bytes of index and .dvc files."""
    files = [root / ".git" / "index", root / ".gitignore", *root.glob("?*.dvc")]
    hashes = [hashlib.md5(file.read_bytes()).hexdigest() for file in files]
    return git(root, "status", "--porcelain"), git(root, "log", "--format=%H"), hashes


def clone(project, commit, tmp_path):
    """A second checkout of a commit that has nothing but git and the remote."""
    place = tmp_path / "clone"
    git(tmp_path, "clone", "-q", str(project), str(place))
    git(place, "checkout", "-q", commit)
    dvc(place, "remote", "modify", "--local", "local", "url", str(project / ".instar" / "remote"))
    dvc(place, "pull", *[file.name for file in place.rglob("*.dvc") if file.is_file()])
    return place


@pytest.mark.parametrize("tracked", [False, True])
def test_the_runs_commit_rebuilds_the_data_and_the_checkout_stays(project, tracked, tmp_path):
    if tracked:
        dvc(project, "add", "pics")
        git(project, "add", "-A")
        git(project, "commit", "-q", "-m", "data")
        write(project / "pics" / "b" / "2.png", b"two")
        (project / "pics" / "a" / "1.png").unlink()
    before = state(project)
    commit = run(project)
    assert state(project) == before
    rebuilt = clone(project, commit, tmp_path) / "pics"
    expected = {"b/2.png"} if tracked else {"a/1.png"}
    assert {p.relative_to(rebuilt).as_posix() for p in rebuilt.rglob("*.png")} == expected


def test_data_in_a_folder_that_git_ignores_are_taken_with_it(project, tmp_path):
    (project / ".gitignore").write_text(".instar/\n/output.txt\n/raw/\n")
    use(project, "raw/mine")
    before = state(project)
    commit = run(project)
    assert state(project) == before
    assert "raw.dvc" in git(project, "ls-tree", "--name-only", commit).split()
    assert (clone(project, commit, tmp_path) / "raw" / "mine" / "a" / "1.png").exists()


def test_data_in_git_itself_are_taken_as_they_lie(project):
    git(project, "add", "-A")
    git(project, "commit", "-q", "-m", "data in git")
    write(project / "pics" / "b" / "2.png", b"two")
    (project / "pics" / "a" / "1.png").unlink()
    before = state(project)
    commit = run(project)
    assert state(project) == before
    listed = git(project, "ls-tree", "-r", "--name-only", commit, "pics").split()
    assert listed == ["pics/b/2.png"]


def test_data_that_are_gone_are_named(project):
    (project / "pics" / "a" / "1.png").unlink()
    (project / "pics" / "a").rmdir()
    (project / "pics").rmdir()
    with (
        isolated(project, "run-1") as place,
        pytest.raises(TaskError, match="pics does not exist|pics is not in the checkout"),
    ):
        take_data(project, place)
