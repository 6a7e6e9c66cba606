import pytest

from tasks.execution.skip_unchanged import repeated_run, source_key
from tasks.registry.registration import register
from tasks.tracking.client import connect
from tasks.tracking.publisher import Publisher
from tests.tasks.conftest import publish, uri


def edit(path, text):
    path.write_text(path.read_text() + text)


@pytest.mark.parametrize(
    "change",
    [
        lambda root: edit(root / "params.yaml", "evaluate: {bins: 7}\n"),
        lambda root: edit(root / "dvc.yaml", "  more: {cmd: x}\n"),
        lambda root: edit(root / "models" / "methods" / "losses.py", "\n"),
        lambda root: (root / "data" / "raw" / "images.npz").write_bytes(b"other pixels"),
    ],
    ids=["settings", "pipeline", "code", "data"],
)
def test_whatever_a_run_starts_from_counts(project, change):
    before = source_key(project)
    change(project)
    assert source_key(project) != before


def test_what_a_run_makes_does_not_count(project):
    before = source_key(project)
    (project / "dvc.lock").unlink()
    (project / "artifacts").rename(project / "elsewhere")
    edit(project / "params.yaml", "# a remark\n")
    assert source_key(project) == before


def test_data_that_dvc_tracks_count_by_their_note(project):
    raw = project / "data" / "raw" / "images.npz"
    raw.with_name("images.npz.dvc").write_text("outs: [{md5: one, path: images.npz}]\n")
    before = source_key(project)
    raw.unlink()
    assert source_key(project) == before, "they need not be there"
    raw.with_name("images.npz.dvc").write_text("outs: [{md5: two, path: images.npz}]\n")
    assert source_key(project) != before


def test_a_run_repeats_one_that_was_judged_and_whose_version_is_there(project):
    client = connect(uri(project))
    publish(project, "run-0")
    made = register(project, "run-0", uri(project), pushed=True)
    assert repeated_run("one", project, client) is None
    with Publisher(project, "run-1", uri(project)) as publisher:
        publisher.judged(made.commit, "one", "tiny@1")
        assert repeated_run("one", project, client) is None, "it goes on"
    assert repeated_run("one", project, client).run_id == "run-1"
    assert repeated_run("two", project, client) is None
    client.delete_model_version("tiny", "1")
    assert repeated_run("one", project, client) is None
