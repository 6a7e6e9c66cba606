"""Files of a project that a merge or a crash has left broken: file, line and remedy, once."""

import json
import os
import subprocess

import pytest

from tasks.errors import TaskError
from tasks.operations.health_checks import check_all
from tasks.settings.project_files import read_lock, read_yaml, require_merged, require_readable
from tasks.versioning.dvc_remote import require_dvc
from tasks.versioning.past_runs import raw_data_of
from tasks.versioning.stage_key import made_by_stages
from tests.tasks.conftest import DVC_LOCK, DVC_YAML, PARAMS, git

RAW = "outs:\n- md5: {}.dir\n  path: raw\n"
FILES = {
    "params.yaml": PARAMS,
    "dvc.yaml": DVC_YAML,
    "dvc.lock": DVC_LOCK,
    "data/raw.dvc": RAW.format("0" * 32),
    ".dvc/config": "[core]\n    analytics = false\n",
    "requirements.lock": "numpy==1.0\n",
    "prefect.yaml": "name: instar\n",
}
# Of each file a line that two people have changed, and what is told to do.
SIDES = {
    "params.yaml": ("epochs: 2", ("epochs: 3", "epochs: 4"), "Keep one side of each"),
    "dvc.yaml": ("outs: [artifacts/prepare/store]", ("outs: [a]", "outs: [b]"), "Keep one side"),
    "dvc.lock": ("0123456789abcdef", ("aaaaaaaaaaaaaaaa", "bbbbbbbbbbbbbbbb"), "`instar run` then"),
    "data/raw.dvc": ("0" * 32, ("1" * 32, "2" * 32), "`dvc checkout data/raw.dvc` then"),
    ".dvc/config": ("analytics = false", ("jobs = 1", "jobs = 2"), "Keep one side of each"),
    "requirements.lock": ("1.0", ("1.1", "1.2"), "`bash .ci/setup` then"),
    "prefect.yaml": ("instar", ("one", "two"), "Keep one side of each"),
}


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    git(tmp_path, "init", "-q", "-b", "main")
    git(tmp_path, "config", "user.name", "Ada")
    git(tmp_path, "config", "user.email", "ada@example.org")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-q", "-m", "start")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def merge(root, name, style="merge"):
    """A merge that git cannot finish, of two branches that both changed a line of the file."""
    before, sides, _ = SIDES[name]
    for branch, text in zip(("theirs", "ours"), sides, strict=True):
        git(root, "checkout", "-q", "-b", branch, "main")
        (root / name).write_text(FILES[name].replace(before, text))
        git(root, "commit", "-q", "-a", "-m", branch)
    command = ["git", "-c", f"merge.conflictStyle={style}", "merge", "-q", "theirs"]
    done = subprocess.run(command, cwd=root, capture_output=True)
    assert done.returncode == 1 and b"<<<<<<< HEAD" in (root / name).read_bytes()


def said_of(root):
    with pytest.raises(TaskError) as problem:
        require_dvc(root)
    return str(problem.value)


@pytest.mark.parametrize("name", SIDES)
@pytest.mark.parametrize("style", ["merge", "diff3"])
def test_a_conflict_is_named_by_file_line_and_remedy(checkout, name, style):
    require_dvc(checkout)
    merge(checkout, name, style)
    lines = (checkout / name).read_text().splitlines()
    said = said_of(checkout)
    first = lines.index("<<<<<<< HEAD") + 1
    assert f"{name} has conflict marks of a merge, the first in line {first} (<<<<<<< HEAD)" in said
    assert SIDES[name][2] in said and f"git add {name}" in said
    assert "\n" not in said


@pytest.mark.parametrize("name", ["dvc.lock", "data/raw.dvc", "requirements.lock"])
@pytest.mark.parametrize("side", ["--ours", "--theirs"])
def test_the_remedy_takes_one_side_whole(checkout, name, side):
    merge(checkout, name)
    assert f"`git checkout --ours {name}` (or --theirs)" in said_of(checkout)
    git(checkout, "checkout", side, name)
    git(checkout, "add", name)
    require_dvc(checkout)
    require_merged(checkout)
    ours = SIDES[name][1][1 if side == "--ours" else 0]
    assert ours in (checkout / name).read_text()


def test_marks_that_were_committed_have_a_remedy_without_a_merge(checkout):
    merge(checkout, "dvc.lock")
    git(checkout, "commit", "-q", "-a", "-m", "done?")
    said = said_of(checkout)
    assert "`git checkout COMMIT -- dvc.lock`, with a commit from before the merge" in said
    assert "--ours" not in said


@pytest.mark.parametrize(
    "mark", ["<<<<<<< HEAD", "||||||| 12ab", "=======", ">>>>>>> x", "=======\r"]
)
def test_each_mark_alone_is_found(checkout, mark):
    (checkout / "dvc.lock").write_bytes(f"{DVC_LOCK}{mark}\n".encode())
    assert f"in line {DVC_LOCK.count(chr(10)) + 1} ({mark.strip()})" in said_of(checkout)


