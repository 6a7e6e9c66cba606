"""Commands on registered versions of a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from flows.cli.app import GATE_SAID_NO, JsonFlag, app, put_out, say_interrupted

NameArgument = Annotated[
    str | None,
    typer.Argument(metavar="NAME", help="The registered model; this checkout's if left out."),
]
VersionArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="[NAME@]VERSION",
        help="A version by number or alias: 3, @production, NAME@3. Left out: this checkout's "
        "model, and the version in Production.",
    ),
]


@app.command(epilog="Example:  instar models")
def models(
    name: NameArgument = None,
    as_json: JsonFlag = False,
) -> None:
    """List the versions of a model and where they stand."""
    from flows.commands.promote import show_models
    from tasks.promotion.history import versions
    from tasks.registry.model_references import model_named

    put_out(versions(Path.cwd(), model_named(name, Path.cwd())), as_json, show_models)


@app.command(epilog="Example:  instar promote 4 --to Production")
def promote(
    reference: Annotated[
        str,
        typer.Argument(
            metavar="[NAME@]VERSION",
            help="By number or alias: 4, @challenger, NAME@4; of this checkout's model if it "
            "names none.",
        ),
    ],
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
    from flows.commands.promote import act, told
    from tasks.registry.model_references import version_named

    reference = version_named(reference, Path.cwd(), default=None)
    done = act(Path.cwd(), reference, to, None if to else approve, reason, override)
    print(json.dumps(done) if as_json else told(done))
    if done["outcome"] == "refused":
        raise typer.Exit(GATE_SAID_NO)


@app.command(epilog='Example:  instar rollback --reason "wrong on bags"')
def rollback(
    name: NameArgument = None,
    reason: Annotated[str, typer.Option(help="Why; the promotion log keeps it.")] = "",
    as_json: JsonFlag = False,
) -> None:
    """Put the former Production version back.

    Again: the one before that. The gate will not promote by itself what was rolled back.
    """
    import dataclasses

    from flows.commands.promote import told
    from tasks.promotion.decisions import rollback as roll_back
    from tasks.registry.model_references import model_named

    name = model_named(name, Path.cwd())
    done = dataclasses.asdict(roll_back(Path.cwd(), name, reason))
    print(json.dumps(done) if as_json else told(done))


@app.command(epilog="Example:  instar history --at 2026-01-31")
def history(
    name: NameArgument = None,
    at: Annotated[
        str | None, typer.Option(help="A day, or a moment: what stood where then (UTC).")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Show who moved which version, when and why."""
    from flows.commands.promote import show_history
    from tasks.promotion.history import history as history_of
    from tasks.registry.model_references import model_named

    put_out(history_of(Path.cwd(), model_named(name, Path.cwd()), at), as_json, show_history)


@app.command(epilog="Example:  instar lineage @3")
def lineage(
    version: VersionArgument = None,
    picture: Annotated[
        Path | None, typer.Option(metavar="FILE.png|.svg", help="Draw it into this file.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Show what made a model version.

    Code, settings, data, labels, runs, machine, weights, verdict, and where to see each.
    """
    from flows.commands.lineage import show
    from tasks.registry.lineage import ancestry
    from tasks.registry.model_references import version_named

    found = ancestry(version_named(version, Path.cwd()), Path.cwd())
    if picture is not None:
        from tasks.registry.lineage_plot import draw

        draw(found, picture)
    put_out(found, as_json, show)
    if picture is not None and not as_json:
        print(f"Picture: {picture}")


@app.command(epilog="Example:  instar reproduce --full")
def reproduce(
    version: VersionArgument = None,
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
    from flows.commands.reproduce import reproduce_here, show
    from tasks.registry.model_references import version_named

    if full and start is not None:
        raise typer.BadParameter("--full starts at prepare: give one of --full and --from")
    version = version_named(version, Path.cwd())
    try:
        result = reproduce_here(
            Path.cwd(), version, "prepare" if full else start, keep, record, quiet=as_json
        )
    except KeyboardInterrupt:
        say_interrupted("Nothing is recorded; the same command starts again.")
    put_out(result, as_json, show)
    if result["verdict"] == "differs":
        raise typer.Exit(1)


@app.command(
    epilog="Example:  instar predict instar-fashion-mnist@production --input new/ "
    "--output labels.parquet"
)
def predict(
    place: Annotated[
        str, typer.Option("--input", "-i", help="Folder, .tar, .zip or s3://bucket/prefix.")
    ],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="FILE.parquet|.csv", help="The table to write."),
    ],
    version: VersionArgument = None,
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
    from flows.commands.predict import predict_all, show
    from tasks.registry.model_references import version_named

    version = version_named(version, Path.cwd())
    result = predict_all(version, place, output, batch_size, probabilities)
    put_out(result, as_json, show)


@app.command(epilog="Example:  instar export instar-fashion-mnist@production --to weights --onnx")
def export(
    to: Annotated[Path, typer.Option(help="The folder to write, new or empty.")],
    version: VersionArgument = None,
    onnx: Annotated[bool, typer.Option("--onnx", help="Also the whole classifier.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Write a version's weights for use elsewhere.

    The encoder as safetensors (for timm, where it is timm's); with --onnx the whole classifier as
    ONNX, held to torch's answers.
    """
    from flows.commands.export import export_version, show
    from tasks.registry.model_references import version_named

    result = export_version(version_named(version, Path.cwd()), to, onnx)
    print(json.dumps(result, indent=2) if as_json else show(result))
