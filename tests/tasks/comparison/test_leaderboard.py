"""Variants are ranked by accuracy, and a lead is called one only where it is beyond noise."""

import csv
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from tasks.comparison.grid import CellResult, grid
from tasks.comparison.leaderboard import leaderboard, repeated, rows, verdict
from tasks.comparison.mlflow_record import CELL, COMPARISON, as_csv, as_markdown, record
from tasks.errors import TaskError
from tasks.tracking.client import connect
from tasks.tracking.runs import PARENT
from tests.tasks.conftest import metrics, uri, write_json

IMAGES = 2000


@pytest.fixture
def results(tmp_path):
    """Makes the results of variants `epochs=1`, `2`, …, from the accuracy of each seed."""

    def make(*variants, draws=2, names="image", luck=0.0, vary=None, digests=None):
        seeds = len(variants[0])
        listed = ",".join(map(str, range(1, len(variants) + 1)))
        cells = grid(vary or [f"pretrain.epochs={listed}"], seeds)
        scores = [score for variant in variants for score in variant]
        made = []
        for number, (cell, score) in enumerate(zip(cells, scores, strict=True)):
            if score is None:
                made.append(CellResult(cell, "it broke"))
                continue
            folder = tmp_path / str(number)
            own = names if isinstance(names, str) else names[int(cell.varied["pretrain.epochs"])]
            write_evidence(folder, score, draws, own, luck)
            if digests:
                write_json(folder / "metrics.json", metrics(score, digests[number]))
            made.append(CellResult(cell, None, {"pretrain": "ran"}, 10.0 + number, folder, "exp"))
        return made

    return make


def write_evidence(folder, score, draws, names, luck):
    """Right are always the first images of one fixed order, in each draw some more or less."""
    order = np.random.default_rng(0).permutation(IMAGES)
    table = {"id": [f"{names}-{n}" for n in range(IMAGES)], "label": np.arange(IMAGES) % 10}
    for arm, less in (("pretrained", 0.0), ("scratch", 0.1)):
        for draw in range(draws):
            right = np.zeros(IMAGES, dtype=bool)
            share = score - less + luck * (draw - (draws - 1) / 2)
            right[order[: round(share * IMAGES)]] = True
            table[f"correct_{arm}_{draw}"] = right
    folder.mkdir()
    pd.DataFrame(table).to_parquet(folder / "predictions.parquet")
    write_json(folder / "metrics.json", metrics(score))


def test_best_is_first_and_each_is_held_against_it(results):
    board = leaderboard(results((0.6, 0.61, 0.6), (0.8, 0.81, 0.8), (0.7, 0.71, 0.7)))
    assert [row.varied["pretrain.epochs"] for row in board] == ["2", "3", "1"]
    assert board[0].behind is None
    assert [row.behind.mean for row in board[1:]] == pytest.approx([0.1, 0.2])
    assert board[0].gain.mean == pytest.approx(0.1)
    assert board[0].seconds == pytest.approx(14.0)
    assert repeated(board) == "3 seeds"


def test_a_lead_that_every_seed_shows_is_beyond_noise(results):
    said = verdict(leaderboard(results((0.80, 0.75, 0.84), (0.70, 0.65, 0.74))))
    assert said.startswith("Best is epochs=1 with 79.67%, +10.00 points against epochs=2")
    assert said.endswith("over 3 seeds): beyond noise.")


def test_a_lead_that_the_seeds_do_not_agree_on_is_within_noise(results):
    said = verdict(leaderboard(results((0.80, 0.70, 0.80), (0.70, 0.78, 0.74), (0.7, 0.8, 0.7))))
    assert said.startswith("First is epochs=1") and "within noise" in said
    assert said.endswith("So are 2 variants in all.")


def test_luck_that_all_variants_share_does_not_hide_a_lead(results):
    """The seeds are far apart, the variants always by the same two points."""
    said = verdict(leaderboard(results((0.9, 0.5, 0.7), (0.88, 0.48, 0.68))))
    assert "beyond noise" in said


def test_draws_of_one_encoder_are_no_repetitions_of_a_seed(results):
    [best, _] = leaderboard(results((0.8, 0.7), (0.75, 0.74), draws=5))
    assert best.pretrained.n == 2


def test_one_seed_is_compared_over_its_draws_and_says_so(results):
    board = leaderboard(results((0.8,), (0.7,), draws=4, luck=0.02))
    assert repeated(board) == "4 draws of labels of one seed"
    assert verdict(board).endswith("over 4 draws of labels of one seed): beyond noise.")


def test_one_seed_with_one_draw_cannot_tell(results):
    assert "not enough to say: raise --seeds" in verdict(
        leaderboard(results((0.8,), (0.7,), draws=1))
    )


