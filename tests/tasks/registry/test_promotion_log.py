"""The promotion log cannot be changed unseen, and comes back from git when it is lost."""

import json

import pytest

from tasks.errors import TaskError
from tasks.registry.promotion_log import PROMOTIONS, append, promotions, stood
from tests.tasks.conftest import git


def line(version, to="champion", start=None, why="because", **evidence):
    return {
        "time": f"2026-01-0{version}T00:00:00Z", "name": "tiny", "version": str(version),
        "from": start, "to": to, "who": "Ada", "why": why, "evidence": evidence,
    }  # fmt: skip


@pytest.fixture
def root(tmp_path):
    place = tmp_path / "project"
    git(tmp_path, "init", "-q", "-b", "main", str(place))
    git(place, "config", "user.name", "Ada")
    git(place, "config", "user.email", "ada@example.org")
    (place / ".gitignore").write_text(".instar\n")
    git(place, "add", "-A")
    git(place, "commit", "-q", "-m", "start")
    return place


def without_copy(root):
    for ref in git(
        root, "for-each-ref", "--format=%(refname)", "refs/tags/instar", "refs/instar"
    ).split():
        git(root, "update-ref", "-d", ref)


def test_every_line_follows_from_those_before_it(root):
    append(root, [line(1), line(2)])
    append(root, [line(3)])
    found = promotions(root)
    assert [one["version"] for one in found] == ["1", "2", "3"]
    assert len({one["before"] for one in found}) == 3


@pytest.mark.parametrize("number", [1, 2])
def test_a_changed_line_is_named_even_without_gits_copy(root, number):
    append(root, [line(1), line(2), line(3)])
    without_copy(root)
    lines = (root / PROMOTIONS).read_text().splitlines()
    lines[number - 1] = lines[number - 1].replace("because", "Bob said so")
    (root / PROMOTIONS).write_text("\n".join(lines) + "\n")
    with pytest.raises(TaskError, match=f"^line {number} of"):
        promotions(root)
    with pytest.raises(TaskError, match=f"^line {number} of"):
        append(root, [line(4)])


def test_a_line_without_its_hash_is_named(root):
    append(root, [line(1), line(2)])
    without_copy(root)
    with open(root / PROMOTIONS, "a") as file:
        file.write(json.dumps(line(3)) + "\n")
    with pytest.raises(TaskError, match="line 3 .* lacks the hash"):
        promotions(root)


def test_the_last_line_and_a_log_written_anew_are_held_against_gits_copy(root):
    append(root, [line(1), line(2)])
    kept = (root / PROMOTIONS).read_text()
    (root / PROMOTIONS).write_text(kept.replace('"version": "2"', '"version": "9"'))
    with pytest.raises(TaskError, match="^line 2 of .*git's copy has another"):
        promotions(root)
    (root / PROMOTIONS).write_text(json.dumps(line(7)) + "\n")
    with pytest.raises(TaskError, match="^line 1 of .*git's copy has another"):
        promotions(root)


def test_a_lost_log_comes_back_from_git_and_goes_on(root):
    append(root, [line(1)])
    append(root, [line(2)])
    before = promotions(root)
    (root / PROMOTIONS).unlink()
    assert promotions(root) == before
    append(root, [line(3)])
    assert (root / PROMOTIONS).read_text().count("\n") == 3
    assert promotions(root)[:2] == before


def test_a_pushed_copy_restores_the_log_of_another_clone_and_needs_no_force(root, tmp_path):
    git(root, "init", "-q", "--bare", str(tmp_path / "remote"))
    git(root, "remote", "add", "origin", str(tmp_path / "remote"))
    git(root, "push", "-q", "origin", "main")
    for version in (1, 2):
        append(root, [line(version)])
        git(root, "push", "-q", "--tags", "origin")
    git(tmp_path, "clone", "-q", "-b", "main", str(tmp_path / "remote"), str(tmp_path / "clone"))
    assert promotions(tmp_path / "clone") == promotions(root)


def test_two_checkouts_that_promote_neither_collide_at_the_push_nor_mix_their_logs(root, tmp_path):
    clone = tmp_path / "clone"
    git(root, "init", "-q", "--bare", str(tmp_path / "remote"))
    git(root, "remote", "add", "origin", str(tmp_path / "remote"))
    append(root, [line(1)])
    git(root, "push", "-q", "--tags", "origin", "main")
    git(tmp_path, "clone", "-q", "-b", "main", str(tmp_path / "remote"), str(clone))
    git(clone, "config", "user.name", "Grace")
    git(clone, "config", "user.email", "grace@example.org")
    append(clone, [line(2)])
    append(root, [line(3)])
    append(clone, [line(4)])
    for place in (root, clone, root):
        git(place, "push", "-q", "--tags", "origin")
        git(place, "fetch", "-q", "--tags", "origin")
    assert [one["version"] for one in promotions(root)] == ["1", "3"]
    assert [one["version"] for one in promotions(clone)] == ["1", "2", "4"]
    append(root, [line(5)])
    (root / PROMOTIONS).unlink()
    assert [one["version"] for one in promotions(root)] == ["1", "3", "5"]


def test_branch_index_and_files_are_untouched(root):
    (root / "params.yaml").write_text("edited: true\n")
    git(root, "add", "params.yaml")
    before = git(root, "status", "--porcelain"), git(root, "log", "--all", "--branches")
    head = git(root, "rev-parse", "HEAD")
    append(root, [line(1)])
    assert (git(root, "status", "--porcelain"), git(root, "rev-parse", "HEAD")) == (before[0], head)
    assert len(git(root, "tag", "--list", "instar/promotions.jsonl/*").split()) == 1


def test_a_log_of_before_there_were_hashes_is_taken_over_and_guarded_from_then_on(root):
    path = root / PROMOTIONS
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line(version)) + "\n" for version in (1, 2)))
    assert len(promotions(root)) == 2
    append(root, [line(3)])
    assert [one["version"] for one in promotions(root)] == ["1", "2", "3"]
    without_copy(root)
    path.write_text(path.read_text().replace("because", "Bob said so", 1))
    with pytest.raises(TaskError, match="line 2 .*or one before was changed"):
        promotions(root)


def test_a_line_that_was_written_in_part_is_dropped(root):
    append(root, [line(1)])
    with open(root / PROMOTIONS, "a") as file:
        file.write('{"before": "12')
    assert len(promotions(root)) == 1
    append(root, [line(2)])
    assert [one["version"] for one in promotions(root)] == ["1", "2"]


def test_a_worktree_writes_the_checkouts_log(root, tmp_path):
    append(root, [line(1)])
    place = tmp_path / "place"
    git(root, "worktree", "add", "-q", "--detach", str(place))
    (place / ".instar").mkdir(exist_ok=True)
    (place / PROMOTIONS).symlink_to(root / PROMOTIONS)
    append(place, [line(2)])
    assert [one["version"] for one in promotions(root)] == ["1", "2"]
    (root / PROMOTIONS).unlink()
    append(place, [line(3)])
    assert (place / PROMOTIONS).is_symlink()
    assert [one["version"] for one in promotions(root)] == ["1", "2", "3"]


def test_a_place_has_one_holder_and_a_version_one_place():
    moves = [line(1, "challenger"), line(1), line(2, "challenger"), line(1, "archived"), line(2)]
    assert stood(moves[:3], "tiny") == {"champion": "1", "challenger": "2"}
    assert stood(moves, "tiny") == {"champion": "2"}
    assert stood(moves, "other") == {}
