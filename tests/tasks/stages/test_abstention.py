"""A model abstains by its own few labels, and keeps what it promises."""

import json
import shutil

import numpy as np
import pytest

from data.store.packed_store import PackedStore
from tasks.stages import abstention, parallel_fits
from tasks.stages import finetune as finetuning
from tasks.stages.abstention import answerable, least_confidence, plan_refits
from tasks.stages.finetune import finetune
from tests.tasks.small_stages import make_stage


@pytest.mark.parametrize(
    ("wrong", "target", "share"),
    [
        ([], 0.95, 1.0),  # 40 answers without a mistake
        ([39], 0.95, 1.0),  # (1 + 1) / (40 + 1) is just within 5%
        ([20], 0.95, 1.0),
        ([20, 30], 0.95, 0.5),  # up to the first: with it, 39 are needed
        ([0], 0.95, 1.0),
        ([0, 1], 0.95, 0.0),
        ([18], 0.95, 1.0),
        (range(1, 40, 2), 0.5, 0.975),
        ([], 0.99, 0.0),  # 40 labels promise no more than 40 in 41
    ],
)
def test_share_to_answer_counts_one_more_mistake_than_was_seen(wrong, target, share):
    right = np.ones(40, bool)
    right[list(wrong)] = False
    shuffled = np.random.default_rng(0).permutation(40)
    confidence = np.linspace(0.9, 0.1, 40)
    assert answerable(confidence[shuffled], right[shuffled], target) == share


def test_equal_confidences_are_answered_together():
    confidence = np.array([0.9] * 30 + [0.5] * 30)
    right = np.array([True] * 45 + [False] * 15)
    assert answerable(confidence, right, 0.95) == 0.5
    assert answerable(np.full(60, 0.9), right, 0.95) == 0


def test_nineteen_answers_are_the_fewest_that_promise_95_percent():
    for count, share in ((18, 0), (19, 1), (0, 0)):
        assert answerable(np.linspace(1, 0.5, count), np.ones(count, bool), 0.95) == share


@pytest.mark.parametrize(
    ("share", "answered"), [(0.25, 25), (0.5, 50), (0.001, 1), (1.0, 100), (0.0, 0)]
)
def test_threshold_lets_the_share_through(share, answered):
    confidence = np.random.default_rng(1).permutation(np.linspace(0.2, 0.9, 100))
    least = least_confidence(confidence, share)
    assert (0 if least is None else (confidence >= least).sum()) == answered


def test_on_average_what_is_answered_is_right_as_often_as_promised():
    """Over many draws of a hundred labels, of a model whose confidence is off but ordered."""
    random = np.random.default_rng(0)
    accuracies = []
    for _ in range(400):
        truth = random.beta(4, 1, 5100)
        right = random.random(5100) < truth
        share = answerable(truth[:100] ** 3, right[:100], 0.9)
        least = least_confidence(truth[100:], share)
        if least is not None:
            accuracies.append(right[100:][truth[100:] >= least].mean())
    assert len(accuracies) > 300
    assert 0.9 <= np.mean(accuracies) < 0.94


def learn(target, **changes):
    run = make_stage("finetune", abstain_target=target, draws=1, **changes)
    finetune(run)
    learned = json.loads((run.out / "learners.json").read_text())
    files = {p.relative_to(run.out): p.read_bytes() for p in run.out.rglob("*") if p.is_file()}
    shutil.rmtree(run.out)
    return learned, files


def test_refits_hold_each_label_of_the_served_draw_out_once(pretrained):
    run = make_stage("finetune")
    served = next(iter(finetuning._fits(run, PackedStore.open(parallel_fits.STORE))))
    refits = plan_refits(served, PackedStore.open(parallel_fits.STORE))
    held = [row for refit in refits for row in refit.held_out]
    assert len(refits) == 4 and sorted(held) == sorted(served.rows)
    for refit in refits:
        assert sorted([*refit.fit.rows, *refit.held_out]) == sorted(served.rows)
    assert sum(refit.fit.steps for refit in refits) == served.steps


def test_no_label_beyond_the_served_draw_is_read(pretrained, monkeypatch):
    """In any other label lies what would change the result."""
    learned, _ = learn(0.6)
    drawn = set(learned["arms"]["pretrained"][0]["rows"])
    labels = PackedStore.labels

    def only_drawn(store, rows):
        found = labels(store, rows).copy()
        found[[row not in drawn for row in rows.tolist()]] = 0
        return found

    run = make_stage("finetune", abstain_target=0.6, draws=1)
    store = PackedStore.open(parallel_fits.STORE)
    served = next(iter(finetuning._fits(run, store)))
    refits = plan_refits(served, store)
    for refit in refits:
        parallel_fits._board = [0.0] * 2
        parallel_fits.fit_one(refit.fit, 0)
    parallel_fits.fit_one(served, 0)
    with monkeypatch.context() as patch:
        patch.setattr(PackedStore, "labels", only_drawn)
        found = abstention.find_abstention(served, refits, store, 0.6)
    assert found == learned["abstention"]


def test_abstention_is_described_and_changes_no_other_byte(pretrained):
    learned, files = learn(0.6)
    found = learned["abstention"]
    assert (found["target"], found["judged"]) == (0.6, 24)
    assert 0 < found["coverage"] <= 1 and 0 <= found["threshold"] < 1
    without, others = learn(0.0)
    assert without["abstention"] is None
    assert files.keys() == others.keys()
    changed = [path.name for path in files if files[path] != others[path]]
    assert changed == ["learners.json"]


def test_a_target_that_few_labels_cannot_promise_leaves_no_answer(pretrained):
    assert learn(0.99)[0]["abstention"]["threshold"] is None


def test_the_linear_probe_is_refitted_too(pretrained):
    learned, _ = learn(0.6, learner={"name": "linear-probe", "penalties": [0.1]})
    assert learned["abstention"]["judged"] == 24


def test_refits_that_a_killed_run_kept_are_not_run_again(pretrained, monkeypatch):
    whole, files = learn(0.6)
    shutil.rmtree(pretrained / ".instar")
    run = make_stage("finetune", abstain_target=0.6, draws=1)

    def killed(*_):
        raise InterruptedError

    with monkeypatch.context() as patch:
        patch.setattr(finetuning, "_describe", killed)
        with pytest.raises(InterruptedError):
            finetune(run)
    shutil.rmtree(run.out)
    kept = sorted(path.name.split(".")[0] for path in run.scratch.glob("*.zip"))
    assert kept == ["pretrained-0", *(f"refit-{n}" for n in range(4)), "scratch-0"]
    # Weights are restored from what is kept, whatever became of the files.
    shutil.rmtree(run.scratch / "refits")
    monkeypatch.setattr(parallel_fits.ProcessPoolExecutor, "submit", killed)
    assert learn(0.6) == (whole, files)
