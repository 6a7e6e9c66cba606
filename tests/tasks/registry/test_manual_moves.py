"""What is moved in MLflow itself is nobody's in particular, and is not undone in silence."""

import re
import shutil
import warnings

import pytest

from tasks.promotion.decisions import promote, rollback
from tasks.promotion.history import history, versions
from tasks.registry import transitions
from tasks.registry.manual_moves import SOMEBODY
from tasks.registry.move import Move
from tasks.registry.promotion_log import promotions
from tasks.tracking.client import connect
from tests.tasks.conftest import uri
from tests.tasks.small_registry import make_registry


@pytest.fixture(scope="module")
def made(tmp_path_factory, empty_database):
    """Version 1 is champion, 2 challenger, both by Ada; 3 stands nowhere."""
    return make_registry(tmp_path_factory.mktemp("registry") / "made", empty_database)


@pytest.fixture
def root(made, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri(tmp_path / "checkout"))
    shutil.copytree(made, tmp_path / "checkout")
    return tmp_path / "checkout"


class Hand:
    """Somebody at MLflow's UI."""

    def __init__(self, root):
        self.client = connect(uri(root))

    def alias(self, name, version):
        self.client.set_registered_model_alias("tiny", name, version)

    def no_alias(self, name):
        self.client.delete_registered_model_alias("tiny", name)

    def stage(self, version, stage, **more):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            self.client.transition_model_version_stage("tiny", version, stage, **more)

    def delete(self, version):
        self.client.delete_model_version("tiny", version)


def look(root, capsys):
    """Stage and mover of each version, and what was said."""
    found = versions(root, "tiny")["versions"]
    printed = capsys.readouterr()
    assert printed.out == ""
    said = [line for line in printed.err.splitlines() if line.startswith("note: ")]
    return {v["version"]: (v["stage"], v["moved_by"]) for v in found}, said


@pytest.mark.parametrize(
    ("moves", "expected", "told"),
    [
        ([("champion", "3")], {"3": "Production", "1": "Archived"}, "champion of tiny was .* 3 by"),
        ([("champion", "2")], {"2": "Production", "1": "Archived"}, "champion of tiny was .* 2 by"),
        ([("challenger", "3")], {"3": "Staging", "2": "Archived"}, "challenger of tiny .* 3 by"),
        ([("champion", "3"), ("champion", "1")], {"1": "Production", "3": "Archived"}, "version 1"),
        ([("challenger", "3"), ("challenger", "2")], {"2": "Staging", "3": "Archived"}, "ion 2"),
        ([("challenger", None)], {"2": "Archived"}, "challenger of tiny was removed by hand"),
        ([("challenger", None), ("challenger", "2")], {"2": "Staging"}, "moved to version 2"),
    ],
    ids=["to none's", "to challenger", "challenger", "and back", "challenger and back",
         "removed", "removed and back"],
)  # fmt: skip
def test_an_alias_moved_by_hand_counts_but_is_not_the_former_mover_s(
    root, capsys, moves, expected, told
):
    for alias, version in moves:
        hand = Hand(root)
        hand.alias(alias, version) if version else hand.no_alias(alias)
        found, said = look(root, capsys)
    assert {v: found[v] for v in expected} == {v: (at, SOMEBODY) for v, at in expected.items()}
    assert len(said) == 1 and re.search(told, said[0]) and "`instar promote tiny@" in said[0]
    assert {line["who"] for line in promotions(root)[2:]} == {SOMEBODY}
    assert look(root, capsys) == (found, []), "said once"


def test_an_alias_moved_by_hand_is_taken_back_or_signed_as_the_note_says(root, capsys):
    Hand(root).alias("champion", "3")
    look(root, capsys)
    assert rollback(root, "tiny").version == "1"
    Hand(root).alias("champion", "3")
    look(root, capsys)
    assert promote(root, "tiny@3", "Production").outcome == "unchanged"
    done = promote(root, "tiny@3", "Production", "it is good", override=True)
    assert (done.outcome, done.stage) == ("moved", "Production")
    assert promotions(root)[-1]["who"] == transitions.person(root)
    assert look(root, capsys)[0]["3"] == ("Production", transitions.person(root))
    assert promote(root, "tiny@3", "Production", "again", override=True).outcome == "unchanged"
    Hand(root).alias("challenger", "1")
    assert promote(root, "tiny@1", "Staging").outcome == "moved"
    assert look(root, capsys)[0]["1"] == ("Staging", transitions.person(root))


