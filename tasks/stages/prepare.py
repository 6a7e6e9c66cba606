"""Stage `prepare`: read, validate, de-duplicate, resize once, pack and split the images."""

from __future__ import annotations

from data.packing.pack import pack
from tasks.layout import STATE
from tasks.reporting.understood import understood
from tasks.stages.context import Stage, stage


def prepare(run: Stage) -> None:
    """Packs `data.path` into `artifacts/prepare/store`, the test labels apart from it.

    If too much is quarantined, the table of it is not an output: of a failed stage DVC keeps none.
    """
    table = STATE / "quarantine" / f"{run.key}.csv"
    summary = pack(run.params.data, run.out, run.progress, table)
    run.write_json("summary.json", summary.as_dict())
    for line in understood(summary.as_dict()):
        run.note(line)


if __name__ == "__main__":
    with stage("prepare") as run:
        prepare(run)
