import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.errors import DataError
from data.store.splits import draw_labels, stratified_split

class_counts = st.lists(st.integers(2, 60), min_size=2, max_size=8)


def labels_of(counts, unlabelled=0):
    labels = np.repeat(np.arange(-1, len(counts)), [unlabelled, *counts])
    return np.random.default_rng(0).permutation(labels)


@given(class_counts, st.floats(0.01, 0.99), st.integers(0, 9))
def test_a_split_takes_the_same_share_of_every_class_and_never_all_or_none(counts, fraction, seed):
    labels = labels_of(counts, unlabelled=5)
    taken = np.bincount(labels[stratified_split(labels, fraction, seed)], minlength=len(counts))
    assert (taken >= 1).all() and (taken <= np.array(counts) - 1).all()
    assert (np.abs(taken - fraction * np.array(counts)) <= 1).all()


def test_a_split_depends_on_its_seed_alone():
    labels = labels_of([40, 40])
    assert np.array_equal(stratified_split(labels, 0.3, 1), stratified_split(labels, 0.3, 1))
    assert not np.array_equal(stratified_split(labels, 0.3, 1), stratified_split(labels, 0.3, 2))


@given(class_counts, st.integers(0, 200), st.floats(0.001, 1.0), st.integers(0, 5))
def test_a_draw_has_the_wanted_number_spread_as_the_labels_are(counts, unlabelled, fraction, draw):
    labels = labels_of(counts, unlabelled)
    wanted = min(round(fraction * len(labels)), sum(counts))
    if wanted < len(counts):
        with pytest.raises(DataError, match="raise finetune.label_fraction to at least"):
            draw_labels(labels, fraction, 0, draw)
        return
    rows = draw_labels(labels, fraction, 0, draw)
    taken = np.bincount(labels[rows], minlength=len(counts))
    assert len(set(rows.tolist())) == len(rows) == wanted
    assert (taken >= 1).all()
    ideal = np.array(counts) * wanted / sum(counts)
    # Only classes lifted to their one label take some from the others.
    assert (taken >= np.floor(ideal) - (ideal < 1).sum()).all()
    assert (taken <= np.maximum(1, np.ceil(ideal))).all()


def test_draws_differ_and_each_can_be_repeated():
    labels = labels_of([500] * 10)
    draws = [draw_labels(labels, 0.01, 0, draw) for draw in range(3)]
    assert np.array_equal(draws[1], draw_labels(labels, 0.01, 0, 1))
    assert len({tuple(rows) for rows in draws}) == 3


def test_the_fraction_that_the_error_proposes_is_enough():
    labels = labels_of([7000] * 9 + [19])
    with pytest.raises(DataError, match=r"is 6 labels for 10 classes") as caught:
        draw_labels(labels, 0.0001, 0, 0)
    proposed = float(str(caught.value).rsplit(" ", 1)[1].rstrip("."))
    assert len(draw_labels(labels, proposed, 0, 0)) == 10
