"""A move is one operation: killed anywhere, it is whole after the next touch; of two, one wins."""

import itertools
import multiprocessing
import shutil
import signal

import pytest

from tasks.promotion.history import versions
from tasks.registry import other_checkouts, promotion_log_git
from tasks.registry.manual_moves import SOMEBODY
from tasks.registry.move import Move
from tasks.registry.promotion_log import PROMOTIONS, promotions
from tasks.registry.transitions import OvertakenError, carry_out, mend
from tasks.tracking.client import connect
from tests.tasks.conftest import uri
from tests.tasks.small_registry import make_registry, promote_and_die


@pytest.fixture(scope="module")
def made(tmp_path_factory, empty_database):
    return make_registry(tmp_path_factory.mktemp("registry") / "made", empty_database)


@pytest.fixture
def root(made, tmp_path):
    shutil.copytree(made, tmp_path / "checkout")
    return tmp_path / "checkout"


def state(root):
    """Aliases, stages and the moves that the log tells of."""
    client = connect(uri(root))
    aliases = client.get_registered_model("tiny").aliases
    stages = {str(v.version): v.current_stage for v in client.search_model_versions("name='tiny'")}
    logged = [(line["version"], line["from"], line["to"]) for line in promotions(root)]
    return {alias: str(held) for alias, held in aliases.items()}, stages, logged


FIRST = [("1", None, "champion"), ("2", None, "challenger")]
BEFORE = (
    {"champion": "1", "production": "1", "challenger": "2", "staging": "2"},
    {"1": "Production", "2": "Staging", "3": "None"},
    FIRST,
)
AFTER = (
    {"champion": "2", "production": "2"},
    {"1": "Archived", "2": "Production", "3": "None"},
    [*FIRST, ("1", "champion", "archived"), ("2", "challenger", "champion")],
)


@pytest.mark.slow
def test_a_move_that_is_killed_between_any_two_steps_is_whole_after_the_next_touch(made, tmp_path):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.tasks.small_registry"])
    for step in itertools.count():
        root = tmp_path / str(step)
        shutil.copytree(made, root)
        process = context.Process(target=promote_and_die, args=(root, step))
        process.start()
        process.join()
        begun = (root / ".instar/move.json").exists() or state(root)[0] != BEFORE[0]
        assert begun or step < 3, "the intent is written before anything moves"
        versions(root, "tiny", uri(root))
        assert state(root) == (AFTER if begun else BEFORE), step
        assert not (root / ".instar/move.json").exists()
        assert (root / PROMOTIONS).read_text() == promotion_log_git.text_of(root)
        names = [model.name for model in connect(uri(root)).search_registered_models()]
        assert names == ["tiny"], "no mark is left"
        if begun:
            tags = connect(uri(root)).get_model_version("tiny", "2").tags
            assert (tags["moved_to"], tags["moved_by"]) == ("Production", "Ada")
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
    assert step > 12, "the steps were really counted"


def test_a_decision_against_a_champion_that_has_gone_is_told_who_won(root):
    client = connect(uri(root))
    carry_out(client, Move("tiny", "3", "champion", "Bob", "mine"), root, over="1")
    with pytest.raises(OvertakenError, match=r"version 3 is now the champion \(by Bob at 20"):
        carry_out(client, Move("tiny", "2", "champion", "Ada", "late"), root, over="1")
    assert state(root)[0]["champion"] == "3"
    assert [line["who"] for line in promotions(root)].count("Bob") == 2


def test_a_move_waits_for_that_of_another_checkout_and_outlasts_a_dead_one(root, monkeypatch):
    client = connect(uri(root))
    client.create_registered_model("tiny.moving", tags={"checkout": "another", "by": "Bob"})
    monkeypatch.setattr(other_checkouts, "PATIENCE_SECONDS", 1.0)
    carry_out(client, Move("tiny", "2", "champion", "Ada", "better"), root)
    assert state(root) == AFTER


def test_what_another_checkout_decided_since_stands(root):
    context = multiprocessing.get_context("forkserver")
    process = context.Process(target=promote_and_die, args=(root, 3))
    process.start()
    process.join()
    assert (root / ".instar/move.json").exists()
    client = connect(uri(root))
    client.set_registered_model_alias("tiny", "champion", "3")
    mend(client, "tiny", root)
    assert state(root)[0]["champion"] == "3"
    assert not (root / ".instar/move.json").exists()


def carry_out_with(monkeypatch, root, write, broken, error, move):
    """Carry out a move in which one write to MLflow breaks off; then mend it."""
    client = connect(uri(root))
    with monkeypatch.context() as patch:
        patch.setattr(client, write, broken)
        with pytest.raises(error):
            carry_out(client, move, root)
    mend(client, "tiny", root)


def failing(error, after=None):
    """A write that fails, before it arrived or after."""

    def write(*arguments):
        if after is not None:
            after(*arguments)
        raise error

    return write


UP = Move("tiny", "2", "champion", "Ada", "better")


def test_a_refused_first_write_leaves_nothing_to_complete(root, monkeypatch):
    refuse = failing(PermissionError("no rights"))
    write = "set_registered_model_alias"
    carry_out_with(monkeypatch, root, write, refuse, PermissionError, UP)
    assert state(root) == BEFORE


def test_a_first_write_whose_answer_was_lost_is_logged_as_what_it_was(root, monkeypatch):
    write = "set_registered_model_alias"
    arrive = getattr(connect(uri(root)), write)
    carry_out_with(monkeypatch, root, write, failing(TimeoutError, arrive), TimeoutError, UP)
    assert state(root) == AFTER
    assert promotions(root)[-1]["who"] == "Ada"


def test_a_champion_on_its_way_down_arrives(root, monkeypatch):
    down = Move("tiny", "1", "challenger", "Ada", "down")
    die = failing(KeyboardInterrupt)
    write = "delete_registered_model_alias"
    carry_out_with(monkeypatch, root, write, die, KeyboardInterrupt, down)
    aliases, stages, logged = state(root)
    assert aliases == {"challenger": "1", "staging": "1"}
    assert stages == {"1": "Staging", "2": "Archived", "3": "None"}
    assert logged[2:] == [("2", "challenger", "archived"), ("1", "champion", "challenger")]


def test_a_move_made_in_mlflows_own_ui_is_logged_and_settled_when_seen(root):
    connect(uri(root)).set_registered_model_alias("tiny", "champion", "3")
    versions(root, "tiny", uri(root))
    aliases, stages, logged = state(root)
    assert (aliases["production"], stages["3"], stages["1"]) == ("3", "Production", "Archived")
    assert logged[2:] == [("1", "champion", "archived"), ("3", None, "champion")]
    assert promotions(root)[-1]["who"] == SOMEBODY


def test_a_lost_champion_is_left_as_it_is(root):
    client = connect(uri(root))
    client.delete_registered_model_alias("tiny", "champion")
    before = state(root)
    mend(client, "tiny", root)
    assert state(root) == before
