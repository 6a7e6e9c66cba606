"""The two-sample test: its formulas, its false alarms and its power."""

import numpy as np
import pytest
from scipy import stats

from tasks.monitoring.two_sample_test import Sample, compare, ks, mmd2

ALPHA = 0.05


def sample(random, size, shift=0.0, wider=1.0):
    points = random.normal(shift, 1.0, (size, 6))
    return Sample(points, {"brightness": random.normal(0, wider, size)})


def deal(old, new):
    return np.array([[0] * old + [1] * new], np.uint8)


def test_mmd_is_the_mean_kernel_within_less_that_between():
    random = np.random.default_rng(0)
    old, new = random.normal(size=(7, 3)), random.normal(0.5, size=(5, 3))
    pooled = np.concatenate([old, new])
    apart = [np.sum((a - b) ** 2) for i, a in enumerate(pooled) for b in pooled[:i]]

    def kernel(a, b):
        return np.exp(-np.sum((a - b) ** 2) / (2 * np.median(apart)))

    def within(points):
        pairs = [(a, b) for i, a in enumerate(points) for j, b in enumerate(points) if i != j]
        return np.mean([kernel(a, b) for a, b in pairs])

    between = np.mean([kernel(a, b) for a in old for b in new])
    expected = within(old) + within(new) - 2 * between
    assert mmd2(pooled, deal(7, 5))[0] == pytest.approx(expected, abs=1e-6)


def test_ks_is_scipys_also_with_ties():
    random = np.random.default_rng(0)
    old, new = random.integers(0, 6, 40), random.integers(1, 8, 30)
    found = ks(np.concatenate([old, new]).astype(float), deal(40, 30))[0]
    assert found == pytest.approx(stats.ks_2samp(old, new).statistic)


def test_false_alarms_are_as_frequent_as_alpha_says():
    trials, random = 400, np.random.default_rng(1)
    alarms = sum(
        compare(sample(random, 40), sample(random, 25), seed, permutations=199).p <= ALPHA
        for seed in range(trials)
    )
    # What a binomial of this alpha leaves with a probability of 0.2% in all.
    low, high = stats.binom.ppf([0.001, 0.999], trials, ALPHA)
    assert low <= alarms <= high


@pytest.mark.parametrize(
    ("shift", "wider", "sees_it"), [(0.5, 1.0, "embedding"), (0.0, 3.0, "brightness")]
)
def test_a_shift_is_found_by_the_statistic_that_sees_it(shift, wider, sees_it):
    random = np.random.default_rng(2)
    found = [
        compare(sample(random, 150), sample(random, 150, shift, wider), seed, permutations=499)
        for seed in range(20)
    ]
    assert sum(each.p <= ALPHA for each in found) >= 19
    nearest = [min(each.statistics, key=lambda statistic: statistic.p).name for each in found]
    assert nearest.count(sees_it) >= 18


def test_all_statistics_together_are_judged_more_strictly_than_the_best_alone():
    random = np.random.default_rng(3)
    found = [compare(sample(random, 30), sample(random, 30), seed, 199) for seed in range(30)]
    assert all(each.p >= min(s.p for s in each.statistics) for each in found)
    assert any(each.p > min(s.p for s in each.statistics) for each in found)


def test_the_same_samples_and_seed_give_the_same_answer():
    random = np.random.default_rng(4)
    old, new = sample(random, 30), sample(random, 30)
    assert compare(old, new, seed=5) == compare(old, new, seed=5)


def test_constant_embeddings_are_no_drift():
    flat = Sample(np.zeros((20, 4)), {"brightness": np.zeros(20)})
    found = compare(flat, flat)
    assert found.p == 1.0 and [statistic.effect for statistic in found.statistics] == [0.0, 0.0]
