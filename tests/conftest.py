"""What all tests need."""

import signal
import sys

import pytest

# A shell's background job ignores Ctrl-C, and so would every process that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish():
    """Prefect reads its settings once, at its import: tests on servers of their own come first."""
    if "prefect" in sys.modules:
        raise pytest.UsageError("a test module imports Prefect: do it in the test")
