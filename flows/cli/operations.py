"""Commands that keep retraining going: schedules, the worker, its pages and its repairs."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from flows.cli.app import JsonFlag, app, put_out

PoolOption = Annotated[str, typer.Option(help="The Prefect work pool.")]


class StartWhen(StrEnum):
    """What `instar watch` starts a run for; see `tasks.monitoring.data_watch.Start`."""

    changed = "changed"
    drifted = "drifted"


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
    as_json: JsonFlag = False,
) -> None:
    """Retrain on a schedule.

    Creates a Prefect deployment that `instar worker` serves. A run trains nothing if code, settings
    and data are those of a run before. More deployments: prefect.yaml.
    """
    from flows.orchestration.cron import read_cron
    from flows.orchestration.servers import PrefectServer
    from tasks.execution.preflight import require_project
    from tasks.settings.editing import require_valid

    root, when = Path.cwd(), read_cron(cron, timezone)
    require_project(root)
    require_valid(root, assignments or [])
    with PrefectServer(root) as server:
        # Prefect reads its settings at import: not before the server's address is known.
        from flows.retrain import create_schedule

        times = when.next_times()
        server.wait()
        full_name = create_schedule(root, when, name, work_pool, assignments or [])
    if as_json:
        print(json.dumps({"deployment": full_name, **when.as_dict(times)}))
        return
    how = f"'{when.line}' ({timezone})"
    print(f"{full_name} runs at {how}, each time on HEAD in a worktree of its own.")
    print(when.told(times))
    _say_worker(work_pool)


@app.command(epilog='Example:  instar watch --once   or   instar watch --cron "*/15 * * * *"')
def watch(
    once: Annotated[bool, typer.Option("--once", help="Look now, start nothing.")] = False,
    cron: Annotated[str | None, typer.Option(help='When to look: "*/15 * * * *".')] = None,
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
    from flows.orchestration.cron import read_cron
    from tasks.execution.preflight import require_project

    if once == (cron is not None):
        raise typer.BadParameter("give either --once or --cron.")
    root = Path.cwd()
    when = None if cron is None else read_cron(cron, timezone)
    require_project(root)
    if when is None:
        from flows.commands.watch import show
        from tasks.monitoring.data_watch import look

        report = look(root, alpha, sample)
        put_out(report.as_dict(), as_json, lambda _, console: show(report, console))
        return
    from flows.orchestration.servers import PrefectServer

    with PrefectServer(root) as server:
        # Prefect reads its settings at import: not before the server's address is known.
        from flows.watch import create_watch

        times = when.next_times()
        server.wait()

        options = {"start": start.value, "alpha": alpha, "sample": sample, "settle": settle}
        full_name = create_watch(root, when, name, work_pool, **options)
    if as_json:
        print(json.dumps({"deployment": full_name, **when.as_dict(times), **options}))
        return
    how = f"'{when.line}' ({timezone})"
    print(f"{full_name} looks at {how}; {start.value} data start one retraining.")
    print(when.told(times))
    _say_worker(work_pool)


@app.command(epilog="Example:  instar worker &")
def worker(work_pool: PoolOption = "instar") -> None:
    """Serve the scheduled runs until Ctrl-C."""
    from flows.orchestration.servers import PrefectServer
    from tasks.execution.preflight import require_project

    root = Path.cwd()
    require_project(root)
    with PrefectServer(root) as server:
        from flows.orchestration.deployments import serve

        server.wait()
        print(f"Serving work pool {work_pool!r}. Prefect UI: {server.ui}", flush=True)
        print("Lines of the worker: .instar/logs/worker.log. Ctrl-C ends it.", flush=True)
        raise typer.Exit(serve(root, work_pool, server))


@app.command(epilog="Example:  instar ui   (then open the printed addresses)")
def ui(
    browser: Annotated[
        bool, typer.Option("--browser/--no-browser", help="Open both pages in a browser.")
    ] = False,
) -> None:
    """Open MLflow's and Prefect's own UIs.

    They show this checkout's databases, on loopback only, until Ctrl-C.
    """
    from flows.commands.run import show_uis

    show_uis(Path.cwd(), browser)


@app.command(epilog="Example:  instar doctor")
def doctor(as_json: JsonFlag = False) -> None:
    """Check the installation, the servers and what runs left.

    Exit status 1 if something is wrong; each line says how to fix it.
    """
    from flows.commands.doctor import examine, show

    result = examine(Path.cwd())
    put_out(result, as_json, show)
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
    from flows.commands.sync import catch_up, show
    from tasks.errors import TaskError

    result = catch_up(Path.cwd(), everything)
    print(json.dumps(result) if as_json else show(result))
    if result["left"]:
        raise TaskError(" ".join(dict.fromkeys(result["left"].values())))


def _say_worker(work_pool: str) -> None:
    pool = "" if work_pool == "instar" else f" --work-pool {work_pool}"
    print(f"Next: instar worker{pool}   (keep it running; a schedule fires only while it does)")
