import shutil

import pytest

from tasks.errors import TaskError
from tasks.versioning.dvc import run_dvc
from tasks.versioning.raw_data import use_data_of
from tests.tasks.conftest import PARAMS
from tests.tasks.toy_project import git, make_toy_project


@pytest.fixture
def project(tmp_path):
    """Raw data of two revisions, the first tagged `old`."""
    root = make_toy_project(tmp_path / "project")
    (root / "params.yaml").write_text(PARAMS.replace("data/raw/images.npz", "images.npz"))
    for tag, content in (("old", b"old pixels"), ("new", b"new pixels")):
        (root / "images.npz").write_bytes(content)
        assert run_dvc(["add", "images.npz"], root).returncode == 0
        git(root, "add", "-A")
        git(root, "commit", "-q", "-m", tag)
        git(root, "tag", tag)
    return root


def test_data_of_a_revision_replace_those_that_are_there(project):
    use_data_of("old", project)
    assert (project / "images.npz").read_bytes() == b"old pixels"
    assert git(project, "diff", "--name-only", "HEAD") == "images.npz.dvc"


def test_what_is_not_to_be_had_is_explained(project):
    with pytest.raises(TaskError, match="git knows no nowhere"):
        use_data_of("nowhere", project)
    with pytest.raises(TaskError, match=r"old~1 has no images\.npz\.dvc"):
        use_data_of("old~1", project)
    shutil.rmtree(project / ".dvc" / "cache" / "files")
    with pytest.raises(TaskError, match=r"neither cache nor remote holds images\.npz of old"):
        use_data_of("old", project)
    (project / "images.npz.dvc").unlink()
    with pytest.raises(TaskError, match=r"DVC does not track images\.npz.*dvc add"):
        use_data_of("old", project)
