"""Every number is held to a closed form, to scikit-learn or to scipy."""

import numpy as np
import pytest
import torch

from tasks.evaluation import metrics as evaluation_metrics
from tasks.reporting.umap import place_in_plane


@pytest.fixture
def guesses():
    random = np.random.default_rng(0)
    actual = random.integers(0, 5, 400)
    probabilities = random.dirichlet(np.ones(5), 400)
    probabilities[np.arange(400), actual] += random.random(400)
    probabilities /= probabilities.sum(1, keepdims=True)
    return actual, probabilities


def test_class_scores_equal_scikit_learns(guesses):
    from sklearn import metrics

    actual, probabilities = guesses
    predicted = probabilities.argmax(1)
    confusion = evaluation_metrics.confusion_matrix(actual, predicted, 5)
    scores = evaluation_metrics.class_scores(confusion)
    wanted = metrics.precision_recall_fscore_support(actual, predicted)
    np.testing.assert_array_equal(confusion, metrics.confusion_matrix(actual, predicted))
    for found, want in zip(
        (scores.precision, scores.recall, scores.f1, scores.support), wanted, strict=True
    ):
        np.testing.assert_allclose(found, want)
    assert evaluation_metrics.accuracy(actual, predicted) == metrics.accuracy_score(
        actual, predicted
    )
    assert evaluation_metrics.balanced_accuracy(scores) == pytest.approx(
        metrics.balanced_accuracy_score(actual, predicted)
    )
    assert evaluation_metrics.macro_f1(scores) == pytest.approx(
        metrics.f1_score(actual, predicted, average="macro")
    )


def test_class_that_never_occurs_scores_zero_and_is_left_out_of_balanced_accuracy():
    scores = evaluation_metrics.class_scores(np.array([[3, 1, 0], [0, 2, 0], [0, 0, 0]]))
    assert scores.recall.tolist() == [0.75, 1, 0]
    assert scores.precision[2] == scores.f1[2] == 0
    assert evaluation_metrics.balanced_accuracy(scores) == 0.875


def test_calibration_error_has_its_closed_form():
    # Confidence .9, three of four right; confidence .6, none of one right.
    probabilities = np.array([[0.9, 0.1]] * 4 + [[0.4, 0.6]])
    found = evaluation_metrics.calibration(probabilities, np.array([0, 0, 0, 1, 0]), bins=10)
    np.testing.assert_allclose(found.confidence, [0.6, 0.9])
    np.testing.assert_allclose(found.accuracy, [0, 0.75])
    assert found.count.tolist() == [1, 4]
    assert found.ece == pytest.approx((0.15 * 4 + 0.6 * 1) / 5)


def test_calibration_error_equals_torchmetrics(guesses):
    from torchmetrics.functional.classification import multiclass_calibration_error

    actual, probabilities = guesses
    wanted = multiclass_calibration_error(
        torch.tensor(probabilities), torch.tensor(actual), num_classes=5, n_bins=15
    )
    found = evaluation_metrics.calibration(probabilities, actual, bins=15)
    assert found.ece == pytest.approx(float(wanted), abs=1e-6)


def test_nearest_rows_go_by_angle_and_come_best_first():
    bank = torch.tensor([[1.0, 0.0], [0.0, 5.0], [3.0, 3.0]])
    cosine, rows = evaluation_metrics.nearest_rows(bank, torch.tensor([[2.0, 0.1]]), k=9)
    assert rows.tolist() == [[0, 2, 1]]
    assert cosine[0, 0] == pytest.approx(2 / np.hypot(2, 0.1))


def test_map_keeps_groups_apart_and_repeats_bit_by_bit():
    torch.set_num_threads(1)
    random = torch.Generator().manual_seed(0)
    centres = torch.nn.functional.one_hot(torch.arange(3).repeat(40), 8).float()
    features = centres + 0.1 * torch.randn(120, 8, generator=random)
    place = place_in_plane(features)
    assert torch.equal(place, place_in_plane(features))
    near = torch.cdist(place, place).fill_diagonal_(torch.inf).argmin(1)
    assert torch.equal(near % 3, torch.arange(120) % 3)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_map_takes_very_few_points(count):
    place = place_in_plane(torch.rand(count, 4))
    assert place.shape == (count, 2) and place.isfinite().all()
