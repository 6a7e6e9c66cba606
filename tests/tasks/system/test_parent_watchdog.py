"""A typed `dvc repro` that is killed takes its stage along, shell between them or not."""

import json
import signal

import pytest

from tests.faults.framed_project import (
    make_framed_project,
    processes_in,
    start,
)
from tests.faults.waiting import until

REPRO = ("-P", "-m", "dvc", "repro")


@pytest.mark.parametrize(
    ("command", "number"),
    [("python work.py", signal.SIGKILL), ("true && python work.py; exit $?", signal.SIGTERM)],
    ids=["the shell became the stage", "the shell stays"],
)
def test_stage_of_a_killed_dvc_ends_and_keeps_its_checkpoint(tmp_path, command, number):
    project = make_framed_project(tmp_path / "project", "sleep=600", command)
    dvc = start(project, *REPRO)
    until(lambda: list(project.glob(".instar/checkpoints/*/*.ckpt")), "the stage did not start")
    dvc.send_signal(number)
    dvc.wait()
    until(lambda: not processes_in(project), "the stage lives on")
    assert list(project.glob(".instar/checkpoints/*/*.ckpt"))
    journal = next(project.glob(".instar/journal/prepare-*.jsonl")).read_text().splitlines()
    assert json.loads(journal[-1])["status"] == "killed"

    (project / "input.txt").write_text("")
    again = start(project, *REPRO)
    said, _ = again.communicate()
    assert again.returncode == 0, said


def test_stage_typed_by_hand_outlives_the_shell_it_was_typed_in(tmp_path):
    project = make_framed_project(tmp_path / "project", "sleep=3")
    shell = "import subprocess, sys; subprocess.Popen([sys.executable, 'work.py'])"
    typed = start(project, "-c", shell)
    typed.wait()
    until((project / "artifacts/prepare/result.txt").exists, "the stage ended with its shell")
    typed.stdout.close()
