"""Real servers on loopback that tests start, kill and start again."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request

from flows.stack import seaweedfs


def wait_until(happens, seconds=120):
    """Returns once `happens()` is true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if happens():
            return
        time.sleep(0.1)
    raise AssertionError("it did not happen in time")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """A server process with all its children; `kill` gives it no time to say goodbye.

    It may be used as a context manager, which starts and kills it.
    """

    def __init__(self, command, address, health, env=None):
        self.command = command
        self.address = address
        self.health = health
        self.env = {**os.environ, **(env or {})}
        self.process = None

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.kill()

    def start(self):
        self.launch()
        wait_until(self.answers)

    def launch(self):
        self.process = subprocess.Popen(
            self.command,
            env=self.env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def answers(self):
        try:
            return urllib.request.urlopen(self.health, timeout=2).status == 200
        except OSError:
            return False

    def kill(self):
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


def mlflow_server(database, artifacts, port=None):
    """MLflow's own server on a sqlite database."""
    port = port or free_port()
    address = f"http://127.0.0.1:{port}"
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port),
        "--workers", "1", "--backend-store-uri", f"sqlite:///{database}",
        "--artifacts-destination", str(artifacts),
    ]  # fmt: skip
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    return Server(command, address, f"{address}/health", quiet)


class ObjectStore(Server):
    """SeaweedFS' S3 server on a folder, with one bucket and one pair of keys.

    Attributes:
        keys: Who a client must be, as environment variables.
    """

    BUCKET = "instar"

    def __init__(self, folder):
        folder.mkdir(parents=True, exist_ok=True)
        self.keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
        users = folder / "s3.json"
        users.write_text(seaweedfs.users_file({"key": "secret"}, {"key": None}))
        self.ports = {name: low_port() for name in ("master", "volume", "filer", "s3")}
        address = f"http://127.0.0.1:{self.ports['s3']}"
        command = seaweedfs.server_command(folder, users, self.ports)
        super().__init__(command, address, f"{address}/healthz")

    def start(self):
        super().start()
        wait_until(lambda: seaweedfs.ensure_buckets(self.address, "key", "secret", (self.BUCKET,)))

    def kill(self):
        super().kill()
        seaweedfs.remove_sockets(self.ports)

    def client(self):
        import botocore.session
        from botocore.config import Config

        return botocore.session.Session().create_client(
            "s3",
            endpoint_url=self.address,
            region_name="us-east-1",
            aws_access_key_id="key",
            aws_secret_access_key="secret",
            config=Config(connect_timeout=5, read_timeout=30, retries={"max_attempts": 0}),
        )

    @property
    def reached(self):
        """What a client must know, the address too."""
        return {"AWS_ENDPOINT_URL_S3": self.address, **self.keys}

    def upload(self, folder, prefix):
        """Puts the files of a folder below a prefix; returns the address of that."""
        client = self.client()
        for path in folder.rglob("*"):
            if path.is_file():
                key = f"{prefix}/{path.relative_to(folder).as_posix()}"
                client.put_object(Bucket=self.BUCKET, Key=key, Body=path.read_bytes())
        return f"s3://{self.BUCKET}/{prefix}"

    def objects(self, prefix=""):
        """Names and sizes of all objects."""
        listed = self.client().list_objects_v2(Bucket=self.BUCKET, Prefix=prefix)
        return {found["Key"]: found["Size"] for found in listed.get("Contents", [])}

    def truncate(self, key):
        """Leaves the first half of an object, as if the store had lost the rest."""
        client = self.client()
        whole = client.get_object(Bucket=self.BUCKET, Key=key)["Body"].read()
        client.put_object(Bucket=self.BUCKET, Key=key, Body=whole[: len(whole) // 2])


def low_port():
    """A free port whose partner, 10,000 above, is free too: SeaweedFS uses both."""
    while True:
        port = free_port()
        with socket.socket() as probe, contextlib.suppress(OSError, OverflowError):
            if port < 55000:
                probe.bind(("127.0.0.1", port + 10000))
                return port
