"""`instar worker` in the background, and what its log tells."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.e2e.tiny_project import environment


class Worker:
    """Serves the project's schedules while the block lasts, which ends it as Ctrl-C does."""

    def __init__(self, root: Path):
        self.root = root

    def __enter__(self):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "flows.cli", "worker"],
            cwd=self.root,
            env=environment(self.root),
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self.process.stdout.readline().startswith("Serving"), self.log()
        return self

    def __exit__(self, *_):
        os.killpg(self.process.pid, signal.SIGINT)
        self.process.communicate(timeout=60)

    def reach(self, what, happened):
        """Return once it happened; fail if the worker ends before, or it takes ten minutes."""
        deadline = time.monotonic() + 600
        while not happened():
            assert self.process.poll() is None, "the worker ended: " + self.log()[-4000:]
            assert time.monotonic() < deadline, f"{what}: " + self.log()[-4000:]
            time.sleep(1)

    def states(self):
        """By name, in which flow runs ended; `prefect flow-run ls` shows only their types."""
        return re.findall(r"Finished in state (\w+)", self.log())

    def log(self):
        """All that it has written."""
        path = self.root / ".instar" / "logs" / "worker.log"
        return path.read_text() if path.exists() else "(no worker.log)"
