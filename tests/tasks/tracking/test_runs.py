"""Addresses of MLflow: where they point, and what of them may be shown."""

import threading
import traceback
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from tasks.errors import TaskError
from tasks.system.redaction import shown
from tasks.tracking.client import explained, tracking_uri_of
from tasks.tracking.publisher import trouble

SECRET = "postgresql://ada:hush@db.example.org:5432/mlflow"


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        (SECRET, "postgresql://db.example.org:5432/mlflow"),
        ("https://ada:h@s/h@mlflow.example.org/api", "https://mlflow.example.org/api"),
        ("https://token@mlflow.example.org", "https://mlflow.example.org"),
        ("sqlite:////data/mlflow.db", "sqlite:////data/mlflow.db"),
        ("models:/tiny@champion", "models:/tiny@champion"),
        (f"cannot reach '{SECRET}', mail ops@example.org",
         "cannot reach 'postgresql://db.example.org:5432/mlflow', mail ops@example.org"),
    ],
)  # fmt: skip
def test_user_and_password_are_not_shown_and_all_else_is(address, expected):
    assert shown(address) == expected


def test_trouble_with_mlflow_tells_no_password():
    said = trouble(SECRET, ConnectionError(f"no route to {SECRET}"))
    assert "hush" not in said
    assert said.count("db.example.org") == 2


def test_an_explained_failure_tells_no_password_even_in_its_stack_trace():
    address = SECRET.replace("postgresql", "http").replace("db.example.org:5432", "127.0.0.1:9")
    with pytest.raises(TaskError) as caught, explained(address) as client:
        client.search_experiments()
    told = "".join(traceback.format_exception(caught.value))
    assert "MLflow at http://127.0.0.1:9/mlflow: " in told
    assert "hush" not in told


@pytest.mark.parametrize(
    ("status", "user", "expected"),
    [
        (401, "ada", "does not know user ada with this password"),
        (401, None, "asks who you are"),
        (403, "ada", "does not let user ada change this"),
    ],
)
def test_a_refused_user_is_told_so_in_one_sentence(monkeypatch, status, user, expected):
    class Refusing(BaseHTTPRequestHandler):
        def do_POST(self):
            self.send_error(status)

        def log_message(self, *_):
            pass

    for name, value in (("USERNAME", user), ("PASSWORD", user and "hush")):
        monkeypatch.delenv(f"MLFLOW_TRACKING_{name}", raising=False)
        if value:
            monkeypatch.setenv(f"MLFLOW_TRACKING_{name}", value)
    with HTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}"
        with pytest.raises(TaskError, match=expected) as caught, explained(address) as client:
            client.search_experiments()
        server.shutdown()
    said = "".join(traceback.format_exception(caught.value))
    assert "hush" not in said
    assert "MLFLOW_TRACKING_PASSWORD" in str(caught.value) and "\n" not in str(caught.value)
    assert "Check that it runs" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, "sqlite:///{root}/mlflow.db"),
        ("sqlite:///mlflow.db", "sqlite:///{root}/mlflow.db"),
        ("sqlite+pysqlite:///in/m.db?timeout=9", "sqlite+pysqlite:///{root}/in/m.db?timeout=9"),
        ("sqlite:////data/mlflow.db", "sqlite:////data/mlflow.db"),
        ("sqlite:///:memory:", "sqlite:///:memory:"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
    ],
)
def test_a_database_is_the_same_wherever_the_process_works(monkeypatch, tmp_path, given, expected):
    if given:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", given)
    assert tracking_uri_of(tmp_path) == expected.format(root=tmp_path)
