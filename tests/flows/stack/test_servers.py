"""What the stack says when a server on one of its ports is not its own."""

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from flows.stack.servers import ensure_user, has_worker
from tasks.errors import TaskError


class Stranger(BaseHTTPRequestHandler):
    """Healthy, and knows no accounts: as a plain MLflow."""

    status = 404

    def do_GET(self):
        self.send_error(self.status) if "users" in self.path else self.send_response(200)
        self.end_headers()

    def do_POST(self):
        self.send_error(self.status)

    def log_message(self, *_):
        pass


@pytest.fixture
def stranger():
    with HTTPServer(("127.0.0.1", 0), Stranger) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.mark.parametrize("status", [401, 404])
def test_another_server_on_mlflows_port_is_named_and_no_password_told(
    stranger, monkeypatch, status
):
    monkeypatch.setattr(Stranger, "status", status)
    with pytest.raises(TaskError, match="another server has taken the port") as told:
        ensure_user(stranger, "hush", "hush")
    assert stranger in str(told.value) and "hush" not in str(told.value)


def test_a_server_without_the_pool_has_no_worker(stranger):
    assert not has_worker(f"{stranger}/api", "instar:hush")
