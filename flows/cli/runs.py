"""Commands that set up, start and compare runs in this checkout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from flows.cli.app import GATE_SAID_NO, JsonFlag, app, put_out
from tasks.errors import TaskError

PresetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--preset", help="Merge examples/NAME.yaml into params.yaml first; several in their order."
    ),
]


@app.command(epilog="Example:  instar run --preset cifar10 -S finetune.label_fraction=0.05")
def run(
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", "-S", metavar="KEY=VALUE", help="Edit params.yaml first."),
    ] = None,
    preset: PresetOption = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for a run that is going on.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Retrain here, from the images to the gate.

    Stages: prepare, pretrain, finetune, evaluate; then register and gate.

    What did not change is not computed again. Exit status 3: the gate refused the new model.
    """
    from flows.commands.run import run_here

    result = run_here(Path.cwd(), assignments or [], preset or [], wait, quiet=as_json)
    from flows.commands.run_summary import show

    put_out(result, as_json, show)
    if result["gate"]["outcome"] == "refused":
        raise typer.Exit(GATE_SAID_NO)


@app.command("set", epilog="Example:  instar set --preset methods/mae pretrain.epochs=20")
def set_(
    assignments: Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE...")] = None,
    preset: PresetOption = None,
) -> None:
    """Change params.yaml, if the result is valid.

    Comments stay; nothing is written unless the whole file is valid.
    """
    from tasks.settings.editing import change_settings

    if not (assignments or preset):
        raise TaskError("nothing to set: give KEY=VALUE, or --preset NAME.")
    changes = change_settings(Path.cwd(), assignments or [], preset or [])
    print("\n".join(changes) or "params.yaml has these values already.")
    if changes:
        print("Next: instar run")


@app.command(epilog="Example:  instar check")
def check(as_json: JsonFlag = False) -> None:
    """Validate params.yaml and say what would run.

    Settings that do not fit the data are refused, all in one message with values that do.
    """
    from flows.orchestration.cron import require_planned
    from tasks.execution.preflight import require_project
    from tasks.execution.stage_runner import planned_stages
    from tasks.execution.workspace import locked
    from tasks.settings.data_path import require_presence
    from tasks.settings.fitness import require_fitting_here
    from tasks.settings.loading import load_params
    from tasks.settings.project_files import require_merged
    from tasks.versioning.git import untracked_code

    root = Path.cwd()
    require_project(root)
    require_merged(root)
    require_presence(load_params(root / "params.yaml"), root)
    require_planned(root)
    fits = require_fitting_here(root)
    if not as_json:
        print("params.yaml is valid.", flush=True)
        if not fits:
            print("The data are still to be fetched: whether the settings fit them is not known.")
    untracked = untracked_code(root)
    # DVC plans nothing beside a stage that runs; and a run that starts now must find DVC free.
    with locked(root, what="instar check"):
        planned = planned_stages(root)
    if as_json:
        print(json.dumps({"valid": True, "planned": planned, "untracked_code": untracked}))
        return
    if planned:
        print(f"To compute (or to restore from DVC's cache): {', '.join(planned)}")
    else:
        print("Nothing to compute: all stages are up to date.")
    if untracked:
        print(f"Before a model can be registered, `git add` this code: {', '.join(untracked)}")
    print("Next: instar run")


@app.command(epilog="Example:  instar params > docs/reference/params.md")
def params() -> None:
    """Print the reference of all settings (Markdown)."""
    from tasks.settings.reference import reference

    print(reference(), end="")


@app.command(
    epilog="Example:  instar compare --vary pretrain.epochs=5,20 --vary pretrain.batch_size=128,256"
)
def compare(
    methods: Annotated[
        str | None, typer.Option(help="Methods: short for --vary pretrain.method.name=….")
    ] = None,
    vary: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=V1,V2", help="A setting and its values; all combinations run."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds of each variant, from 0 on.")] = 3,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", "-S", metavar="KEY=VALUE", help="A setting of all cells."),
    ] = None,
    at_once: Annotated[
        int | None, typer.Option(min=1, help="Cells side by side [what the machine allows].")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Compare methods, or any settings, over seeds.

    Each cell runs on HEAD in a worktree of its own and becomes a DVC experiment; nothing is
    registered. Exit status 1 if a cell failed: the others are kept, and stand in the leaderboard.
    """
    from flows.commands.compare import compare_here, show

    result = compare_here(
        Path.cwd(), methods, vary or [], seeds, assignments or [], at_once, quiet=as_json
    )
    put_out(result, as_json, show)
    if any(cell["reason"] is not None for cell in result["cells"]):
        raise typer.Exit(1)