@pytest.mark.parametrize(
    ("act", "told"),
    [
        (lambda hand: hand.stage("3", "Production"), ["3 .*from Production to Archived"]),
        (lambda hand: hand.stage("3", "Staging"), ["3 .*from Staging to Archived"]),
        (lambda hand: hand.stage("2", "Production"), ["2 .*from Production to Staging"]),
        (lambda hand: hand.stage("1", "Archived"), ["1 .*from Archived to Production"]),
        (lambda hand: hand.stage("1", "Staging"), ["1 .*from Staging to Production"]),
        (lambda hand: hand.stage("1", "None"), ["1 .*None to Production.*@1 --to Archived"]),
        (
            lambda hand: hand.stage("3", "Production", archive_existing_versions=True),
            ["3 .*from Production to Archived", "1 .*from Archived to Production"],
        ),
        (lambda hand: hand.alias("production", "3"), ["@production .*on version 3"]),
        (lambda hand: hand.no_alias("production"), ["@production .*was removed"]),
        (lambda hand: hand.alias("staging", "1"), ["@staging .*on version 1"]),
    ],
    ids=["up", "to Staging", "up from Staging", "down", "down one", "none", "two in Production",
         "second alias", "no second alias", "second alias down"],
)  # fmt: skip
def test_what_follows_the_aliases_is_set_back_with_a_word(root, capsys, act, told):
    before, _ = look(root, capsys)
    act(Hand(root))
    found, said = look(root, capsys)
    stays = {version: at for version, at in before.items() if version != "3"}
    assert {version: found[version] for version in stays} == stays
    assert len(said) == len(told)
    for pattern in told:
        assert any(re.search(pattern, one) for one in said)
    assert all("by hand in MLflow" in one and "`instar promote tiny@" in one for one in said)
    assert len(promotions(root)) == 2, "nobody moved"
    assert look(root, capsys) == (found, [])


@pytest.mark.parametrize(
    ("act", "told"),
    [
        (lambda hand: hand.no_alias("champion"), "@champion of tiny was removed by hand"),
        (lambda hand: hand.delete("1"), "version 1 of tiny, Production by .* is gone from MLflow"),
        (lambda hand: hand.delete("2"), "version 2 of tiny, Staging by .* is gone from MLflow"),
    ],
    ids=["champion's alias", "champion", "challenger"],
)
def test_what_is_gone_is_told_until_it_is_dealt_with(root, capsys, act, told):
    act(Hand(root))
    for _ in range(2):
        _, said = look(root, capsys)
        assert len(said) == 1 and re.search(told, said[0]) and "`instar " in said[0]
    assert len(promotions(root)) == 2


@pytest.mark.parametrize("act", [lambda hand: hand.delete("3"), lambda h: h.alias("best", "3")])
def test_what_is_none_of_ours_is_left_alone(root, capsys, act):
    act(Hand(root))
    assert look(root, capsys)[1] == []


def test_history_says_what_the_log_does_not_know_and_notes_nothing(root, capsys):
    Hand(root).alias("champion", "3")
    assert len(history(root, "tiny")["moves"]) == 2
    assert "@champion of tiny was moved to version 3 by hand" in capsys.readouterr().err
    look(root, capsys)
    assert history(root, "tiny")["moves"][-1]["who"] == SOMEBODY
    assert capsys.readouterr().err == ""


def test_history_needs_no_mlflow(root, capsys):
    (root / "mlflow.db").unlink()
    assert len(history(root, "tiny")["moves"]) == 2
    assert not (root / "mlflow.db").exists()
    assert capsys.readouterr().err == ""


def test_a_move_from_another_checkout_keeps_its_mover(root, tmp_path, capsys):
    other = tmp_path / "other"
    shutil.copytree(root, other)
    shutil.rmtree(other / ".instar")
    transitions.move(Move("tiny", "3", "champion", "Grace", "mine"), other, uri(root))
    found, said = look(root, capsys)
    assert found["3"] == ("Production", "Grace")
    assert (said, promotions(root)[-1]["who"]) == ([], "Grace")
