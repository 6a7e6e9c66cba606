"""The whole way on real servers, and no secret in what they write.

The tests build upon each other, in the order in which they stand here, as each start of the stack
costs half a minute.
"""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import botocore.session
import numpy as np
import pandas as pd
import pytest
from botocore.exceptions import ClientError
from PIL import Image

from flows.stack.postgres import require_postgres
from flows.stack.servers import ask
from flows.stack.supervisor import FOLDER
from tasks.errors import TaskError
from tasks.registry.move import Move
from tasks.registry.promotion_log import promotions
from tasks.registry.transitions import move
from tasks.system.locks import is_free
from tasks.versioning import dvc_remote
from tasks.versioning.dvc import run_dvc
from tasks.versioning.dvc_remote import fetch, push
from tests.e2e.tiny_project import environment, git, instar, make_tiny_project, write_digits
from tests.servers import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

# No credential in it: those come from the environment.
REMOTE = """\
[core]
    remote = store
    analytics = false
    check_update = false
['remote "store"']
    url = s3://instar/dvc
    verify = true
"""


class Stack:
    """The stack in a folder, as its user sees it."""

    def __init__(self, root, folder):
        self.root = root
        self.folder = folder

    def type(self, what):
        """`make stack` or `make stack-stop`, without make."""
        return subprocess.run(
            [sys.executable, "-m", "flows.stack", what, "--folder", str(self.folder)],
            cwd=self.root,
            env=environment(self.root),
            capture_output=True,
            text=True,
            check=False,
        )

    @property
    def env(self):
        """What a shell has after `source env`."""
        clean = {"PATH": os.environ["PATH"]}
        shown = subprocess.run(
            ["bash", "-c", f"source {self.folder}/env && env -0"],
            env=clean, capture_output=True, text=True, check=True,
        )  # fmt: skip
        pairs = dict(line.split("=", 1) for line in shown.stdout.split("\0") if line)
        return {name: value for name, value in pairs.items() if name not in ("PATH", "PWD", "_")}

    @property
    def secrets(self):
        return json.loads((self.folder / "server.json").read_text())["passwords"]

    def instar(self, *arguments, **more):
        return instar(self.root, *arguments, **{**self.env, **more})

    def ask_prefect(self, path, content):
        env = self.env
        return ask(f"{env['PREFECT_API_URL']}/{path}", env["PREFECT_API_AUTH_STRING"], content)

    def ask_mlflow(self, path, content=None):
        account = f"admin:{self.secrets['mlflow_admin']}"
        return ask(f"{self.env['MLFLOW_TRACKING_URI']}/api/2.0/mlflow/{path}", account, content)

    def production(self):
        """The version in Production."""
        found = self.ask_mlflow("registered-models/alias?name=tiny&alias=production")
        return found["model_version"]["version"]

    def versions(self):
        found = self.ask_mlflow("model-versions/search?filter=name%3D%27tiny%27")
        return sorted(version["version"] for version in found["model_versions"])

    def change(self, *assignments):
        """Edit the settings and commit all, as a team member would."""
        assert instar(self.root, "set", *assignments).returncode == 0
        git(self.root, "commit", "-q", "-a", "-m", " ".join(assignments))

    def deployment(self):
        env = self.env
        address = f"{env['PREFECT_API_URL']}/deployments/name/retrain/scheduled"
        return ask(address, env["PREFECT_API_AUTH_STRING"])["id"]

    def running(self):
        time.sleep(0.5)
        kinds = {"flow_runs": {"state": {"type": {"any_": ["RUNNING"]}}}}
        return self.ask_prefect("flow_runs/filter", kinds)

    def fire(self):
        """Run the deployment now; returns its state at the end."""
        path = f"deployments/{self.deployment()}/create_flow_run"
        run = {"flow_runs": {"id": {"any_": [self.ask_prefect(path, {})["id"]]}}}

        def state():
            time.sleep(0.5)
            return self.ask_prefect("flow_runs/filter", run)[0]["state"]

        wait_until(lambda: state()["type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED"), 800)
        return state()

    def s3(self, user, secret):
        """A client of the object store."""
        return botocore.session.Session().create_client(
            "s3",
            endpoint_url=self.env["AWS_ENDPOINT_URL_S3"],
            region_name="us-east-1",
            aws_access_key_id=user,
            aws_secret_access_key=secret,
        )


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    try:
        require_postgres()
    except TaskError as missing:
        pytest.skip(str(missing))
    root = make_tiny_project(tmp_path_factory.mktemp("stack") / "project")
    (root / ".dvc" / "config").write_text(REMOTE)
    # Enough draws for the gate to tell skill from luck, and few labels, to be surpassed later.
    few = ("finetune.draws=4", "finetune.label_fraction=0.05")
    assert instar(root, "set", *few).returncode == 0
    git(root, "commit", "-q", "-a", "-m", "remote")
    # Not in pytest's own folder: PostgreSQL's user must be able to enter.
    folder = Path(tempfile.mkdtemp(prefix="instar-stack-"))
    folder.chmod(0o711)
    stack = Stack(root, folder)
    try:
        started = stack.type("start")
        assert started.returncode == 0, started.stdout + started.stderr + logs(folder)
        assert "source " in started.stdout
        yield stack
    finally:
        stack.type("stop")
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def as_user(stack, monkeypatch):
    """This very process, after `source env`."""
    for name, value in stack.env.items():
        monkeypatch.setenv(name, value)


