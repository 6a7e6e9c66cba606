import json

import pytest

from tasks.errors import TaskError
from tasks.registry import tags as registry_tags
from tasks.versioning import git as versioning_git
from tasks.versioning import stage_key
from tests.tasks.conftest import git


def status(root):
    return git(root, "status", "--porcelain"), git(root, "ls-files", "-s"), git(root, "branch")


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("params.yaml", "epochs: 2", "epochs: 3"),
        ("dvc.yaml", "python -m tasks.stages.pretrain", "python -m tasks.stages.pretrain --fast"),
        ("dvc.lock", "0123456789", "1123456789"),
        ("models/layers/heads.py", "import", "import  "),
    ],
)
def test_key_changes_with_settings_command_inputs_and_code(project, file, old, new):
    before = stage_key.stage_key("pretrain", project)
    text = (project / file).read_text()
    (project / file).write_text(text.replace(old, new, 1))
    assert stage_key.stage_key("pretrain", project) != before
    (project / file).write_text(text)
    assert stage_key.stage_key("pretrain", project) == before


def test_key_ignores_what_the_stage_does_not_use(project):
    before = stage_key.stage_key("pretrain", project)
    text = (project / "params.yaml").read_text()
    (project / "params.yaml").write_text("# a remark\n" + text.replace("0.05", "0.1"))
    (project / "models" / "__pycache__").mkdir(exist_ok=True)
    (project / "models" / "__pycache__" / "x.pyc").write_bytes(b"x")
    (project / "artifacts" / "prepare" / "store" / "manifest.json").write_text("{}")
    assert stage_key.stage_key("pretrain", project) == before
    assert len(before) == 16


def test_key_follows_a_path_given_in_the_settings(project):
    before = stage_key.stage_key("prepare", project)
    (project / "data" / "raw" / "images.npz").write_bytes(b"other pixels")
    assert stage_key.stage_key("prepare", project) != before


def test_missing_input_is_named_with_its_remedy(project):
    (project / "data" / "raw" / "images.npz").unlink()
    with pytest.raises(TaskError, match=r"images\.npz is missing.*dvc"):
        stage_key.stage_key("prepare", project)


def test_unknown_stage_is_refused(project):
    with pytest.raises(TaskError, match="no stage 'train'"):
        stage_key.stage_key("train", project)


def test_snapshot_holds_uncommitted_edits_and_leaves_the_checkout_alone(project):
    (project / "params.yaml").write_text((project / "params.yaml").read_text() + "# edited\n")
    (project / "models" / "layers" / "heads.py").write_text("staged = 1\n")
    git(project, "add", "models/layers/heads.py")
    (project / "models" / "layers" / "heads.py").write_text("edited = 2\n")
    (project / "dvc.lock").write_text("schema: '2.0'\n")
    before = status(project)
    commit = versioning_git.snapshot_commit(project, "run-1")
    assert git(project, "rev-parse", "runs/run-1") == commit
    assert git(project, "show", f"{commit}:models/layers/heads.py") == "edited = 2"
    assert git(project, "show", f"{commit}:params.yaml").endswith("# edited")
    assert git(project, "show", f"{commit}:dvc.lock") == "schema: '2.0'"
    assert git(project, "rev-parse", f"{commit}^") == git(project, "rev-parse", "HEAD")
    after = status(project)
    assert after[:2] == before[:2]
    assert git(project, "branch", "--show-current") == "main"


def test_snapshot_of_an_unchanged_tree_is_head_itself(project):
    assert versioning_git.snapshot_commit(project, "run-1") == git(project, "rev-parse", "HEAD")


def test_second_snapshot_of_a_run_keeps_the_first_commit_until_something_changes(
    project, monkeypatch
):
    (project / "params.yaml").write_text((project / "params.yaml").read_text() + "# edited\n")
    first = versioning_git.snapshot_commit(project, "run-1")
    # A commit made again would differ by its time.
    monkeypatch.setenv("GIT_COMMITTER_DATE", "2040-01-01T00:00:00Z")
    assert versioning_git.snapshot_commit(project, "run-1") == first
    (project / "params.yaml").write_text((project / "params.yaml").read_text() + "# again\n")
    second = versioning_git.snapshot_commit(project, "run-1")
    assert second != first
    git(project, "commit", "-q", "--allow-empty", "-m", "HEAD moves on")
    third = versioning_git.snapshot_commit(project, "run-1")
    assert git(project, "rev-parse", f"{third}^") == git(project, "rev-parse", "HEAD")


def test_snapshot_works_where_git_knows_no_name(project, monkeypatch, tmp_path):
    git(project, "config", "--unset", "user.name")
    git(project, "config", "--unset", "user.email")
    git(project, "config", "user.useConfigOnly", "true")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "none"))
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", str(tmp_path / "none"))
    (project / "params.yaml").write_text((project / "params.yaml").read_text() + "# edited\n")
    commit = versioning_git.snapshot_commit(project, "run-1")
    assert git(project, "log", "-1", "--format=%an", commit) == versioning_git.os_user()


def test_untracked_code_is_listed_and_ignored_data_is_not(project):
    (project / "models" / "new.py").write_text("")
    (project / "notes.txt").write_text("")
    assert versioning_git.untracked_code(project) == ["models/new.py"]


def test_a_folder_without_commits_is_explained(tmp_path):
    with pytest.raises(TaskError, match="not a git repository"):
        versioning_git.require_git(tmp_path)
    git(tmp_path, "init", "-q")
    with pytest.raises(TaskError, match="no commit yet"):
        versioning_git.require_git(tmp_path)


def test_tags_name_all_that_rebuilds_the_weights(project):
    tags = registry_tags.lineage_tags(project)
    assert tags["git_commit"] == git(project, "rev-parse", "HEAD")
    assert tags["data_version"] == "d" * 64
    assert (tags["method"], tags["label_fraction"]) == ("simclr", "0.05")
    assert all(tags[name] for name in ("dvc_lock", "params", "weights", "torch", "device"))
    assert str(project) not in str(tags)


def test_machine_is_the_one_that_trained_not_the_one_that_registers(project):
    tags = registry_tags.lineage_tags(project)
    assert (tags["device"], tags["torch"]) == ("cpu test", "1.2.3")


def test_artifacts_from_before_the_machine_was_told_stay_readable(project):
    path = project / registry_tags.LEARNERS
    described = json.loads(path.read_text())
    del described["machine"]
    path.write_text(json.dumps(described))
    assert registry_tags.trained_on(project) == {"torch": "not recorded", "device": "not recorded"}
    path.unlink()
    with pytest.raises(TaskError, match="learners.json is missing or broken: run `dvc repro"):
        registry_tags.trained_on(project)
