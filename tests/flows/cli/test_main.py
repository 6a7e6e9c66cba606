"""The `instar` command: an instant, teaching help, and one message for each problem."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli import main
from tasks.errors import TaskError
from tests.tasks.conftest import PARAMS
from tests.tasks.toy_project import git, make_toy_project, write_images

HERE = Path(__file__).resolve().parents[3]
COMMANDS = (
    "run", "set", "check", "params", "ui", "schedule", "worker", "predict", "export", "doctor",
    "sync", "models", "promote", "rollback", "history", "lineage", "reproduce", "watch",
)  # fmt: skip


def exit_status(monkeypatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["instar", *arguments])
    with pytest.raises(SystemExit) as end:
        main.main()
    return end.value.code or 0


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from typer.testing import CliRunner; from flows.cli import main\n"
        "assert CliRunner().invoke(main.app, ['--help']).exit_code == 0\n"
        "heavy = {'torch', 'mlflow', 'prefect', 'pandas', 'sklearn', 'dvc', 'numpy', 'pydantic'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=HERE, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_each_command_teaches_with_an_example(command):
    shown = CliRunner().invoke(main.app, [command, "--help"])
    assert shown.exit_code == 0
    assert f"Example:  instar {command}" in shown.output


@pytest.mark.parametrize("arguments", [[], ["--once", "--cron", "* * * * *"]])
def test_watch_wants_one_way_of_looking(monkeypatch, capsys, arguments):
    assert exit_status(monkeypatch, "watch", *arguments) == 2
    assert "either --once or --cron" in " ".join(capsys.readouterr().err.split())


def test_first_lines_of_the_commands_are_not_cut_off():
    commands = CliRunner().invoke(main.app, ["--help"]).output.partition("Commands:")[2]
    assert "run" in commands
    assert "..." not in commands


@pytest.mark.parametrize("arguments", [["rnu"], ["run", "--nonsense"], ["schedule"]])
def test_wrong_usage_exits_with_2(monkeypatch, capfd, arguments):
    assert exit_status(monkeypatch, *arguments) == 2


def test_explained_problem_is_one_message_and_exits_with_1(monkeypatch, capfd, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert exit_status(monkeypatch, "check") == 1
    said = capfd.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert "git" in said


def test_no_dvc_project_is_explained_before_anything_starts(monkeypatch, capfd, tmp_path):
    git(tmp_path, "init", "-q")
    git(
        tmp_path,
        "-c",
        "user.name=t",
        "-c",
        "user.email=t@t",
        "commit",
        "-q",
        "--allow-empty",
        "-m",
        "x",
    )
    monkeypatch.chdir(tmp_path)
    assert exit_status(monkeypatch, "schedule", "--cron", "0 3 * * *") == 1
    assert "dvc init" in capfd.readouterr().err


def test_ui_starts_nothing_outside_a_project(monkeypatch, capfd, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert exit_status(monkeypatch, "ui") == 1
    assert "dvc init" in capfd.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_full_disk_is_explained(monkeypatch, capfd):
    def no_space() -> None:
        raise OSError(28, "No space left on device", "params.yaml")

    monkeypatch.setattr(main, "app", no_space)
    assert exit_status(monkeypatch) == 1
    assert "no space left on the disk" in capfd.readouterr().err


def test_gate_that_says_no_exits_with_3(monkeypatch, capfd):
    from flows.commands import run

    result = {"gate": {"outcome": "refused", "reasons": []}}
    monkeypatch.setattr(run, "run_here", lambda *_, **__: result)
    assert exit_status(monkeypatch, "run", "--json") == 3
    assert json.loads(capfd.readouterr().out) == result


def test_interrupt_says_what_is_kept_and_exits_with_130(tmp_path):
    code = (
        "import sys, flows.commands.run, flows.cli.main\n"
        "def interrupted(*_, **__): raise KeyboardInterrupt\n"
        "flows.commands.run.run_here = interrupted\n"
        "sys.argv = ['instar', 'run']; flows.cli.main.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=HERE, capture_output=True, text=True, check=False
    )
    assert done.returncode == 130
    assert "kept" in done.stderr
    assert "Traceback" not in done.stderr


def test_busy_checkout_names_its_holder(monkeypatch, capfd, tmp_path):
    from tasks.execution.workspace import locked

    project = make_toy_project(tmp_path / "project")
    monkeypatch.chdir(project)
    with locked(project, what="instar run"):
        assert exit_status(monkeypatch, "run") == 1
    assert "is busy: held by instar run with pid" in capfd.readouterr().err


def test_check_beside_a_run_says_who_holds_the_checkout(monkeypatch, capfd, tmp_path):
    from tasks.execution.workspace import locked

    project = make_toy_project(tmp_path / "project")
    (project / "params.yaml").write_text(PARAMS.replace("data/raw/images.npz", "input.txt"))
    write_images(project / "input.txt")
    monkeypatch.chdir(project)
    with locked(project, what="instar run"):
        assert exit_status(monkeypatch, "check") == 1
    said = capfd.readouterr()
    assert said.out == "params.yaml is valid.\n"
    assert "is busy: held by instar run with pid" in said.err
    assert said.err.count("\n") == 1


def test_check_refuses_data_that_are_not_there(monkeypatch, capfd, tmp_path):
    project = make_toy_project(tmp_path / "project")
    (project / "params.yaml").write_text(PARAMS)
    monkeypatch.chdir(project)
    assert exit_status(monkeypatch, "check") == 1
    assert "there is no data/raw/images.npz" in capfd.readouterr().err


def test_errors_of_all_rooms_are_explained(monkeypatch, capfd):
    from data.errors import DataError
    from models.errors import ModelError

    for kind in (DataError, ModelError, TaskError):

        def fail(kind=kind) -> None:
            raise kind("what is wrong; what to do.")

        monkeypatch.setattr(main, "app", fail)
        assert exit_status(monkeypatch) == 1
        assert capfd.readouterr().err == "error: what is wrong; what to do.\n"


def test_the_page_of_commands_is_that_of_their_help(tmp_path):
    page = tmp_path / "cli.md"
    typer = [sys.executable, "-m", "typer", "flows.cli.main", "utils", "docs"]
    subprocess.run(
        [*typer, "--name", "instar", "--title", "Commands", "--output", str(page)],
        cwd=HERE,
        check=True,
        capture_output=True,
    )
    assert page.read_text() == (HERE / "docs" / "reference" / "cli.md").read_text()
