"""No client asks a proxy for a server of this machine, and the doctor knows which proxy counts."""

import http.server
import os
import threading
import urllib.request
from contextlib import contextmanager

import pytest

from flows.orchestration.servers import PrefectServer, prefect_environment
from tasks.errors import TaskError
from tasks.operations.health_checks import check_proxy
from tasks.operations.server_checks import check_mlflow
from tasks.system import proxies
from tasks.system.proxies import keep_loopback_direct, open_url, require_certificates
from tests.tasks.conftest import PARAMS
from tests.tasks.toy_project import make_toy_project

# PROXY stands for the address of a proxy that refuses everything.
MEMBERS = [
    {"HTTP_PROXY": "PROXY"},
    {"http_proxy": "PROXY"},
    {"ALL_PROXY": "PROXY", "HTTPS_PROXY": "PROXY"},
    {"HTTP_PROXY": "PROXY", "all_proxy": "socks5://127.0.0.1:9"},
    {"http_proxy": "socks5h://127.0.0.1:9"},
    {"HTTP_PROXY": "http://proxy:port"},
    {"HTTP_PROXY": "PROXY", "NO_PROXY": ".example.org,10.0.0.0/8"},
    {"HTTP_PROXY": "PROXY", "NO_PROXY": "localhost", "no_proxy": ".example.org"},
    {"HTTP_PROXY": "PROXY", "NO_PROXY": "localhost", "no_proxy": ""},
    {"HTTP_PROXY": "PROXY", "no_proxy": "*"},
    {"HTTP_PROXY": "PROXY", "no_proxy": "*, .example.org"},
    # httpx does not start with these.
    {"HTTP_PROXY": "PROXY", "NO_PROXY": "[::1],fe80::/10 host:port;\u00e9.example.org"},
]


class Answer(http.server.BaseHTTPRequestHandler):
    """Answers everything alike, and notes what was asked."""

    def answer(self):
        self.server.asked.append(self.path)
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(self.server.content)))
        self.end_headers()
        self.wfile.write(self.server.content)

    do_GET = do_POST = do_CONNECT = answer

    def log_message(self, *_):
        pass


@contextmanager
def answering(status, content=b"true"):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        server.status, server.content, server.asked = status, content, []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch):
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    for name in ("no_proxy", "NO_PROXY"):  # whatever is set meanwhile goes at the end
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    # urllib keeps the proxies of its first request.
    monkeypatch.setattr(urllib.request, "_opener", None)
    monkeypatch.setattr(proxies, "left_out", {})


@pytest.fixture
def proxy():
    with answering(403) as server:
        server.address = f"http://127.0.0.1:{server.server_port}"
        yield server


def set_up(monkeypatch, variables, address):
    for name, value in variables.items():
        monkeypatch.setenv(name, value.replace("PROXY", address))
    keep_loopback_direct()


@pytest.mark.parametrize("variables", MEMBERS, ids=str)
def test_every_client_asks_a_server_of_this_machine_itself(variables, proxy, monkeypatch):
    import httpx
    import requests
    from websockets.proxy import get_proxy
    from websockets.uri import parse_uri

    set_up(monkeypatch, variables, proxy.address)
    with answering(200) as server:
        for host in ("127.0.0.1", "localhost", "0.0.0.0"):
            address = f"http://{host}:{server.server_port}/api/health"
            assert urllib.request.urlopen(address, timeout=5).status == 200
            assert requests.get(address, timeout=5).status_code == 200
            assert httpx.get(address, timeout=5).status_code == 200
            assert get_proxy(parse_uri(address.replace("http", "ws"))) is None
    assert proxy.asked == []


def test_an_ipv6_address_of_this_machine_is_asked_directly(proxy, monkeypatch):
    set_up(monkeypatch, {"HTTP_PROXY": "PROXY"}, proxy.address)
    with pytest.raises(OSError, match="refused|unreachable|assign"):
        open_url("http://[::1]:9/health", timeout=5)
    assert proxy.asked == []


