"""Promotions at the same moment, from two checkouts that share one MLflow server."""

import os
import subprocess
import sys
import time

import pytest

from tasks.promotion.verdict import Verdict, tags_of
from tasks.registry import transitions
from tasks.registry.promotion_log import promotions
from tasks.registry.transitions import mend, set_tags
from tasks.tracking.client import connect
from tests.servers import mlflow_server
from tests.tasks.conftest import empty_database, git, uri  # noqa: F401  (a fixture)
from tests.tasks.small_registry import make_registry

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

# All begin together: imports alone take seconds, and not the same for each.
PROMOTE = """\
import pathlib, sys, time
import mlflow
from tasks.errors import TaskError
from tasks.promotion import decisions
pathlib.Path(f"ready-{sys.argv[1]}").touch()
while not pathlib.Path("go").exists():
    time.sleep(0.01)
try:
    print(decisions.promote(".", f"tiny@{sys.argv[1]}", "Production").outcome)
except TaskError as problem:
    print(problem)
"""


def test_of_eight_promotions_from_two_checkouts_exactly_one_wins(tmp_path, empty_database):  # noqa: F811
    first = make_registry(tmp_path / "first", empty_database, versions=9)
    second = tmp_path / "second"
    git(tmp_path, "clone", "-q", str(first), str(second))
    git(second, "config", "user.name", "Bob")
    contenders = [str(number) for number in range(2, 10)]
    client = connect(uri(first))
    for version in contenders:
        verdict = Verdict("tiny", version, "1", "promoted", ["pass: better"])
        set_tags(client, "tiny", version, tags_of(verdict))
    server = mlflow_server(first / "mlflow.db", tmp_path / "artifacts")
    server.start()
    try:
        processes = start(contenders, (first, second), server.address)
        said = {version: process.communicate()[0] for version, process in processes.items()}
        (winner,) = [version for version, words in said.items() if words == "moved\n"]
        aliases = connect(server.address).get_registered_model("tiny").aliases
        assert str(aliases["champion"]) == str(aliases["production"]) == winner
        for version in set(contenders) - {winner}:
            assert f"version {winner} " in said[version], said[version]
            assert "by Ada" in said[version] or "by Bob" in said[version]
        stages = connect(server.address).search_model_versions("name = 'tiny'")
        held = [str(one.version) for one in stages if one.current_stage == "Production"]
        assert held == [winner]
        for root in (first, second):
            with transitions.one_at_a_time(root, "a test"):
                mend(connect(server.address), "tiny", root)
            champions = [line["version"] for line in promotions(root) if line["to"] == "champion"]
            assert champions == ["1", winner], "both logs know the one who won"
    finally:
        server.kill()


def start(versions, checkouts, address):
    environment = {
        **os.environ, "MLFLOW_TRACKING_URI": address, "PYTHONPATH": os.getcwd(),
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }  # fmt: skip
    processes = {
        version: subprocess.Popen(
            [sys.executable, "-c", PROMOTE, version], cwd=checkouts[number % 2], env=environment,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for number, version in enumerate(versions)
    }  # fmt: skip
    while sum(len(list(root.glob("ready-*"))) for root in checkouts) < len(versions):
        assert all(process.poll() is None for process in processes.values())
        time.sleep(0.05)
    for root in checkouts:
        (root / "go").touch()
    return processes
