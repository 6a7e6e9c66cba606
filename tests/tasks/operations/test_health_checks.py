"""Each check of the doctor sees what it is for, and says how to mend it; what is left is listed."""

import base64
import http.server
import os
import subprocess
import sys
import threading
import time

import pytest

from tasks.execution.workspace import isolated, locked
from tasks.operations import health_checks
from tasks.operations.health_checks import check_all
from tasks.operations.unfinished_runs import leftovers
from tasks.tracking.publisher import Publisher
from tests.servers import free_port
from tests.tasks.conftest import PARAMS
from tests.tasks.toy_project import git, make_toy_project


@pytest.fixture
def root(tmp_path, monkeypatch):
    for name in ("MLFLOW_TRACKING_URI", "DO_NOT_TRACK", "PREFECT_SERVER_ANALYTICS_ENABLED"):
        monkeypatch.delenv(name, raising=False)
    root = make_toy_project(tmp_path / "project")
    (root / "params.yaml").write_text(PARAMS)
    (root / "requirements.lock").write_text("pytest>=1\nnothing==1 ; python_version < '3'\n")
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "settings")
    return root


def found(root, name):
    (check,) = [check for check in check_all(root) if check.name == name]
    return check


def test_a_healthy_project_is_well_in_every_respect(root):
    checks = check_all(root)
    assert [check for check in checks if not check.well] == []
    assert len(checks) == 9


def test_packages_that_differ_from_the_lock_are_named(root):
    (root / "requirements.lock").write_text("pytest==0.1\nno-such-package==2.0\n# comment\n")
    check = found(root, "versions")
    assert not check.well
    assert "pytest" in check.found and "(locked: ==0.1)" in check.found
    assert "no-such-package missing" in check.found


def test_a_disk_that_is_nearly_full_is_named(root, monkeypatch):
    monkeypatch.setattr(health_checks, "LEAST_FREE_GB", 1e9)
    check = found(root, "disk")
    assert not check.well and "dvc gc" in check.remedy


def test_untracked_code_is_named(root):
    (root / "models").mkdir()
    (root / "models" / "mine.py").write_text("")
    check = found(root, "git")
    assert not check.well and "models/mine.py" in check.found and "git add" in check.remedy


def test_a_folder_without_git_is_named_and_nothing_breaks(tmp_path):
    checks = {check.name: check for check in check_all(tmp_path)}
    assert "git init" in checks["git"].found
    assert "dvc init" in checks["DVC remote"].found


def test_more_threads_than_cores_are_named(root):
    (root / "params.yaml").write_text(PARAMS.replace("epochs: 2", "epochs: 2, threads: 9999"))
    check = found(root, "settings")
    assert not check.well and "pretrain.threads is 9999" in check.found


def test_settings_and_records_that_cannot_be_read_are_named_and_hide_nothing_else(root):
    (root / "params.yaml").write_text(PARAMS.replace("epochs: 2", "epochs: 2, threads: many"))
    runs = root / ".instar" / "runs"
    runs.mkdir(parents=True)
    (runs / "20260101-000000-aaaa.json").write_text('{"run_id": ')
    checks = check_all(root)
    assert "pretrain.threads = 'many'" in found(root, "settings").found
    assert [check.name for check in checks if not check.well] == ["settings"]
    (left,) = leftovers(root)
    assert "20260101-000000-aaaa.json cannot be read" in left.what and "delete it" in left.what


@pytest.mark.parametrize("how", ["variable", "config"])
def test_a_component_that_would_report_home_is_named(root, monkeypatch, how):
    if how == "variable":
        monkeypatch.setenv("DO_NOT_TRACK", "0")
    else:
        config = root / ".dvc" / "config"
        config.write_text(config.read_text().replace("    analytics = false\n", ""))
    assert not found(root, "telemetry").well


@pytest.mark.parametrize(
    ("url", "named"),
    [(None, "none is set"), ("s3", "does not answer"), ("folder", "made by the first push")],
)
def test_the_remote_is_asked(root, monkeypatch, url, named):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    text = "[core]\n    analytics = false\n"
    if url == "s3":
        end = f"    endpointurl = http://127.0.0.1:{free_port()}\n"
        text += f"    remote = far\n['remote \"far\"']\n    url = s3://bucket/path\n{end}"
    elif url == "folder":
        text += "    remote = near\n['remote \"near\"']\n    url = ../.instar/remote\n"
    (root / ".dvc" / "config").write_text(text)
    check = found(root, "DVC remote")
    assert named in check.found
    assert check.well == (url == "folder")


class Page(http.server.BaseHTTPRequestHandler):
    status = 200

    def do_GET(self):
        self.send_response(self.status)
        self.end_headers()

    def do_POST(self):
        account = base64.b64encode(b"ada:hush").decode()
        known = self.headers["Authorization"] == f"Basic {account}"
        self.send_response(self.status if known else 401)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.mark.parametrize(("status", "well"), [(200, True), (403, False), (None, False)])
def test_mlflows_server_is_asked_and_no_password_shown(root, monkeypatch, status, well):
    monkeypatch.setattr(Page, "status", status)
    with http.server.HTTPServer(("127.0.0.1", 0), Page) as server:
        port = server.server_address[1] if status else free_port()
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ada")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hush")
        check = found(root, "MLflow")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "wrong")
        stranger = found(root, "MLflow")
        server.shutdown()
    if well:
        assert not stranger.well and "401" in stranger.found
        assert "MLFLOW_TRACKING_PASSWORD" in stranger.remedy
    assert check.well == well
    assert str(status or "does not answer") in check.found or well
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"postgresql://ada:secret@127.0.0.1:{free_port()}/m")
    check = found(root, "MLflow")
    assert not check.well and "secret" not in check.found


def test_a_damaged_database_is_named(root):
    (root / "mlflow.db").write_bytes(b"this is no database" * 1000)
    check = found(root, "MLflow")
    assert not check.well and "instar sync --all" in check.remedy


def test_what_is_queued_stale_and_half_done_is_listed(root, monkeypatch):
    assert leftovers(root) == []
    with Publisher(root, "run-0", "http://127.0.0.1:9"):
        assert kinds(root) == ["running"]
    code = (
        "import sys, time; from tasks.tracking.publisher import Publisher;"
        "from tasks.execution.workspace import isolated, locked\n"
        "with locked(sys.argv[1], what='instar run'), isolated(sys.argv[1], 'run-1'):\n"
        "    Publisher(sys.argv[1], 'run-1', 'http://127.0.0.1:9')\n"
        "    print(flush=True); time.sleep(600)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(root)], stdout=subprocess.PIPE, cwd=root.parent
    )
    process.stdout.readline()
    assert kinds(root) == ["queued", "running", "running"]
    process.kill()
    process.wait()
    checkpoint = root / ".instar" / "checkpoints" / "pretrain-k1" / "last.ckpt"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes(b"x")
    assert kinds(root) == ["queued", "half-done", "stale", "stale"]
    long_ago = time.time() - 30 * 86400
    os.utime(checkpoint, (long_ago, long_ago))
    assert kinds(root) == ["queued", "half-done", "stale", "stale", "stale"]
    with isolated(root, "run-2"), locked(root):
        pass
    assert kinds(root) == ["queued", "half-done", "stale"], "the next run clears up behind others"


def kinds(root):
    return [left.kind for left in leftovers(root)]
