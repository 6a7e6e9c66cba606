"""The `instar` command. Everything heavy is imported inside the commands: help must be instant."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
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

VERSION_HELP = "A registered version by number or alias: NAME@3, NAME@production."
JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
VersionArgument = Annotated[
    str, typer.Argument(metavar="NAME@VERSION", help="NAME@3 or NAME@production.")
]
PoolOption = Annotated[str, typer.Option(help="The Prefect work pool.")]


class StartWhen(StrEnum):
    """What `instar watch` starts a run for; see `tasks.watching.Start`."""

    changed = "changed"
    drifted = "drifted"


@app.command(epilog="Example:  instar run --preset cifar10 -S finetune.label_fraction=0.05")
def run(
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", "-S", metavar="KEY=VALUE", help="Edit params.yaml first."),
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="Merge examples/NAME.yaml into params.yaml first.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for a run that is going on.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Retrain here, from the images to the gate.

    Stages: prepare, pretrain, finetune, evaluate; then register and gate.

    What did not change is not computed again. Exit status 3: the gate refused the new model.
    """
    from flows.here import run_here

    result = run_here(Path.cwd(), assignments or [], preset, wait, quiet=as_json)
    if as_json:
        print(json.dumps(result, indent=2))
    else:
        from rich.console import Console

        from flows.summary import show

        show(result, Console())
    if result["gate"]["outcome"] == "refused":
        raise typer.Exit(GATE_SAID_NO)


@app.command("set", epilog="Example:  instar set pretrain.epochs=20 data.source=cifar10")
def set_(
    assignments: Annotated[list[str], typer.Argument(metavar="KEY=VALUE...")],
) -> None:
    """Change params.yaml, if the result is valid.

    Comments stay; nothing is written unless the whole file is valid.
    """
    from flows.settings import change_settings

    changes = change_settings(Path.cwd(), assignments)
    print("\n".join(changes) or "params.yaml has these values already.")
    if changes:
        print("Next: instar run")


@app.command(epilog="Example:  instar check")
def check(as_json: JsonFlag = False) -> None:
    """Validate params.yaml and say what would run."""
    from flows.steps import require_project
    from tasks.lineage import untracked_code
    from tasks.params import load_params
    from tasks.presence import require_presence
    from tasks.runner import planned_stages
    from tasks.workspace import locked

    root = Path.cwd()
    require_project(root)
    require_presence(load_params(root / "params.yaml"), root)
    if not as_json:
        print("params.yaml is valid.", flush=True)
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


@app.command(epilog="Example:  instar params > docs/params.md")
def params() -> None:
    """Print the reference of all settings (Markdown)."""
    from tasks.params import reference

    print(reference(), end="")


@app.command(epilog="Example:  instar ui   (then open the printed addresses)")
def ui(
    browser: Annotated[
        bool, typer.Option("--browser/--no-browser", help="Open both pages in a browser.")
    ] = False,
) -> None:
    """Open MLflow's and Prefect's own UIs.

    They show this checkout's databases, on loopback only, until Ctrl-C.
    """
    from flows.here import show_uis

    show_uis(Path.cwd(), browser)


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
    from flows.comparing import compare_here, show

    result = compare_here(
        Path.cwd(), methods, vary or [], seeds, assignments or [], at_once, quiet=as_json
    )
    if as_json:
        print(json.dumps(result, indent=2))
    else:
        from rich.console import Console

        show(result, Console())
    if any(cell["reason"] is not None for cell in result["cells"]):
        raise typer.Exit(1)


@app.command(epilog='Example:  instar schedule --cron "0 3 * * *" --timezone Europe/Berlin')
def schedule(
    cron: Annotated[str, typer.Option(help='Minute hour day month weekday: "0 3 * * *".')],
    name: Annotated[str, typer.Option(help="Name of the deployment.")] = "scheduled",
    timezone: Annotated[str, typer.Option(help="Time zone of the cron line.")] = "UTC",
    work_pool: PoolOption = "instar",
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", "-S", metavar="KEY=VALUE", help="A setting of these runs alone."),
    ] = None,
) -> None:
    """Retrain on a schedule.

    Creates a Prefect deployment that `instar worker` serves. A run trains nothing if code, settings
    and data are those of a run before. More deployments: prefect.yaml.
    """
    from flows.servers import PrefectServer
    from flows.settings import require_valid
    from flows.steps import require_project

    root = Path.cwd()
    require_project(root)
    require_valid(root, assignments or [])
    with PrefectServer(root) as server:
        # Prefect reads its settings at import: not before the server's address is known.
        from flows.scheduling import create_schedule, cron_schedule

        when = cron_schedule(cron, timezone)
        server.wait()
        full_name = create_schedule(root, when, name, work_pool, assignments or [])
    pool = "" if work_pool == "instar" else f" --work-pool {work_pool}"
    print(f"{full_name} runs at '{cron}' ({timezone}), each time on HEAD in a worktree of its own.")
    print(f"Next: instar worker{pool}   (keep it running; a schedule fires only while it does)")


