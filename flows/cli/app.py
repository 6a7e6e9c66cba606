"""The `instar` application, and what its commands share."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Annotated, Any, NoReturn

import typer

app = typer.Typer(
    name="instar",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # rich's help alone costs more than the rest of the start
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Unlabelled data and 1% of labels in, a registered and reproducible model out.\n\n"
    "Start with `instar check`, then `instar run`, then `instar ui`.",
)

GATE_SAID_NO = 3
INTERRUPTED = 130

JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]


def put_out(result: dict[str, Any], as_json: bool, show: Callable[..., None]) -> None:
    """Print a command's result for a program or for a person."""
    if as_json:
        print(json.dumps(result, indent=2))
        return
    from flows.commands.tables import open_console

    show(result, open_console())


def say_interrupted(
    kept: str = "Finished stages and the last checkpoint are kept; the same command goes on "
    "from there.",
) -> NoReturn:
    """End the process after Ctrl-C, with what is kept."""
    print(f"\nInterrupted. {kept}", file=sys.stderr, flush=True)
    # Not sys.exit: Prefect's threads would wait for their server, which is gone.
    os._exit(INTERRUPTED)