def logs(folder):
    texts = [path.read_text()[-2000:] for path in sorted((folder / "logs").glob("*.log"))]
    return "\n".join(texts)


def test_a_second_start_says_that_it_runs(stack):
    again = stack.type("start")
    assert again.returncode == 0
    assert again.stdout.startswith("The stack is already running.")
    assert str(stack.folder / "env") in again.stdout


def test_passwords_can_be_read_by_their_owner_alone(stack):
    for name in ("env", "server.json", "s3.json", "mlflow-auth.ini", "objects", "postgres"):
        assert (stack.folder / name).stat().st_mode & 0o077 == 0, name


def test_no_password_stands_in_a_command_line(stack):
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes()
        except OSError:
            continue
        for name, secret in stack.secrets.items():
            assert secret.encode() not in line, f"{name} in {line!r}"


def test_nothing_listens_beyond_loopback(stack):
    ports = set(json.loads((stack.folder / "server.json").read_text())["ports"].values())
    ports |= {port + 10000 for port in ports}
    heard = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            address, port = line.split()[1].split(":")
            if line.split()[3] == "0A" and int(port, 16) in ports:
                heard.add(address)
    assert heard == {"0100007F"}


def test_the_doctor_finds_all_servers_and_accounts_in_order(stack):
    shown = json.loads(stack.instar("doctor", "--json").stdout)
    checks = {check["name"]: check for check in shown["checks"]}
    for name in ("DVC remote", "MLflow", "Prefect", "telemetry"):
        assert checks[name]["well"], checks[name]


def test_a_schedule_fires_and_the_model_gets_to_production(stack):
    planned = stack.instar("schedule", "--cron", "* * * * *")
    assert planned.returncode == 0, planned.stdout + planned.stderr
    wait_until(stack.running, 90)
    # Once is enough: the next minutes are for the other tests.
    stack.ask_prefect(f"deployments/{stack.deployment()}/pause_deployment", {})
    wait_until(lambda: not stack.running(), 800)
    ended = stack.ask_prefect("flow_runs/filter", {"sort": "EXPECTED_START_TIME_ASC"})
    assert ended[0]["state"]["type"] == "COMPLETED", ended[0]["state"] or logs(stack.folder)
    assert stack.production() == "1"
    assert git(stack.root, "tag", "--list", "instar/tiny/v1")
    assert not (stack.root / "artifacts").exists()


def test_another_folder_predicts_with_addresses_and_credentials_alone(stack, tmp_path):
    images = np.load(stack.root / "digits.npz")["test_images"][:3]
    for number, image in enumerate(images):
        picture = io.BytesIO()
        Image.fromarray(image).save(picture, "png")
        name = f"new/{number}.png"
        stack.s3("instar", stack.secrets["s3"]).put_object(
            Bucket="instar", Key=name, Body=picture.getvalue()
        )
    asked = ["predict", "tiny@production", "-i", "s3://instar/new", "-o", "labels.parquet"]
    ended = subprocess.run(
        [sys.executable, "-m", "flows.cli", *asked],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(stack.root), **stack.env},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert len(pd.read_parquet(tmp_path / "labels.parquet")) == 3