@app.command(epilog='Example:  instar watch --once   or   instar watch --cron "*/15 * * * *"')
def watch(
    once: Annotated[bool, typer.Option("--once", help="Look now, start nothing.")] = False,
    cron: Annotated[str, typer.Option(help='When to look: "*/15 * * * *".')] = "",
    start: Annotated[
        StartWhen, typer.Option(help="What starts a run: any change, or drift of new images.")
    ] = StartWhen.changed,
    alpha: Annotated[
        float, typer.Option(min=0.005, max=0.2, help="False alarms of the drift test.")
    ] = 0.01,
    sample: Annotated[
        int, typer.Option(min=50, max=5000, help="Images of each side that it compares at most.")
    ] = 1000,
    settle: Annotated[
        float, typer.Option(min=0, help="Seconds that the data must rest before a run starts.")
    ] = 60.0,
    name: Annotated[str, typer.Option(help="Name of the deployment.")] = "data",
    timezone: Annotated[str, typer.Option(help="Time zone of the cron line.")] = "UTC",
    work_pool: PoolOption = "instar",
    as_json: JsonFlag = False,
) -> None:
    """See whether the data changed, and drifted.

    Compared are those of the last registered run. With --cron, a Prefect deployment that `instar
    worker` serves looks again and again, and starts one retraining for each new state of the data.
    """
    from flows.steps import require_project

    if once == bool(cron):
        raise typer.BadParameter("give either --once or --cron.")
    root = Path.cwd()
    require_project(root)
    if once:
        from tasks.watching import look

        report = look(root, alpha, sample)
        if as_json:
            print(json.dumps(report.as_dict(), indent=2))
        else:
            from rich.console import Console

            from flows.watch_page import show

            show(report, Console())
        return
    from flows.servers import PrefectServer

    with PrefectServer(root) as server:
        # Prefect reads its settings at import: not before the server's address is known.
        from flows.scheduling import cron_schedule

        when = cron_schedule(cron, timezone)
        server.wait()
        from flows.watch import create_watch

        options = {"start": start.value, "alpha": alpha, "sample": sample, "settle": settle}
        full_name = create_watch(root, when, name, work_pool, **options)
    if as_json:
        print(json.dumps({"deployment": full_name, "cron": cron, "timezone": timezone, **options}))
        return
    pool = "" if work_pool == "instar" else f" --work-pool {work_pool}"
    print(f"{full_name} looks at '{cron}' ({timezone}); {start.value} data start one retraining.")
    print(f"Next: instar worker{pool}   (keep it running; a schedule fires only while it does)")


@app.command(epilog="Example:  instar worker &")
def worker(work_pool: PoolOption = "instar") -> None:
    """Serve the scheduled runs until Ctrl-C."""
    from flows.servers import PrefectServer
    from flows.steps import require_project

    root = Path.cwd()
    require_project(root)
    with PrefectServer(root) as server:
        from flows.scheduling import serve

        server.wait()
        print(f"Serving work pool {work_pool!r}. Prefect UI: {server.ui}", flush=True)
        print("Lines of the worker: .instar/logs/worker.log. Ctrl-C ends it.", flush=True)
        raise typer.Exit(serve(root, work_pool, server))