def test_what_only_looks_like_a_mark_is_none(checkout):
    (checkout / "params.yaml").write_text(f"# ======= data =======\n#<<<<<<<\n{PARAMS}")
    require_readable(checkout)


def test_marks_taken_out_by_hand_are_not_yet_a_merge(checkout):
    merge(checkout, "dvc.yaml")
    (checkout / "dvc.yaml").write_text(DVC_YAML)
    require_readable(checkout)
    with pytest.raises(TaskError, match=r"not finished a merge: dvc\.yaml is still in conflict"):
        require_merged(checkout)
    git(checkout, "add", "dvc.yaml")
    require_merged(checkout)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "is empty"),
        (DVC_LOCK[:36].encode(), "is damaged (stage prepare has no cmd)"),
        (DVC_LOCK[:-60].encode(), "is not valid YAML: line 6"),
        (b"schema: '2.0'\nstages: {a: {cmd: x, outs: [b]}}\n", "stage a has outs without a path"),
        (b"schema: '2.0'\nstages: [a]\n", "its stages are not a mapping"),
        (DVC_LOCK.replace("2.0", "3.0").encode(), "its schema is 3.0, where DVC has 2.0"),
        (b"stages: {}\n", "its schema is None"),
        (DVC_LOCK.replace("  prepare", "\tprepare").encode(), "not valid YAML: line 3: found"),
        (f"{DVC_LOCK}stages: {{}}\n".encode(), 'line 7: found duplicate key "stages"'),
        (DVC_LOCK.encode() + b"# \xff\n", "is not UTF-8 text (line 7)"),
        (b"[1, 2]\n", "holds no settings"),
        (b"\x00\x00", "is not valid YAML"),
    ],
)
def test_a_damaged_lock_is_told_with_a_way_that_loses_nothing(checkout, content, expected):
    (checkout / "dvc.lock").write_bytes(content)
    said = said_of(checkout)
    assert expected in said and "\n" not in said
    assert "Restore it with `git checkout dvc.lock`, or move it away; `instar run` then" in said
    with pytest.raises(TaskError):
        made_by_stages(checkout)


def test_a_lock_that_is_a_folder_is_told(checkout):
    (checkout / "dvc.lock").unlink()
    (checkout / "dvc.lock").mkdir()
    assert "dvc.lock is a folder, not a file" in said_of(checkout)


def test_no_lock_is_no_problem(checkout):
    (checkout / "dvc.lock").unlink()
    require_dvc(checkout)
    assert read_lock(checkout) == {} == made_by_stages(checkout)


@pytest.mark.parametrize("name", ["params.yaml", "dvc.yaml", "data/raw.dvc"])
@pytest.mark.parametrize(
    ("content", "expected"),
    [(b"", "is empty"), (b"a: 1\n\tb: 2\n", "line 2"), (b"a: 1\na: 2\n", "line 2: found duplicate"),
     (b"a: \xe9\n", "not UTF-8 text (line 1)"), (b"- a\n", "holds no settings")],
)  # fmt: skip
def test_other_broken_files_are_told_by_name_and_line(checkout, name, content, expected):
    (checkout / name).write_bytes(content)
    said = said_of(checkout)
    assert name in said and expected in said and f"`git checkout {name}`" in said


def test_doctor_tells_a_conflict_once(checkout):
    merge(checkout, "params.yaml")
    told = [check.found for check in check_all(checkout) if "conflict marks" in check.found]
    assert len(told) == 1
    assert told[0].startswith("params.yaml has conflict marks")


def test_a_commit_that_holds_marks_is_told(checkout):
    merge(checkout, "params.yaml")
    git(checkout, "commit", "-q", "-a", "-m", "done?")
    with pytest.raises(TaskError, match=r"params\.yaml of \w{12} is not valid YAML: line \d+"):
        raw_data_of(checkout, git(checkout, "rev-parse", "HEAD"))


def test_a_preset_with_marks_is_told(checkout):
    (checkout / "preset.yaml").write_text("<<<<<<< HEAD\na: 1\n=======\na: 2\n>>>>>>> b\n")
    with pytest.raises(TaskError, match=r"^preset\.yaml has conflict marks .* line 1"):
        read_yaml(checkout / "preset.yaml")


def test_a_name_that_is_not_utf8_is_no_problem_for_git(checkout):
    from tasks.versioning.git import untracked_code

    (checkout / "tasks").mkdir()
    os.close(os.open(os.fsencode(checkout / "tasks") + b"/b\xff.py", os.O_CREAT))
    assert json.dumps(untracked_code(checkout)) == '["tasks/b\\udcff.py"]'
