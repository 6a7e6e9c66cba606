"""The image and the services are sound as far as can be told without an engine."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from flows.stack import container
from tasks.errors import TaskError

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "docker"
BIN = Path(sys.executable).parent


def typed(*command):
    return subprocess.run(
        list(map(str, command)), cwd=ROOT, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def services():
    """What Compose makes of compose.yaml with the values of env.example."""
    files = ["--env-file", DOCKER / "env.example", "--file", DOCKER / "compose.yaml"]
    shown = typed(BIN / "docker-compose", *files, "config", "--format", "json")
    assert shown.returncode == 0, shown.stderr
    return json.loads(shown.stdout)["services"]


def test_the_dockerfile_passes_hadolint():
    linted = typed(BIN / "hadolint", "--failure-threshold", "info", DOCKER / "Dockerfile")
    assert linted.returncode == 0, linted.stdout


def test_the_image_runs_as_an_ordinary_user_from_a_pinned_base():
    lines = (DOCKER / "Dockerfile").read_text().splitlines()
    assert [line for line in lines if line.startswith("USER")][-1] == "USER 1000:1000"
    base = next(line for line in lines if line.startswith("ARG BASE_IMAGE="))
    assert re.search(r":\d+\.\d+\.\d+-", base), "a tag that names the patch version"
    assert any(line.startswith("HEALTHCHECK") for line in lines)


def test_nothing_enters_the_image_but_the_lock_and_the_rooms():
    allowed = (ROOT / ".dockerignore").read_text().split("!")[0]
    assert "*\n" in allowed
    copied = re.findall(r"^COPY (?!--from)(\S+)", (DOCKER / "Dockerfile").read_text(), re.M)
    assert set(copied) == {"requirements.lock", "flows", "tasks", "models", "data"}


def test_nothing_is_published_beyond_loopback(services):
    published = [port for service in services.values() for port in service.get("ports", [])]
    assert {port["host_ip"] for port in published} == {"127.0.0.1"}
    assert "ports" not in services["postgres"]


def test_every_service_tells_its_health_and_waits_for_those_it_needs(services):
    for name, service in services.items():
        waits = service.get("depends_on", {})
        for other, how in waits.items():
            assert how["condition"] != "service_started" or (name, other) == ("prefect", "store")
        # The worker's check is the image's.
        assert name == "worker" or "healthcheck" in service
    assert set(services["worker"]["depends_on"]) == {"prefect", "accounts"}


def test_no_service_is_given_a_password_that_it_does_not_need(services):
    for name, service in services.items():
        given = service["environment"]
        assert ("POSTGRES_PASSWORD" in given) == (name == "postgres")
        assert ("S3_ADMIN_SECRET" in given) == (name in ("store", "accounts"))
        assert ("MLFLOW_ADMIN_PASSWORD" in given) == (name in ("mlflow", "accounts"))


def test_services_ask_each_other_past_a_proxy(services):
    for name in ("mlflow", "accounts", "worker"):
        for variable in ("NO_PROXY", "no_proxy"):
            direct = services[name]["environment"][variable].split(",")
            assert {"store", "mlflow", "prefect", "localhost", "127.0.0.1"} <= set(direct)


def test_every_password_is_asked_for_and_none_has_a_default():
    text = (DOCKER / "compose.yaml").read_text()
    asked = set(re.findall(r"\$\{(\w+):\?", text))
    example = dict(
        line.split("=", 1)
        for line in (DOCKER / "env.example").read_text().splitlines()
        if line and not line.startswith("#")
    )
    assert asked == {name for name, value in example.items() if value == "change-me"}
    for line in text.splitlines():
        if re.search(r"(PASSWORD|SECRET|SECRET_KEY|ACCESS_KEY|AUTH_STRING):", line):
            assert "${" in line


@pytest.mark.parametrize("what", ["store", "mlflow", "accounts", "healthy"])
def test_a_service_without_its_password_says_which_it_lacks(what, monkeypatch):
    for name in ("S3_ADMIN_SECRET", "MLFLOW_DATABASE_PASSWORD", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    with pytest.raises(TaskError, match=r"is not set: see docker/env.example"):
        container.main([what])


def test_a_service_that_does_not_answer_is_not_healthy(monkeypatch):
    assert container.main(["answers", "http://127.0.0.1:9/health"]) == 1
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    assert container.main(["healthy"]) == 1