@pytest.mark.parametrize("host", ["127.0.1.1", "mlflow.localhost"])
def test_another_name_of_this_machine_in_the_settings_is_asked_directly(host, proxy, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://{host}:5000")
    set_up(monkeypatch, {"HTTP_PROXY": "PROXY", "NO_PROXY": ".corp"}, proxy.address)
    assert urllib.request.proxy_bypass(f"{host}:5000")


@pytest.mark.parametrize(
    "no_proxy", [{}, {"NO_PROXY": "other.example.org"}, {"NO_PROXY": "*", "no_proxy": "other"}]
)
def test_a_server_elsewhere_is_still_asked_through_the_proxy(no_proxy, proxy, monkeypatch):
    import httpx
    import requests

    set_up(monkeypatch, {"HTTP_PROXY": "PROXY", **no_proxy}, proxy.address)
    for get in (requests.get, httpx.get):
        assert get("http://mlflow.example.org/health", timeout=5).status_code == 403
    assert proxy.asked == ["http://mlflow.example.org/health"] * 2


def test_without_a_proxy_the_environment_is_left_as_it_is(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "localhost , .corp")
    before = dict(os.environ)
    keep_loopback_direct()
    assert dict(os.environ) == before


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    for name, value in prefect_environment(tmp_path).items():  # else what is set stays
        monkeypatch.setenv(name, value)
    root = make_toy_project(tmp_path / "project")
    (root / "params.yaml").write_text(PARAMS)
    return root


@pytest.mark.parametrize(
    ("status", "content", "said"),
    [
        (403, b"", "answers 403"),
        (407, b"", "answers 407"),
        (200, b"\n<!doctype html><p>Log in first", "a web page comes instead"),
    ],
)
def test_what_answers_in_place_of_a_server_is_told(root, monkeypatch, status, content, said):
    with answering(status, content) as server:
        address = f"http://ada:hush@127.0.0.1:{server.server_port}"
        set_up(monkeypatch, {"HTTP_PROXY": "PROXY"}, address)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.example.org")
        check, proxy = check_mlflow(root), check_proxy(root)
        monkeypatch.setenv("PREFECT_API_URL", "http://prefect.example.org/api")
        with pytest.raises(TaskError) as refused, PrefectServer(root) as configured:
            configured.wait()
    named = f"HTTP_PROXY=http://127.0.0.1:{server.server_port}"
    assert not check.well and said in check.found and f"through the proxy {named}" in check.found
    assert "NO_PROXY" in check.remedy
    assert proxy.well and proxy.found == f"asked through one: MLflow by {named}"
    prefect = f"no Prefect server answers at {os.environ['PREFECT_API_URL']} through the proxy"
    assert f"{prefect} {named}" in str(refused.value)
    assert "hush" not in f"{check}{proxy}{refused.value}"


@pytest.mark.parametrize(
    ("variables", "tracking", "well", "said"),
    [
        ({}, "http://127.0.0.1:5000", True, "no server is asked through one"),
        ({"http_proxy": "PROXY"}, "http://localhost:5000", True, "is set, but no server"),
        ({"ALL_PROXY": "PROXY"}, "http://m.example.org", True, "MLflow by ALL_PROXY=PROXY"),
        ({"all_proxy": "socks5://p:1080"}, "http://127.0.0.1:5000", True, "all_proxy=socks5://p"),
        ({"all_proxy": "socks5://p:1080"}, "http://m.example.org", False, "MLflow is asked direct"),
        ({"HTTP_PROXY": "PROXY", "ALL_PROXY": "socks5://p:1080"}, "http://m.example.org", True,
         "MLflow by HTTP_PROXY=PROXY; ALL_PROXY=socks5://p:1080 is left out"),
    ],
)  # fmt: skip
def test_the_doctor_tells_which_servers_are_asked_through_a_proxy(
    root, monkeypatch, variables, tracking, well, said
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking)
    set_up(monkeypatch, variables, "http://proxy.example.org:3128")
    check = check_proxy(root)
    assert check.well == well
    assert said.replace("PROXY=PROXY", "PROXY=http://proxy.example.org:3128") in check.found


@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "AWS_CA_BUNDLE"])
@pytest.mark.parametrize("content", [None, "no certificate"])
def test_certificates_that_are_not_there_are_named(root, monkeypatch, tmp_path, name, content):
    require_certificates()
    place = tmp_path / "company.pem"
    if content is not None:
        place.write_text(content)
    monkeypatch.setenv(name, str(place))
    with pytest.raises(TaskError, match=f"{name} names {place}"), PrefectServer(root):
        pass
    with pytest.raises(TaskError, match=name):
        check_proxy(root)


@pytest.mark.slow
def test_a_command_that_starts_prefect_does_not_ask_the_proxy(proxy, tmp_path):
    from tests.e2e.tiny_project import instar, make_tiny_project

    project = make_tiny_project(tmp_path / "project")
    proxy.status = 407
    company = {"HTTP_PROXY": proxy.address, "all_proxy": "socks5://127.0.0.1:9"}
    planned = instar(project, "schedule", "--cron", "0 3 * * *", **company)
    assert planned.returncode == 0, planned.stderr
    assert proxy.asked == []
