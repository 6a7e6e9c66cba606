import json
import shutil
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from tasks.errors import TaskError
from tasks.registry import registration
from tasks.registry.aliases import settle, standing
from tasks.registry.move import Move
from tasks.registry.promotion_log import promotions
from tasks.registry.registration import register
from tasks.registry.transitions import move, person
from tasks.tracking.client import connect, explained
from tests.tasks.conftest import git, publish, uri, write_artifacts, write_json


def registered(root, run_id="run-1", **how):
    publish(root, run_id)
    return register(root, run_id, uri(root), pushed=True, **how)


def stage(root, version):
    return connect(uri(root)).get_model_version("tiny", version).current_stage


def test_a_registered_version_is_challenger_with_its_whole_lineage(project):
    (project / "params.yaml").write_text((project / "params.yaml").read_text() + "# edited\n")
    made = registered(project)
    assert (made.name, made.version, made.created) == ("tiny", "1", True)
    client = connect(uri(project))
    version = client.get_model_version_by_alias("tiny", "challenger")
    assert (version.version, version.current_stage) == (1, "Staging") or (
        version.version, version.current_stage) == ("1", "Staging")  # fmt: skip
    assert client.get_model_version_by_alias("tiny", "staging").version == version.version
    assert version.run_id == made.run
    wanted = {
        "git_commit", "dvc_lock", "params", "data_version", "weights", "torch", "device", "method",
        "label_fraction", "test_digest", "accuracy_mean", "accuracy_low", "gain_low", "run_id",
    }  # fmt: skip
    assert wanted <= set(version.tags)
    assert git(project, "rev-parse", "instar/tiny/v1") == made.commit == version.tags["git_commit"]
    assert git(project, "show", f"{made.commit}:params.yaml").endswith("# edited")
    (line,) = promotions(project)
    assert (line["to"], line["from"], line["who"]) == ("challenger", None, "Ada <ada@example.org>")
    files = {file.path for file in client.list_artifacts(made.run, "evaluation")}
    assert files == {"evaluation/metrics.json", "evaluation/predictions.parquet"}


def test_the_same_weights_make_no_second_version(project):
    first = registered(project)
    again = registered(project, "run-2")
    assert (again.version, again.created, again.commit) == (first.version, False, first.commit)
    assert len(connect(uri(project)).search_model_versions("name = 'tiny'")) == 1
    write_artifacts(project, seed=1)
    other = registered(project, "run-3")
    assert (other.version, other.created) == ("2", True)
    assert (stage(project, "1"), stage(project, "2")) == ("Archived", "Staging")
    back = write_artifacts(project, seed=0) or registered(project, "run-4")
    assert back.version == "1"
    assert (stage(project, "1"), stage(project, "2")) == ("Staging", "Archived")


def test_the_same_weights_registered_at_the_same_time_make_one_version(project, monkeypatch):
    for run_id in ("run-1", "run-2"):
        publish(project, run_id)
    find = registration.find_same

    def find_slowly(*arguments):
        found = find(*arguments)
        time.sleep(1.0)
        return found

    monkeypatch.setattr(registration, "find_same", find_slowly)
    with ThreadPoolExecutor() as pool:
        both = [
            pool.submit(register, project, run_id, uri(project), pushed=True)
            for run_id in ("run-1", "run-2")
        ]
    assert sorted(one.result().created for one in both) == [False, True]
    assert len(connect(uri(project)).search_model_versions("name = 'tiny'")) == 1


def test_a_run_that_changed_nothing_leaves_no_branch(project):
    first = registered(project)
    registered(project, "run-2")
    assert git(project, "branch", "--list", "runs/*").split() == ["runs/run-1"]
    (project / "params.yaml").write_text((project / "params.yaml").read_text() + "# edited\n")
    assert registered(project, "run-3").commit == first.commit
    assert "edited" in git(project, "show", "runs/run-3:params.yaml")


def test_untracked_code_is_refused_with_the_list(project):
    publish(project, "run-1")
    (project / "models" / "mine.py").write_text("x = 1\n")
    with pytest.raises(TaskError, match=r"models/mine\.py"):
        register(project, "run-1", uri(project), pushed=True)
    assert connect(uri(project)).search_registered_models() == []


def test_an_unconfirmed_push_is_refused(project):
    publish(project, "run-1")
    with pytest.raises(TaskError, match="dvc push"):
        register(project, "run-1", uri(project), pushed=False)
    assert connect(uri(project)).search_registered_models() == []


def test_a_run_that_mlflow_does_not_know_is_explained(project):
    with pytest.raises(TaskError, match="instar sync"):
        register(project, "run-1", uri(project), pushed=True)


def test_missing_evaluation_is_explained(project):
    publish(project, "run-1")
    (project / "artifacts/evaluate/metrics.json").unlink()
    with pytest.raises(TaskError, match="dvc repro evaluate"):
        register(project, "run-1", uri(project), pushed=True)