@app.command(
    epilog="Example:  instar predict instar-fashion-mnist@production --input new/ "
    "--output labels.parquet"
)
def predict(
    version: Annotated[str, typer.Argument(metavar="NAME@VERSION", help=VERSION_HELP)],
    place: Annotated[
        str, typer.Option("--input", "-i", help="Folder, .tar, .zip or s3://bucket/prefix.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The Parquet file to write.")],
    batch_size: Annotated[int, typer.Option(min=1, help="Images in memory at once.")] = 256,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Add a column for each class.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Label images by a registered version.

    Needs no checkout: MLFLOW_TRACKING_URI says where the version is (AWS_* and AWS_ENDPOINT_URL_S3
    where the images are in a bucket). Killed and started again, it goes on where it was.
    """
    from flows.predicting import predict_all, show

    result = predict_all(version, place, output, batch_size, probabilities)
    if as_json:
        print(json.dumps(result, indent=2))
    else:
        from rich.console import Console

        show(result, Console())


@app.command(epilog="Example:  instar export instar-fashion-mnist@production --to weights --onnx")
def export(
    version: Annotated[str, typer.Argument(metavar="NAME@VERSION", help=VERSION_HELP)],
    to: Annotated[Path, typer.Option(help="The folder to write, new or empty.")],
    onnx: Annotated[bool, typer.Option("--onnx", help="Also the whole classifier.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Write a version's weights for use elsewhere.

    The encoder as safetensors (for timm, where it is timm's); with --onnx the whole classifier as
    ONNX, held to torch's answers.
    """
    from flows.exporting import export_version, show

    result = export_version(version, to, onnx)
    print(json.dumps(result, indent=2) if as_json else show(result))


@app.command(epilog="Example:  instar doctor")
def doctor(as_json: JsonFlag = False) -> None:
    """Check the installation, the servers and what runs left.

    Exit status 1 if something is wrong; each line says how to mend it.
    """
    from flows.doctor import examine, show

    result = examine(Path.cwd())
    if as_json:
        print(json.dumps(result, indent=2))
    else:
        from rich.console import Console

        show(result, Console())
    if not result["well"]:
        raise typer.Exit(1)


@app.command(epilog="Example:  instar sync")
def sync(
    everything: Annotated[
        bool, typer.Option("--all", help="Also what MLflow had and has lost since.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Deliver to MLflow and the DVC remote what they missed.

    Then the models that waited for either are registered and judged. With --all, runs that MLflow
    lost (a wiped database) are rebuilt from journals and DVC's cache.
    """
    from flows.catching_up import catch_up, show
    from tasks.errors import TaskError

    result = catch_up(Path.cwd(), everything)
    print(json.dumps(result) if as_json else show(result))
    if result["left"]:
        raise TaskError(" ".join(dict.fromkeys(result["left"].values())))


@app.command(epilog="Example:  instar lineage instar-fashion-mnist@production")
def lineage(
    version: VersionArgument,
    picture: Annotated[
        Path | None, typer.Option(metavar="FILE.png|.svg", help="Draw it into this file.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Show what made a model version.

    Code, settings, data, labels, runs, machine, weights, verdict, and where to see each.
    """
    from flows.descent import show
    from tasks.ancestry import ancestry

    found = ancestry(version, Path.cwd())
    if picture is not None:
        from tasks.family_tree import draw

        draw(found, picture)
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        from rich.console import Console

        show(found, Console())
        if picture is not None:
            print(f"Picture: {picture}")


@app.command(epilog="Example:  instar reproduce instar-fashion-mnist@production --full")
def reproduce(
    version: VersionArgument,
    full: Annotated[
        bool, typer.Option("--full", help="Compute all stages, from the raw data on.")
    ] = False,
    start: Annotated[
        str | None,
        typer.Option("--from", metavar="STAGE", help="Compute from this stage on [finetune]."),
    ] = None,
    keep: Annotated[Path | None, typer.Option(metavar="DIR", help="Keep the clone, there.")] = None,
    record: Annotated[
        bool, typer.Option("--record/--no-record", help="Write the verdict on the version.")
    ] = True,
    as_json: JsonFlag = False,
) -> None:
    """Make a model version again, and compare.

    In a clone at its git tag, with nothing but the DVC remote. Exit status 1: it differs.
    """
    from flows.reproducing import reproduce_here, show

    if full and start is not None:
        raise typer.BadParameter("--full starts at prepare: give one of --full and --from")
    try:
        result = reproduce_here(
            Path.cwd(), version, "prepare" if full else start, keep, record, quiet=as_json
        )
    except KeyboardInterrupt:
        _say_interrupted("Nothing is recorded; the same command begins anew.")
    if as_json:
        print(json.dumps(result, indent=2))
    else:
        from rich.console import Console

        show(result, Console())
    if result["verdict"] == "differs":
        raise typer.Exit(1)


@app.command(epilog="Example:  instar models")
def models(
    name: Annotated[
        str | None, typer.Argument(help="The registered model; this project's if left out.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """List the versions of a model and where they stand."""
    from flows.promotion import show_models
    from tasks.promotion import versions

    _print(versions(Path.cwd(), name), as_json, show_models)


@app.command(epilog="Example:  instar promote instar@4 --to Production")
def promote(
    reference: Annotated[str, typer.Argument(metavar="NAME@VERSION")],
    to: Annotated[str | None, typer.Option("--to", help="Staging, Production or Archived.")] = None,
    approve: Annotated[
        bool, typer.Option("--approve", help="Let a version that waits for a human in.")
    ] = False,
    reject: Annotated[
        bool, typer.Option("--reject", help="Archive it; the gate will not promote it again.")
    ] = False,
    reason: Annotated[str, typer.Option(help="Why; the promotion log keeps it.")] = "",
    override: Annotated[
        bool, typer.Option("--override", help="Into Production against the gate.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Move a version to another stage.

    Production asks the gate first. Exit status 3: it refused.
    """
    if (to is not None) + approve + reject != 1:
        raise typer.BadParameter("say one of --to STAGE, --approve and --reject.")
    if override and (to or "").lower() != "production":
        raise typer.BadParameter("--override goes with --to Production: there the gate is asked.")
    if not reason.strip() and (approve or reject or override):
        raise typer.BadParameter("say why with --reason: the promotion log keeps it.")
    from flows.promotion import act, told

    done = act(Path.cwd(), reference, to, None if to else approve, reason, override)
    print(json.dumps(done) if as_json else told(done))
    if done["outcome"] == "refused":
        raise typer.Exit(GATE_SAID_NO)


@app.command(epilog='Example:  instar rollback instar --reason "wrong on bags"')
def rollback(
    name: Annotated[str, typer.Argument(help="The registered model.")],
    reason: Annotated[str, typer.Option(help="Why; the promotion log keeps it.")] = "",
    as_json: JsonFlag = False,
) -> None:
    """Put the former Production version back.

    Again: the one before that. The gate will not promote by itself what was rolled back.
    """
    import dataclasses

    from flows.promotion import told
    from tasks.promotion import rollback as roll_back

    done = dataclasses.asdict(roll_back(Path.cwd(), name, reason))
    print(json.dumps(done) if as_json else told(done))


@app.command(epilog="Example:  instar history instar --at 2026-01-31")
def history(
    name: Annotated[str, typer.Argument(help="The registered model.")],
    at: Annotated[
        str | None, typer.Option(help="A day, or a moment: what stood where then (UTC).")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Tell who moved which version, when and why."""
    from flows.promotion import show_history
    from tasks.promotion import history as history_of

    _print(history_of(Path.cwd(), name, at), as_json, show_history)


def _print(result: dict[str, Any], as_json: bool, show: Callable[..., None]) -> None:
    if as_json:
        print(json.dumps(result, indent=2))
        return
    from rich.console import Console

    show(result, Console())


def main() -> None:
    """Entry point: every problem a user can solve ends in one message and an exit status."""
    from tasks.errors import explain

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
            _say_interrupted()
        _leave(end.code)


def _fail(message: str) -> None:
    print(f"error: {message}", file=sys.stderr)
    _leave(1)


def _leave(status: Any) -> None:
    servers = sys.modules.get("flows.servers")
    if servers is not None and servers.PrefectServer.lost:
        sys.stdout.flush()
        sys.stderr.flush()
        # Not sys.exit: Prefect's threads would wait for their server, which is gone.
        os._exit(status or 0)
    sys.exit(status)


def _say_interrupted(
    kept: str = "Finished stages and the last checkpoint are kept; the same command goes on "
    "from there.",
) -> NoReturn:
    print(f"\nInterrupted. {kept}", file=sys.stderr, flush=True)
    # Not sys.exit: Prefect's threads would wait for their server, which is gone.
    os._exit(INTERRUPTED)


if __name__ == "__main__":
    main()
