"""What may be left out of `NAME@VERSION` in a checkout, for every command that takes one."""

import sys

import pytest

from flows.cli import main
from tasks.errors import TaskError
from tasks.registry.model_references import model_named, version_named
from tests.tasks.conftest import DVC_YAML, PARAMS, git, uri
from tests.tasks.small_registry import make_registry


@pytest.fixture
def checkout(tmp_path, empty_database, monkeypatch):
    """A checkout whose model is `tiny`: version 1 in Production, 2 in Staging."""
    root = make_registry(tmp_path / "checkout", empty_database)
    (root / "params.yaml").write_text(PARAMS)
    (root / "dvc.yaml").write_text(DVC_YAML)
    (root / ".dvc").mkdir()
    git(root, "commit", "-q", "-a", "-m", "tiny")
    monkeypatch.chdir(root)
    return root


def typed(monkeypatch, capfd, *arguments):
    monkeypatch.setattr(sys, "argv", ["instar", *arguments])
    with pytest.raises(SystemExit) as end:
        main.main()
    said = capfd.readouterr()
    return end.value.code or 0, said.out, said.err


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (None, "tiny@production"),
        ("", "tiny@production"),
        ("tiny", "tiny@production"),
        ("large", "large@production"),
        ("3", "tiny@3"),
        ("@3", "tiny@3"),
        ("@production", "tiny@production"),
        ("@Champion", "tiny@Champion"),
        ("large@3", "large@3"),
        ("3@1", "3@1"),
        ("tiny@", "tiny@"),
    ],
)
def test_what_is_left_out_is_the_checkouts_own_model_in_production(tmp_path, written, meant):
    (tmp_path / "params.yaml").write_text(PARAMS)
    assert version_named(written, tmp_path) == meant


def test_the_name_alone_is_the_given_one_or_the_checkouts(tmp_path):
    (tmp_path / "params.yaml").write_text(PARAMS)
    assert model_named(None, tmp_path) == "tiny"
    assert model_named("large", tmp_path) == "large"
    (tmp_path / "params.yaml").write_text(PARAMS.replace("register: {name: tiny}\n", ""))
    assert model_named(None, tmp_path) == "instar"


@pytest.mark.parametrize("word", ["production", "staging", "champion", "Challenger"])
def test_a_place_is_not_taken_for_a_model(tmp_path, word):
    (tmp_path / "params.yaml").write_text(PARAMS)
    with pytest.raises(TaskError, match=f"is a place, not a model: write @{word}"):
        version_named(word, tmp_path)


@pytest.mark.parametrize("written", [None, "", "tiny"])
def test_a_move_wants_its_version_said(tmp_path, written):
    (tmp_path / "params.yaml").write_text(PARAMS)
    with pytest.raises(TaskError, match="names no version: write (tiny|NAME)@3, or 3 alone"):
        version_named(written, tmp_path, default=None)


@pytest.mark.parametrize("written", [None, "3", "@production"])
def test_outside_a_checkout_the_models_that_there_are_are_named(
    tmp_path, checkout, monkeypatch, written
):
    with pytest.raises(TaskError, match="no model is named.*: name one, or go to your checkout"):
        version_named(written, tmp_path)
    assert not (tmp_path / "mlflow.db").exists()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri(checkout))
    with pytest.raises(TaskError, match=r"name one \(MLflow has tiny\), or go to your checkout"):
        version_named(written, tmp_path)
    assert version_named("tiny@3", tmp_path) == "tiny@3"


@pytest.mark.parametrize("name", [[], ["tiny"]])
@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (["models"], "tiny\n"),
        (["history"], "version 1: – → Production"),
        (["history", "--at", "2000-01-01"], "tiny, 2000-01-01"),
        (["rollback"], "no version of tiny was in Production before version 1"),
    ],
)
def test_commands_on_a_model_need_no_name(checkout, monkeypatch, capfd, command, expected, name):
    _, out, err = typed(monkeypatch, capfd, *command[:1], *name, *command[1:])
    assert expected in out + err


@pytest.mark.parametrize("written", ["1", "@1", "@production", "tiny@1", None])
@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (["promote", "--to", "Production"], "tiny version 1 is in Production already"),
        (["lineage"], "tiny version 1"),
        (["predict", "-i", ".", "-o", "out.parquet"], "No such artifact: 'nowhere'"),
        (["export", "--to", "weights"], "No such artifact: 'nowhere'"),
        (["reproduce"], "tiny version 1"),
    ],
)
def test_commands_on_a_version_need_no_name(
    checkout, monkeypatch, capfd, command, expected, written
):
    given = [] if written is None else [written]
    status, out, err = typed(monkeypatch, capfd, *command[:1], *given, *command[1:])
    if command[0] == "promote" and written is None:
        assert status == 2
        assert "Missing argument '[NAME@]VERSION'" in err
    else:
        assert expected in out + err


def test_a_broken_params_yaml_is_told_by_a_command_that_needs_its_name(
    checkout, monkeypatch, capfd
):
    (checkout / "params.yaml").write_text(f"<<<<<<< HEAD\n{PARAMS}")
    status, _, err = typed(monkeypatch, capfd, "history")
    assert status == 1
    assert err.startswith("error: params.yaml has conflict marks of a merge, the first in line 1")
    assert typed(monkeypatch, capfd, "history", "tiny")[0] == 0
