"""Intervals are held to simulation, to the normal approximation and to Student's t."""

import numpy as np
import pytest
from scipy import stats

from tasks.evaluation.confidence_intervals import Interval, Measured, accuracy, paired_gain


def versions(random, gain=0.0, images=1000, luck=0.05, shared_luck=False):
    """Two versions of 5 draws: images are hard or easy for both, each draw has its own luck.

    `gain` and `luck` are on the scale of a normal score; 0.1 is about 1.7 points of accuracy.
    """
    hardness = random.normal(1.3, 1.0, images)
    lucks = [random.normal(0, luck, (5, 1)) for _ in range(2)]
    taste, noise = random.normal(0, 0.3, (2, images)), random.normal(0, 0.6, (2, 5, images))
    return [
        Measured(hardness + better + taste[which] + lucks[0 if shared_luck else which]
                 + noise[which] > 0)
        for which, better in enumerate((gain, 0.0))
    ]  # fmt: skip


def promoted(trials, same_draws=False, **how):
    """Share of trials in which the challenger is better beyond noise."""
    random = np.random.default_rng(3)
    gains = [paired_gain(*versions(random, **how), same_draws, resamples=500) for _ in trials]
    return np.mean([gain.low > 0 for gain in gains])


@pytest.mark.parametrize("luck", [0.0, 0.1, 0.3])
def test_equal_recipes_are_promoted_no_more_often_than_the_interval_says(luck):
    # Nominal: 2.5%; the bound is that and three standard deviations of 400 trials.
    assert promoted(range(400), luck=luck) < 0.05
    assert promoted(range(400), luck=luck, shared_luck=True, same_draws=True) < 0.05


def test_one_draw_against_another_would_have_promoted_equal_recipes():
    """What the draws are for: their luck is no gain."""
    random = np.random.default_rng(4)
    wrong = 0
    for _ in range(200):
        a, b = versions(random, luck=0.3)
        draw = [Measured(np.repeat(m.right[:1], 2, axis=0)) for m in (a, b)]
        wrong += paired_gain(*draw, resamples=500).low > 0
    assert wrong / 200 > 0.15


def test_a_true_gain_is_found_and_sooner_where_the_draws_are_the_same():
    assert promoted(range(100), gain=0.3) > 0.9
    apart = promoted(range(100), gain=0.2, luck=0.1, shared_luck=True)
    paired = promoted(range(100), gain=0.2, luck=0.1, shared_luck=True, same_draws=True)
    assert paired > apart + 0.2


def test_interval_is_that_of_the_normal_approximation_where_draws_agree():
    rng = np.random.default_rng(5)
    a, b = rng.random(5000) < 0.90, rng.random(5000) < 0.88
    gain = paired_gain(*(Measured(np.repeat(right[None], 5, axis=0)) for right in (a, b)))
    difference = a.astype(float) - b.astype(float)
    error = 1.959964 * difference.std() / np.sqrt(len(difference))
    assert gain.mean == pytest.approx(difference.mean())
    assert gain.low == pytest.approx(difference.mean() - error, abs=error / 10)
    assert gain.high == pytest.approx(difference.mean() + error, abs=error / 10)


def test_interval_is_that_of_students_t_where_images_agree():
    right = np.zeros((5, 100_000), bool)
    for draw, count in enumerate((80_000, 81_000, 79_500, 80_700, 79_800)):
        right[draw, :count] = True
    none = np.zeros_like(right)
    gain = paired_gain(Measured(right), Measured(none), same_draws=True)
    accuracies = right.mean(axis=1)
    low, high = stats.t.interval(0.95, 4, accuracies.mean(), stats.sem(accuracies))
    assert gain.mean == pytest.approx(accuracies.mean())
    # The images weigh next to nothing: there are 100,000.
    assert (gain.low, gain.high) == (pytest.approx(low, abs=0.002), pytest.approx(high, abs=0.002))


def test_equal_predictions_gain_exactly_nothing_and_the_seed_decides_the_rest():
    right = np.random.default_rng(8).random((5, 100)) < 0.5
    gain = paired_gain(Measured(right), Measured(right), same_draws=True)
    assert (gain.mean, gain.low, gain.high) == (0, 0, 0)
    pair = Measured(right), Measured(~right)
    assert paired_gain(*pair, seed=1) == paired_gain(*pair, seed=1) != paired_gain(*pair, seed=2)


@pytest.mark.parametrize("draws", [(1, 5), (5, 1), (1, 1)])
def test_a_single_draw_has_no_interval(draws):
    pair = [Measured(np.ones((count, 10), bool)) for count in draws]
    assert (paired_gain(*pair).low, paired_gain(*pair).high) == (None, None)


def test_draws_without_a_partner_are_not_paired():
    with pytest.raises(ValueError, match="pairs"):
        paired_gain(*(Measured(np.ones((n, 10), bool)) for n in (5, 3)), same_draws=True)


def test_accuracy_of_one_model_on_many_draws_has_the_binomial_error():
    right = np.random.default_rng(6).random(2000) < 0.8
    found = accuracy(Measured(np.repeat(right[None], 5, axis=0)))
    error = 1.959964 * np.sqrt(found.mean * (1 - found.mean) / 2000)
    assert (found.mean, found.n) == (pytest.approx(right.mean()), 5)
    assert found.low == pytest.approx(found.mean - error, abs=error / 10)
    assert found.high == pytest.approx(found.mean + error, abs=error / 10)


def test_draws_that_agree_on_a_small_test_set_leave_the_test_images_noise():
    """Two draws, both 1 of 30 images better: nothing that a gate should believe."""
    random = np.random.default_rng(7)
    control = random.random((2, 30)) < 0.7
    treated = control.copy()
    for draw in (0, 1):
        treated[draw, np.flatnonzero(~control[draw])[0]] = True
    gain = paired_gain(Measured(treated), Measured(control), same_draws=True)
    assert gain.mean == pytest.approx(1 / 30)
    assert gain.low <= 0 < gain.high


def test_interval_ends_where_values_end():
    right = np.array([[True] * 9 + [False], [True] * 10])
    assert accuracy(Measured(right)).high == 1
    assert accuracy(Measured(~right)).low == 0
    assert paired_gain(Measured(right), Measured(~right), same_draws=True).high == 1
    assert paired_gain(Measured(~right), Measured(right), same_draws=True).low == -1


def test_accuracy_of_one_draw_has_no_interval():
    right = np.array([[True, True, False, True]])
    assert accuracy(Measured(right)) == Interval(0.75, None, None, 1)
