import json
import re
from io import StringIO

import pytest
from rich.console import Console

from flows.commands.lineage import show
from tasks.errors import TaskError
from tasks.registry.lineage import ancestry
from tasks.registry.lineage_plot import draw
from tasks.registry.registration import register
from tasks.tracking.client import connect
from tasks.tracking.publisher import Publisher
from tests.servers import mlflow_server
from tests.tasks.conftest import git, publish, uri, write_artifacts


@pytest.fixture
def second(project):
    """Version 1, then version 2 by another label fraction, its first two stages from the cache."""
    publish(project, "run-1")
    register(project, "run-1", uri(project), pushed=True)
    params = project / "params.yaml"
    params.write_text(params.read_text().replace("0.05", "0.1"))
    write_artifacts(project, seed=1)
    with Publisher(project, "run-2", uri(project)) as publisher:
        for stage, status in [("prepare", "cached"), ("pretrain", "cached"), ("finetune", "ran")]:
            publisher.stage(stage, f"key-of-{stage}{'-2' * (status == 'ran')}", status)
        assert publisher.close(timeout=60), publisher.notice
    register(project, "run-2", uri(project), pushed=True)
    return project


def test_everything_that_made_a_version_is_told(second):
    found = ancestry("tiny@2", second, uri(second))
    assert found["code"]["commit"] == git(second, "rev-parse", "instar/tiny/v2^{commit}")
    assert found["code"]["tag"] == "instar/tiny/v2"
    assert found["settings"]["before"] == "1"
    assert found["settings"]["changed"] == {"finetune.label_fraction": ["0.05", "0.1"]}
    assert (found["data"]["source"], found["data"]["version"]) == ("npz", "d" * 64)
    assert (found["labels"]["labels"], found["labels"]["seed"]) == ("6", "0")
    assert found["machine"] == {"device": "cpu test", "torch": "1.2.3"}
    hashes = (found["code"]["dvc_lock"], found["settings"]["hash"], found["weights"])
    assert all(re.fullmatch(r"[0-9a-f]{64}", value) for value in hashes)
    assert found["accuracy"]["mean"] == pytest.approx(0.75)
    json.dumps(found)


def test_a_stage_from_the_cache_is_linked_to_the_run_that_computed_it(second):
    first, now = (ancestry(f"tiny@{n}", second, uri(second))["runs"] for n in (1, 2))
    for stage in ("prepare", "pretrain"):
        assert now[stage]["id"] == first[stage]["id"]
        assert (first[stage]["from_cache"], now[stage]["from_cache"]) == (False, True)
    assert now["finetune"]["id"] != first["finetune"]["id"]
    assert not now["finetune"]["from_cache"]
    assert now["flow"]["name"] == "run-2"


def test_the_page_of_a_version_shows_it_all_and_says_what_is_lost(second):
    found = ancestry("tiny@2", second, uri(second))
    text = StringIO()
    show(found, Console(file=text, width=200))
    said = text.getvalue()
    wanted = [found["code"]["commit"], found["weights"], found["runs"]["pretrain"]["id"]]
    wanted += ["instar/tiny/v2", "finetune.label_fraction: 0.05 → 0.1", "(from the cache)"]
    wanted += ["cpu test, torch 1.2.3", "not judged yet", "instar sync --all"]  # no evaluate run
    assert [what for what in wanted if what not in said] == []


def test_a_version_whose_runs_mlflow_has_lost_still_has_its_tags(second):
    client = connect(uri(second))
    client.delete_run(client.get_model_version("tiny", "1").run_id)
    # What is deleted is still known; one of another store is not.
    client.create_model_version("tiny", str(second), run_id=None, tags={"weights": "w" * 64})
    found = ancestry("tiny@3", second, uri(second))
    assert found["weights"] == "w" * 64
    assert found["runs"]["flow"] is None and found["code"]["tag"] is None
    assert found["machine"] == {"device": "not recorded", "torch": "not recorded"}
    show(found, Console(file=StringIO()))


@pytest.mark.slow
def test_addresses_are_linked_where_a_server_is_and_show_no_password(second):
    server = mlflow_server(second / "mlflow.db", second / "mlartifacts")
    server.start()
    try:
        found = ancestry("tiny@1", second, server.address.replace("//", "//ada:secret@"))
    finally:
        server.kill()
    run = found["runs"]["pretrain"]
    experiment = connect(uri(second)).get_run(run["id"]).info.experiment_id
    page = f"{server.address}/#/experiments/{experiment}/runs/{run['id']}"
    assert (run["url"], found["url"]) == (page, f"{server.address}/#/models/tiny/versions/1")


def test_the_picture_has_the_same_bytes_each_time_and_lies_on_the_run(second, tmp_path):
    found = ancestry("tiny@2", second, uri(second))
    for name in ("a.svg", "b.svg", "c.png", "d.PNG"):
        draw(found, tmp_path / name)
    svg = (tmp_path / "a.svg").read_text()
    assert svg == (tmp_path / "b.svg").read_text()
    assert "tiny version 2" in svg and found["weights"][:12] in svg and "(cached)" in svg
    for name in ("c.png", "d.PNG"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    run = connect(uri(second)).get_model_version("tiny", "2").run_id
    assert "lineage.svg" in [file.path for file in connect(uri(second)).list_artifacts(run)]


@pytest.mark.parametrize("name", ["picture.gif", "nowhere/picture.svg"])
def test_a_picture_that_cannot_be_is_refused(second, tmp_path, name):
    with pytest.raises(TaskError, match=r"\.png or \.svg|the folder .* does not exist"):
        draw(ancestry("tiny@2", second, uri(second)), tmp_path / name)
