import math

import pytest
import torch

from models.encoders.feature_metrics import feature_std, knn_accuracy, knn_scores, rankme


@pytest.mark.parametrize("rank", [1, 3, 16])
def test_rankme_of_k_equal_directions_is_k(rank):
    generator = torch.Generator().manual_seed(0)
    left = torch.linalg.qr(torch.randn(50, rank, generator=generator))[0]
    right = torch.linalg.qr(torch.randn(16, rank, generator=generator))[0]
    assert rankme(7 * left @ right.T) == pytest.approx(rank, rel=1e-4)


def test_rankme_of_two_unequal_directions_is_exp_of_their_entropy():
    features = torch.diag(torch.tensor([3.0, 1.0]))
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert rankme(features) == pytest.approx(math.exp(entropy), rel=1e-6)


def test_rankme_of_constant_features_is_one_and_of_zero_features_zero():
    assert rankme(torch.ones(20, 8)) == pytest.approx(1.0, rel=1e-6)
    assert rankme(torch.zeros(20, 8)) == 0.0


def test_feature_std_of_even_directions_is_one_over_root_d():
    features = torch.randn(20_000, 64, generator=torch.Generator().manual_seed(0))
    assert feature_std(features) == pytest.approx(1 / 8, rel=0.02)


def test_feature_std_of_one_direction_is_zero_whatever_the_lengths():
    lengths = torch.arange(1, 11).float().unsqueeze(1)
    assert feature_std(lengths * torch.ones(10, 4)) == pytest.approx(0.0, abs=1e-6)


def test_knn_is_right_on_separable_data_and_wrong_on_swapped_labels():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 3
    features = 10 * torch.eye(3)[labels] + torch.randn(60, 3, generator=generator)
    assert knn_accuracy(features[:40], labels[:40], features[40:], labels[40:], k=5) == 1.0
    swapped = (labels + 1) % 3
    assert knn_accuracy(features[:40], swapped[:40], features[40:], labels[40:], k=5) == 0.0


def test_leave_one_out_knn_equals_a_loop_that_leaves_one_out():
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(30, 4, generator=generator)
    labels = torch.randint(0, 3, (30,), generator=generator)
    right = 0.0
    for i in range(30):
        rest = torch.arange(30) != i
        one = slice(i, i + 1)
        right += knn_accuracy(features[rest], labels[rest], features[one], labels[one], k=7)
    assert knn_accuracy(features, labels, k=7) == pytest.approx(right / 30)


def test_knn_votes_weigh_by_exp_of_cosine_over_temperature():
    bank = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    scores = knn_scores(bank, torch.tensor([0, 1]), bank[:1], 2, k=2, temperature=0.5)
    share = math.exp(2) / (math.exp(2) + 1)
    assert scores[0].tolist() == pytest.approx([share, 1 - share], rel=1e-5)


def test_knn_scores_do_not_depend_on_the_chunk():
    features = torch.randn(25, 6, generator=torch.Generator().manual_seed(2))
    labels = torch.arange(25) % 4
    whole = knn_scores(features, labels, None, 4, k=3)
    assert torch.allclose(whole, knn_scores(features, labels, None, 4, k=3, chunk=4))
