"""`instar doctor`: exit status, JSON, Prefect, and that it imports nothing heavy."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli import main
from tests.servers import free_port
from tests.tasks.conftest import PARAMS
from tests.tasks.toy_project import git, make_toy_project

HERE = Path(__file__).resolve().parents[3]


@pytest.fixture
def root(tmp_path, monkeypatch):
    for name in ("MLFLOW_TRACKING_URI", "PREFECT_API_URL"):
        monkeypatch.delenv(name, raising=False)
    root = make_toy_project(tmp_path / "project")
    (root / "params.yaml").write_text(PARAMS)
    (root / "requirements.lock").write_text("pytest>=1\n")
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "settings")
    monkeypatch.chdir(root)
    return root


def doctor(*arguments):
    return CliRunner().invoke(main.app, ["doctor", *arguments])


def test_all_well_exits_with_0_and_json_tells_each_check(root):
    told = doctor("--json")
    assert told.exit_code == 0, told.output
    result = json.loads(told.output)
    assert result["well"] and result["left"] == [] and result["marked_as_crashed"] == []
    assert len(result["checks"]) == 10
    assert all(line.startswith("ok") for line in doctor().output.splitlines())


def test_something_wrong_exits_with_1_and_says_how_to_mend_it(root, monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{free_port()}/api")
    told = doctor()
    assert told.exit_code == 1
    (wrong,) = [line for line in told.output.splitlines() if line.startswith("WRONG")]
    assert "Prefect" in wrong
    assert "unset PREFECT_API_URL" in told.output


def test_a_doctor_imports_nothing_heavy(root):
    code = (
        "import sys; from pathlib import Path; from flows.commands.doctor import examine\n"
        "examine(Path.cwd())\n"
        "print(sorted({'torch', 'mlflow', 'prefect', 'pandas', 'dvc'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", f"import sys; sys.path.insert(0, {str(HERE)!r})\n{code}"],
        cwd=root, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == "[]"
