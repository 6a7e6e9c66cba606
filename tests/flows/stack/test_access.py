"""Ports and passwords of a stack: its own, kept, and nobody else's."""

import os
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest

from flows.stack.access import open_access, write_private
from flows.stack.supervisor import _greeting
from tasks.errors import TaskError


@pytest.fixture
def here():
    with ExitStack() as stack:
        yield stack


def test_two_stacks_that_start_at_once_take_different_ports(tmp_path, here):
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
    first, second = (open_access(folder, here) for folder in folders)
    used = [
        {*access.ports.values(), *(access.ports[name] + 10000 for name in ("s3", "filer"))}
        for access in (first, second)
    ]
    assert not used[0] & used[1]


def test_a_stack_that_ended_leaves_its_ports_and_keeps_its_passwords(tmp_path):
    with ExitStack() as reserved:
        before = open_access(tmp_path, reserved)
    with ExitStack() as reserved:
        assert open_access(tmp_path, reserved) == before
    assert len(set(before.passwords.values())) == len(before.passwords)


def test_a_shell_that_sources_env_has_what_clients_need(tmp_path, here):
    access = open_access(tmp_path, here)
    shown = subprocess.run(
        ["bash", "-c", f"source {tmp_path}/env && env"], capture_output=True, text=True, check=True
    )
    for name, value in access.for_people().items():
        assert f"{name}={value}" in shown.stdout.splitlines()
    people = set(access.for_people().values())
    assert not people & {access.passwords["postgres"], access.passwords["mlflow_admin"]}


@pytest.mark.parametrize(
    "before", [{}, {"NO_PROXY": ".corp"}, {"NO_PROXY": "other", "no_proxy": ".corp"}]
)
def test_a_shell_that_sources_env_asks_no_proxy_for_the_stack(before, tmp_path, here):
    open_access(tmp_path, here)
    shown = subprocess.run(
        ["bash", "-uc", f"source {tmp_path}/env && echo $no_proxy && echo $NO_PROXY"],
        env={"PATH": os.environ["PATH"], **before}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    lower, upper = shown.stdout.splitlines()
    assert lower == upper
    assert {"127.0.0.1", "localhost", "::1"} <= set(lower.split(","))
    assert not before or lower.startswith(".corp,")


def test_a_private_file_is_private_though_there_was_an_open_one(tmp_path):
    path = tmp_path / "secret"
    path.write_text("old")
    path.chmod(0o666)
    write_private(path, "new")
    assert path.read_text() == "new"
    assert os.stat(path).st_mode & 0o777 == 0o600


def test_broken_passwords_are_named_and_not_replaced(tmp_path, here):
    (tmp_path / "server.json").write_text("{")
    with pytest.raises(TaskError, match=r"server.json is broken"):
        open_access(tmp_path, here)
    assert (tmp_path / "server.json").read_text() == "{"


def test_a_stack_below_the_checkout_names_its_files_as_one_types_them(tmp_path, here):
    access = open_access(tmp_path, here)
    assert "source .instar/stack/env " in _greeting(tmp_path, tmp_path / ".instar/stack", access)
    assert "source /srv/instar/env " in _greeting(tmp_path, Path("/srv/instar"), access)