def test_other_test_images_are_not_compared(results):
    board = leaderboard(results((0.8, 0.8), (0.7, 0.7), names={1: "image", 2: "other"}))
    assert board[1].behind is None
    assert "not tested on the same images" in verdict(board)


@pytest.mark.parametrize(
    ("vary", "digests", "compared"),
    [
        ("data.path=here,there", "AB", False),
        ("data.path=here,there", "AA", True),
        ("data.source=folder,npz", "AB", False),
        ("data.seed=1,2", "AB", False),
        ("data.max_quarantined=0.1,0.2", "AB", False),
        ("pretrain.epochs=1,2", "AB", False),
        ("data.size=16,32", "AB", True),
        ("data.channels=1,3", "AB", True),
    ],
)
def test_images_of_the_same_names_are_the_same_only_by_pixels_or_in_another_size(
    results, vary, digests, compared
):
    board = leaderboard(results((0.8,), (0.7,), vary=[vary], digests=digests))
    assert (board[1].behind is not None) == compared
    assert ("not tested on the same images" in verdict(board)) != compared


def test_size_does_not_excuse_another_source(results):
    vary = ["data.size=16,32", "data.path=here,there"]
    board = leaderboard(results((0.9,), (0.8,), (0.7,), (0.6,), vary=vary, digests="ABCD"))
    # In order: size=16 there, size=32 here, size=32 there.
    assert [row.behind is not None for row in board[1:]] == [False, True, False]
    assert verdict(board).endswith("seeds): size=32, path=there.")


def test_a_test_set_that_changed_between_two_seeds_is_named(results):
    found = results((0.8, 0.8), (0.7, 0.7), digests="AABA")
    with pytest.raises(TaskError, match=r"test images changed between .*2-seed-0.* and .*2-seed-1"):
        leaderboard(found)


def test_a_failed_cell_stands_there_with_its_reason_and_costs_its_variant_the_lead(results):
    board = leaderboard(results((0.7, 0.7, 0.7), (0.9, None, 0.9), (None, None, None)))
    assert [row.varied["pretrain.epochs"] for row in board] == ["1", "2", "3"]
    assert (board[1].seeds, board[1].failed) == ([0, 2], {1: "it broke"})
    assert board[2].pretrained is None and board[2].failed[2] == "it broke"
    assert rows(board)[1]["failed"] == "seed 1: it broke"


def test_variants_are_compared_over_the_seeds_that_both_have_done(results):
    board = leaderboard(results((0.9, 0.91, 0.9, None), (0.7, 0.71, None, 0.7)))
    assert "over 2 seeds): beyond noise" in verdict(board)


def test_variants_without_a_seed_in_common_are_not_compared(results):
    board = leaderboard(results((0.9, None), (None, 0.7)))
    assert verdict(board).endswith("as no seed is done in both.")


def test_nothing_done_is_said(results):
    board = leaderboard(results((None,), (None,)))
    assert verdict(board) == "No cell was done, so there is nothing to compare."


def test_tables_hold_every_variant(results):
    found = results((0.7, 0.7), (None, None))
    table = rows(leaderboard([*found[:3], replace(found[3], reason="one\ntwo | three")]))
    assert [row["place"] for row in csv.DictReader(as_csv(table).splitlines(True))] == ["1", "2"]
    lines = as_markdown(table, "said").splitlines()
    assert lines[0] == "said" and lines[-1].startswith("| 2 | 2 |")
    assert len({line.replace("\\|", "").count("|") for line in lines[2:]}) == 1


def test_mlflow_has_a_parent_with_the_leaderboard_and_a_child_for_each_cell(results, project):
    found = results((0.8, 0.8), (0.7, None))
    run = record("cmp-1", project, found, leaderboard(found))
    client = connect(uri(project))
    parent = client.get_run(run)
    assert (parent.data.tags[COMPARISON], parent.info.status) == ("cmp-1", "FAILED")
    assert parent.data.params["best.pretrain.epochs"] == "1"
    assert {file.path for file in client.list_artifacts(run)} == {
        "leaderboard.csv",
        "leaderboard.md",
    }
    children = client.search_runs([parent.info.experiment_id], f"tags.`{PARENT}` = '{run}'")
    by_name = {child.data.tags[CELL]: child for child in children}
    assert len(by_name) == 4
    done, failed = by_name[found[0].cell.name], by_name[found[3].cell.name]
    assert done.data.metrics["pretrained.accuracy.mean"] == pytest.approx(0.8)
    assert done.data.metrics["seconds"] == 10.0
    assert done.data.params == {"pretrain.epochs": "1", "seed": "0"}
    assert (failed.info.status, failed.data.tags["reason"]) == ("FAILED", "it broke")
