"""The `instar` command. Everything heavy is imported inside the commands: help must be instant."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

# Their order here is that of the help.
from flows.cli import runs, operations, versions  # noqa: F401  # isort: skip
from flows.cli.app import INTERRUPTED, app, say_interrupted


def main() -> None:
    """Entry point: every problem a user can solve ends in one message and an exit status."""
    from tasks.errors import explain
    from tasks.system.proxies import keep_loopback_direct
    from tasks.system.terminal import open_terminal

    open_terminal()
    keep_loopback_direct()
    # A machine that is taken away sends SIGTERM: an orderly end, as after Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        app()
    except Exception as error:
        message = explain(error, [Path.cwd()])
        if message is None:
            raise
        _fail(message)
    except SystemExit as end:
        # Typer turns Ctrl-C into this, after all `with` blocks have ended.
        if end.code == INTERRUPTED:
            say_interrupted()
        _leave(end.code)


def _fail(message: str) -> None:
    print(f"error: {message}", file=sys.stderr)
    _leave(1)


def _leave(status: Any) -> None:
    from tasks.system.terminal import close_terminal

    status = close_terminal(status)
    servers = sys.modules.get("flows.orchestration.servers")
    if servers is not None and servers.PrefectServer.lost:
        # Not sys.exit: Prefect's threads would wait for their server, which is gone.
        os._exit(status or 0)
    sys.exit(status)