def test_the_model_in_production_is_made_again_from_the_bucket(stack):
    made = stack.instar("reproduce", "tiny@production", "--json")
    assert made.returncode == 0, made.stdout + made.stderr
    assert json.loads(made.stdout)["verdict"] == "identical"


def test_more_data_and_a_better_model_get_to_production(stack):
    write_digits(stack.root / "digits.npz", train=1400)
    stack.change("finetune.label_fraction=0.5", "finetune.learner.steps=60")
    assert stack.fire()["type"] == "COMPLETED", logs(stack.folder)
    assert stack.production() == "2"


def test_a_worse_model_is_registered_and_refused(stack):
    stack.change("finetune.label_fraction=0.05")
    assert stack.fire()["type"] == "COMPLETED", logs(stack.folder)
    assert stack.versions() == ["1", "2", "3"]
    assert stack.production() == "2"


def test_production_goes_back_in_one_command_and_the_history_tells_of_it(stack):
    back = stack.instar("rollback", "tiny", "--reason", "wrong on sevens")
    assert back.returncode == 0, back.stdout + back.stderr
    assert stack.production() == "1"
    told = stack.instar("history", "tiny")
    assert "version 1: Archived → Production" in told.stdout, told.stdout + told.stderr
    assert "rolled back from version 2: wrong on sevens" in told.stdout


@pytest.fixture(scope="module")
def clone(stack, tmp_path_factory):
    """A clone of the commit in Production, with nothing but what git has."""
    clone = tmp_path_factory.mktemp("clone") / "clone"
    git(stack.root, "clone", "-q", "--branch", "instar/tiny/v1", str(stack.root), str(clone))
    return clone


def test_a_clone_gets_the_files_of_the_model_from_the_bucket(as_user, clone):
    assert run_dvc(["pull"], clone).returncode == 0
    assert (clone / "artifacts" / "pretrain" / "encoder.safetensors").is_file()


