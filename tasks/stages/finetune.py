"""Stage `finetune`: learn the classes from few labels, pretrained and, as a control, from scratch.

Both arms get the same learner, labels and number of steps; they differ in the encoder that they
start from, and `finetune.control` may give the control settings that suit it better. Label draws
differ in their labels and their seed; in their seed alone where no more labels are there than
wanted.

What the served model is not sure enough of it does not answer: see `tasks.stages.abstention`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import torch

from data.randomness import keyed_seed
from data.store.packed_store import PackedStore
from data.store.splits import draw_labels
from tasks.evaluation.label_draws import label_overlap
from tasks.stages.abstention import ARM as REFIT
from tasks.stages.abstention import find_abstention, plan_refits
from tasks.stages.context import Stage, stage
from tasks.stages.hardware import machine
from tasks.stages.parallel_fits import PRETRAINED, STORE, Fit, Standing, fit_all

ARMS = ("pretrained", "scratch")


def finetune(run: Stage) -> None:
    """Fits every arm and draw, `finetune.workers` at a time."""
    params = run.params.finetune
    store = PackedStore.open(STORE)
    fits = list(_fits(run, store))
    # The first is the one that will be served.
    refits = plan_refits(fits[0], store) if params.abstain_target else []
    work = [*fits, *(refit.fit for refit in refits)]
    losses: dict[tuple[str, int], list[dict[str, Any]]] = {}
    total = sum(fit.steps for fit in work)

    def show(now: Standing) -> None:
        shown = f"step {now.step}/{now.fit.steps} · loss {now.loss:.2f}" if now.step else ""
        run.progress(f"{now.fit.arm}, draw {now.fit.draw + 1}", now.done, total, shown)

    run.progress("learning from labels", 0, total)
    for fit, rows in fit_all(work, params.workers, show, run.note):
        losses[fit.arm, fit.draw] = rows
        if fit.arm == REFIT:
            continue
        for row in rows:
            run.journal.metrics({f"{fit.arm}/loss_draw_{fit.draw + 1}": row["loss"]}, row["step"])
    run.progress("learned from labels", total, total)
    abstention = None
    if params.abstain_target:
        abstention = find_abstention(fits[0], refits, store, params.abstain_target)
    _describe(run, store, fits, abstention)
    history = [row for fit in fits for row in losses[fit.arm, fit.draw]]
    run.write_csv("history.csv", history)
    last = {f"{f.arm}_loss": losses[f.arm, f.draw][-1]["loss"] for f in fits if f.draw == 0}
    numbers = {**last, "label_overlap": label_overlap(_drawn(fits))}
    run.write_json("metrics.json", {name: round(value, 6) for name, value in numbers.items()})


def _fits(run: Stage, store: PackedStore) -> Iterator[Fit]:
    params = run.params.finetune
    rows = store.rows("train")
    labels = store.labels(rows)
    for draw in range(params.draws):
        drawn = rows[draw_labels(labels, params.label_fraction, params.seed, draw)]
        seed = keyed_seed(params.seed, "fit", draw)
        for arm in ARMS:
            yield Fit(arm, draw, seed, [int(row) for row in drawn], params, run.out, run.scratch)


def _drawn(fits: list[Fit]) -> list[list[int]]:
    return [fit.rows for fit in fits if fit.arm == ARMS[0]]


def _describe(
    run: Stage, store: PackedStore, fits: list[Fit], abstention: dict[str, Any] | None
) -> None:
    """learners.json: all that is needed to use the classifiers without this stage's settings."""
    pretrained = json.loads((PRETRAINED / "encoder.json").read_text())
    arms = {
        arm: [
            {"draw": f.draw, "seed": f.seed, "weights": f.weights, "rows": f.rows}
            for f in fits
            if f.arm == arm
        ]
        for arm in ARMS
    }
    params = run.params.finetune
    labelled = float((store.labels(store.rows("train")) >= 0).mean())
    described = {
        "classes": store.classes,
        **{name: pretrained[name] for name in ("encoder", "channels", "size", "mean", "std")},
        # Of what is there: where fewer images are labelled than wanted, it is their share.
        "label_fraction": min(params.label_fraction, labelled),
        "labels": len(fits[0].rows),
        "label_overlap": label_overlap(_drawn(fits)),
        "learner": params.learner.model_dump(mode="json"),
        "augmentation": params.augmentation.model_dump(mode="json"),
        "control": params.control.model_dump(mode="json"),
        "abstention": abstention,
        "arms": arms,
        # `fit_one` learns on the CPU.
        "machine": machine(torch.device("cpu")),
    }
    run.write_json("learners.json", described)


if __name__ == "__main__":
    with stage("finetune") as run:
        finetune(run)