def test_alias_and_stage_move_together_and_the_log_tells_all(project):
    registered(project)
    write_artifacts(project, seed=1)
    client = connect(uri(project))
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        move(Move("tiny", "1", "champion", "Ada", "first"), project, uri(project))
        registered(project, "run-2")
        move(Move("tiny", "2", "champion", "Ada", "better", {"gain": 0.1}), project, uri(project))
    assert standing(client, "tiny") == {"champion": "2"}
    assert str(client.get_model_version_by_alias("tiny", "production").version) == "2"
    assert (stage(project, "1"), stage(project, "2")) == ("Archived", "Production")
    moves = [(line["version"], line["from"], line["to"]) for line in promotions(project)]
    assert moves == [
        ("1", None, "challenger"), ("1", "challenger", "champion"), ("2", None, "challenger"),
        ("1", "champion", "archived"), ("2", "challenger", "champion"),
    ]  # fmt: skip
    assert promotions(project)[-1]["evidence"] == {"gain": 0.1}
    move(Move("tiny", "1", "champion", "Ada", "rollback"), project, uri(project))
    assert standing(client, "tiny") == {"champion": "1"}
    assert (stage(project, "1"), stage(project, "2")) == ("Production", "Archived")


class Outage:
    """MLflow goes away before the n-th write of a move."""

    WRITES = (
        "set_registered_model_alias",
        "delete_registered_model_alias",
        "transition_model_version_stage",
    )

    def __init__(self, monkeypatch, before):
        self.left = before
        for method in self.WRITES:
            monkeypatch.setattr(
                MlflowClient, method, self.unless_away(getattr(MlflowClient, method))
            )

    def unless_away(self, write):
        def attempt(*arguments, **named):
            self.left -= 1
            if self.left < 0:
                raise MlflowException("away")
            return write(*arguments, **named)

        return attempt


# Aliases champion, production, stage of both, and the challenger's two aliases given up.
@pytest.mark.parametrize("before", range(6))
def test_an_outage_amid_a_promotion_leaves_a_champion_and_is_mended(project, monkeypatch, before):
    registered(project)
    move(Move("tiny", "1", "champion", "Ada", "first"), project, uri(project))
    write_artifacts(project, seed=1)
    registered(project, "run-2")
    client = connect(uri(project))
    with monkeypatch.context() as patch:
        Outage(patch, before)
        with pytest.raises(TaskError, match="away"):
            move(Move("tiny", "2", "champion", "Ada", "better"), project, uri(project))
    moved = before > 0
    assert standing(client, "tiny")["champion"] == ("2" if moved else "1")
    assert (promotions(project)[-1]["to"] == "champion") == moved
    settle(client, "tiny")
    if not moved:
        assert (stage(project, "1"), stage(project, "2")) == ("Production", "Staging")
        return
    assert (stage(project, "1"), stage(project, "2")) == ("Archived", "Production")
    aliases = client.get_registered_model("tiny").aliases
    assert {alias: str(held) for alias, held in aliases.items()} == {
        "champion": "2",
        "production": "2",
    }


def test_a_commit_of_an_earlier_version_keeps_its_tag_when_the_numbers_begin_anew(
    project, empty_database
):
    former = registered(project)
    shutil.copyfile(empty_database, project / "mlflow.db")
    (project / "params.yaml").write_text((project / "params.yaml").read_text() + "# edited\n")
    made = registered(project, "run-2")
    assert made.version == former.version
    assert git(project, "rev-parse", "instar/tiny/v1") == former.commit != made.commit
    assert git(project, "rev-parse", f"instar/tiny/v1-{made.commit[:12]}") == made.commit


def test_a_version_that_was_left_without_its_tag_gets_it_when_made_again(project):
    registered(project)
    git(project, "tag", "--delete", "instar/tiny/v1")
    again = registered(project, "run-2")
    assert git(project, "rev-parse", "instar/tiny/v1") == again.commit


def test_mlflow_trouble_is_one_sentence(project):
    with pytest.raises(TaskError, match="Check that it runs"):
        move(Move("tiny", "7", "champion", "Ada", ""), project, uri(project))
    with (
        pytest.raises(TaskError, match=r"127\.0\.0\.1:9"),
        explained("http://127.0.0.1:9") as client,
    ):
        client.search_experiments()


def test_who_acts_is_gits_user_or_the_login(project, monkeypatch, tmp_path):
    assert person(project) == "Ada <ada@example.org>"
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "none"))
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", str(tmp_path / "none"))
    monkeypatch.setenv("LOGNAME", "grace")
    git(project, "config", "--unset", "user.name")
    git(project, "config", "--unset", "user.email")
    assert person(project) == "grace"


def test_one_label_draw_has_no_interval_and_registers_all_the_same(project):
    path = project / "artifacts/evaluate/metrics.json"
    metrics = json.loads(path.read_text())
    metrics["gain"] |= {"low": None, "high": None}
    write_json(path, metrics)
    made = registered(project)
    tags = connect(uri(project)).get_model_version("tiny", made.version).tags
    assert "gain_mean" in tags
    assert "gain_low" not in tags