def test_wrong_keys_are_refused_with_one_sentence(stack, as_user, clone, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    monkeypatch.setattr(dvc_remote, "PUSH_PAUSES", (60.0,))
    began = time.monotonic()
    with pytest.raises(TaskError, match="refuses the keys") as refused:
        push(clone)
    assert "\n" not in str(refused.value) and "AWS_SECRET_ACCESS_KEY" in str(refused.value)
    assert time.monotonic() - began < 60, "it tried again"
    assert "refuses the keys" in fetch(clone)
    checks = json.loads(stack.instar("doctor", "--json", AWS_SECRET_ACCESS_KEY="wrong").stdout)
    (store,) = [check for check in checks["checks"] if check["name"] == "DVC remote"]
    assert not store["well"] and "403" in store["found"]


def test_keys_of_one_bucket_open_no_other(stack):
    client = stack.s3("instar", stack.secrets["s3"])
    assert client.list_objects_v2(Bucket="instar")["KeyCount"] > 0
    with pytest.raises(ClientError, match="AccessDenied"):
        client.list_objects_v2(Bucket="mlflow")


def test_a_user_without_rights_cannot_promote(stack, as_user, monkeypatch):
    reader = {"username": "reader", "password": "nothing-but-reading"}
    stack.ask_mlflow("users/create", reader)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", reader["username"])
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", reader["password"])
    before = promotions(stack.root)
    override = ("--to", "Production", "--override", "--reason", "I want it")
    account = {f"MLFLOW_TRACKING_{name.upper()}": value for name, value in reader.items()}
    asked = stack.instar("promote", "tiny@3", *override, **account)
    assert asked.returncode == 1
    assert "does not let user reader change this" in asked.stderr
    assert len(asked.stderr.splitlines()) == 1
    with pytest.raises(TaskError, match="does not let user reader change this") as refused:
        move(Move("tiny", "1", "challenger", "reader", "I want it"), stack.root)
    assert "\n" not in str(refused.value)
    assert stack.production() == "1"
    assert promotions(stack.root) == before


def test_a_wrong_password_is_refused_with_one_sentence(stack):
    checks = stack.instar("doctor", "--json", MLFLOW_TRACKING_PASSWORD="wrong")
    (found,) = [c for c in json.loads(checks.stdout)["checks"] if c["name"] == "MLflow"]
    assert not found["well"] and "401" in found["found"]
    synced = stack.instar("sync", "--all", MLFLOW_TRACKING_PASSWORD="wrong")
    assert synced.returncode == 1
    assert "does not know user instar with this password" in synced.stderr
    assert len(synced.stderr.splitlines()) == 1


def test_no_secret_is_in_logs_databases_artifacts_or_git(stack):
    found = []
    for place, text in _all_that_is_kept(stack):
        found += [f"{name} in {place}" for name, secret in stack.secrets.items() if secret in text]
    assert found == []


def test_a_killed_supervisor_leaves_nothing_after_stop(stack):
    supervisor = json.loads((stack.folder / "lock").read_text())["pid"]
    os.kill(supervisor, signal.SIGKILL)
    stopped = stack.type("stop")
    assert (stopped.returncode, stopped.stdout) == (0, "Stopped.\n"), stopped.stderr
    assert _alive(stack) == []
    assert is_free(stack.folder / "lock")
    assert _sockets(stack) == []


def test_stop_without_a_stack_says_so(stack):
    assert stack.type("stop").stdout == "No stack runs here.\n"


def test_the_next_start_finds_everything_again_and_stop_leaves_nothing(stack):
    passwords = stack.secrets
    started = stack.type("start")
    assert started.returncode == 0, started.stdout + started.stderr
    assert stack.secrets == passwords
    assert stack.production() == "1"
    assert stack.type("stop").stdout == "Stopped.\n"
    assert _alive(stack) == []
    assert _sockets(stack) == []


def test_a_broken_file_of_passwords_is_named(tmp_path, stack):
    broken = Stack(stack.root, tmp_path / FOLDER)
    broken.folder.mkdir(parents=True)
    (broken.folder / "server.json").write_text("[")
    started = broken.type("start")
    assert started.returncode == 1
    assert started.stderr.startswith("error: ") and "server.json is broken" in started.stderr
    assert "Traceback" not in started.stderr
    assert _alive(broken) == []


def _all_that_is_kept(stack):
    """Pairs of a place and its text: whatever the stack and the project have written."""
    vault = {"env", "server.json", "s3.json", "mlflow-auth.ini"}
    for top in (stack.folder, stack.root):
        for path in sorted(top.rglob("*")):
            relative = path.relative_to(top)
            if path.is_file() and not path.is_symlink() and str(relative) not in vault:
                yield path, path.read_bytes().decode("latin-1")
    yield from _databases(stack)
    yield from _objects(stack)
    command = ["git", "cat-file", "--batch-all-objects", "--batch"]
    held = subprocess.run(command, cwd=stack.root, capture_output=True, check=True)
    yield "git", held.stdout.decode("latin-1")


def _databases(stack):
    port = json.loads((stack.folder / "server.json").read_text())["ports"]["postgres"]
    for name in ("mlflow", "prefect"):
        dumped = subprocess.run(
            [require_postgres() / "pg_dump", "-h", "127.0.0.1", "-p", str(port), "-U", name, name],
            env={**os.environ, "PGPASSWORD": stack.secrets[f"postgres_{name}"]},
            capture_output=True,
            text=True,
            check=True,
        )
        assert len(dumped.stdout) > 10_000
        yield f"database {name}", dumped.stdout


def _objects(stack):
    client = stack.s3("admin", stack.secrets["s3_admin"])
    for bucket in ("instar", "mlflow"):
        listed = client.list_objects_v2(Bucket=bucket)
        assert listed["Contents"] and not listed["IsTruncated"]
        for item in listed["Contents"]:
            body = client.get_object(Bucket=bucket, Key=item["Key"])["Body"].read()
            yield f"s3://{bucket}/{item['Key']}", body.decode("latin-1")


def _sockets(stack):
    """What SeaweedFS leaves in /tmp of this stack's ports."""
    ports = json.loads((stack.folder / "server.json").read_text())["ports"]
    s3 = (f"-{ports['s3']}.sock", f"-{ports['filer']}.sock")
    return [path.name for path in Path("/tmp").glob("seaweedfs-*") if path.name.endswith(s3)]


def _alive(stack):
    """Processes that speak of the stack's folder, in arguments or environment, or work in it."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            told = (place / "cmdline").read_bytes() + (place / "environ").read_bytes()
            told += os.readlink(place / "cwd").encode()
        except OSError:
            continue
        if str(stack.folder).encode() in told and int(place.name) != os.getpid():
            found.append(told[:200])
    return found
