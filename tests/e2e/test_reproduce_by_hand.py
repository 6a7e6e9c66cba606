"""A version made again by `instar reproduce`, and by hand as docs/guides/reproduce.md says."""

import json
from pathlib import Path

import pytest

from tests.e2e.tiny_project import copy_project, dvc, git, instar

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
TAG = "instar/tiny/v1"


@pytest.fixture(scope="module")
def root(done, tmp_path_factory) -> Path:
    """A project whose first version is registered, and whose checkout has gone on since."""
    root = copy_project(done[0], tmp_path_factory.mktemp("reproduce") / "project")
    (root / "params.yaml").write_text("edited: since\n")
    return root


def test_all_stages_give_the_version_again_from_the_raw_data(root):
    ended = instar(root, "reproduce", "tiny@production", "--full", "--json")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    done = json.loads(ended.stdout)
    assert (done["verdict"], done["differences"]) == ("identical", [])
    assert done["stages"] == ["prepare", "pretrain", "finetune", "evaluate"]
    assert done["files"] >= 20 and done["metrics"] >= 40
    said = instar(root, "lineage", "tiny@1", "--json")
    told = json.loads(said.stdout)["reproduced"]
    assert (told["verdict"], told["scope"]) == ("identical", ", ".join(done["stages"]))


def test_the_steps_by_hand_give_the_same(root, tmp_path):
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "-q", str(root), str(clone))
    git(clone, "checkout", "-q", TAG)
    dvc(clone, "remote", "add", "--force", "--local", "local", str(root / ".instar" / "remote"))
    dvc(clone, "pull")
    said = dvc(clone, "repro")
    assert said.count("didn't change, skipping") == 4
    dvc(clone, "repro", "--force", "--single-item", "evaluate")
    assert git(clone, "status", "--porcelain") == ""


def test_a_version_that_its_commit_does_not_make_is_told_apart(root, tmp_path):
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "-q", str(root), str(clone))
    git(clone, "checkout", "-q", TAG)
    params = clone / "params.yaml"
    params.write_text(params.read_text().replace("embedding_points: 50", "embedding_points: 60"))
    identity = ("-c", "user.name=Eve", "-c", "user.email=eve@localhost")
    git(clone, *identity, "commit", "-q", "-a", "-m", "other settings")
    git(root, "fetch", "-q", str(clone), "HEAD")
    commit = git(root, "rev-parse", "FETCH_HEAD")
    git(root, "tag", "--force", TAG, commit)
    refused = instar(root, "reproduce", "tiny@1", "--from", "evaluate")
    assert refused.returncode == 1
    assert f"no git tag {TAG} names the commit" in refused.stderr

    from tasks.tracking.client import connect

    client = connect(f"sqlite:///{root}/mlflow.db")
    client.set_model_version_tag("tiny", "1", "git_commit", commit)
    ended = instar(root, "reproduce", "tiny@1", "--from", "evaluate")
    assert ended.returncode == 1
    assert "differs." in ended.stdout
    assert "evaluate: file artifacts/evaluate/" in ended.stdout
    assert client.get_model_version("tiny", "1").tags["reproduced"] == "differs"
