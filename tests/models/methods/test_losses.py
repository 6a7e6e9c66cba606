import math

import pytest
import torch

from models.methods.losses import (
    barlow_twins,
    covariance_penalty,
    cross_correlation,
    epps_pulley,
    info_nce,
    negative_cosine,
    nt_xent,
    sigreg,
    variance_hinge,
)


def slow_nt_xent(z1, z2, temperature):
    """Equation 1 of SimCLR, spelt out pair by pair."""
    z = [row / row.norm() for row in torch.cat([z1, z2])]
    count = len(z1)
    total = 0.0
    for i in range(2 * count):
        j = (i + count) % (2 * count)
        others = [math.exp(float(z[i] @ z[k]) / temperature) for k in range(2 * count) if k != i]
        total += -math.log(math.exp(float(z[i] @ z[j]) / temperature) / sum(others))
    return total / (2 * count)


@pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0])
@pytest.mark.parametrize("count", [1, 2, 7])
def test_nt_xent_equals_the_equation_spelt_out(count, temperature):
    generator = torch.Generator().manual_seed(count)
    z1, z2 = torch.randn(2, count, 5, generator=generator, dtype=torch.float64)
    expected = slow_nt_xent(z1, z2, temperature)
    assert nt_xent(z1, z2, temperature).item() == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_nt_xent_of_identical_embeddings_is_log_of_the_candidates():
    z = torch.ones(8, 3)
    assert nt_xent(z, z, 0.3).item() == pytest.approx(math.log(15), rel=1e-6)


def test_nt_xent_of_orthogonal_images_with_equal_views_has_its_closed_form():
    count, temperature = 6, 0.4
    z = torch.eye(count, dtype=torch.float64)
    expected = math.log(1 + (2 * count - 2) * math.exp(-1 / temperature))
    assert nt_xent(z, z, temperature).item() == pytest.approx(expected, rel=1e-9)


def test_nt_xent_ignores_the_length_of_embeddings():
    generator = torch.Generator().manual_seed(0)
    z1, z2 = torch.randn(2, 5, 4, generator=generator)
    assert torch.allclose(nt_xent(z1, z2, 0.2), nt_xent(3 * z1, 0.1 * z2, 0.2), atol=1e-5)


def random(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def unit(row):
    return row / math.sqrt(sum(float(x) ** 2 for x in row))


# Each as a function of two views' embeddings (N, 4).
LOSSES = {
    "nt_xent": lambda a, b: nt_xent(a, b, 0.5),
    "negative_cosine": negative_cosine,
    "info_nce": lambda a, b: info_nce(a, b, 0.5)[0],
    "info_nce with a queue": lambda a, b: info_nce(a, b, 0.5, random(6, 4, seed=3))[0],
    "barlow_twins": lambda a, b: barlow_twins(cross_correlation(a, b), 0.1),
    "variance_hinge": lambda a, b: variance_hinge(0.3 * a) + variance_hinge(0.3 * b),
    "covariance_penalty": lambda a, b: covariance_penalty(a) + covariance_penalty(b),
    "sigreg": lambda a, b: sigreg(a, random(4, 7, seed=3)) + sigreg(b, random(4, 7, seed=3)),
}


@pytest.mark.parametrize("name", LOSSES)
def test_gradient_agrees_with_finite_differences(name):
    inputs = (random(3, 4).requires_grad_(), random(3, 4, seed=1).requires_grad_())
    assert torch.autograd.gradcheck(LOSSES[name], inputs)


@pytest.mark.parametrize("name", LOSSES)
def test_order_of_the_batch_does_not_matter(name):
    a, b = random(9, 4), random(9, 4, seed=1)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    together = LOSSES[name](a[order], b[order])
    assert together.item() == pytest.approx(LOSSES[name](a, b).item(), rel=1e-9)


@pytest.mark.parametrize("name", sorted(set(LOSSES) - {"info_nce", "info_nce with a queue"}))
def test_order_of_the_views_does_not_matter(name):
    a, b = random(9, 4), random(9, 4, seed=1)
    assert LOSSES[name](b, a).item() == pytest.approx(LOSSES[name](a, b).item(), rel=1e-9)


def test_negative_cosine_equals_the_equation_spelt_out():
    p, z = random(5, 4), random(5, 4, seed=1)
    expected = -sum(float(unit(a) @ unit(b)) for a, b in zip(p, z, strict=True)) / 5
    assert negative_cosine(p, z).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("factor", "expected"), [(3.0, -1.0), (-0.1, 1.0)])
def test_negative_cosine_of_parallel_predictions_is_their_sign(factor, expected):
    z = random(5, 4)
    assert negative_cosine(factor * z, z).item() == pytest.approx(expected)


@pytest.mark.parametrize("queued", [None, 1, 6])
def test_info_nce_equals_the_equation_spelt_out(queued):
    q, k, t = random(5, 4), random(5, 4, seed=1), 0.3
    queue = None if queued is None else torch.stack([unit(row) for row in random(queued, 4)])
    total, hits = 0.0, 0
    for i in range(5):
        own = float(unit(q[i]) @ unit(k[i]))
        rows = [unit(k[j]) for j in range(5) if j != i] if queue is None else queue
        others = [float(unit(q[i]) @ row) for row in rows]
        total -= math.log(math.exp(own / t) / sum(math.exp(s / t) for s in [own, *others]))
        hits += own > max(others)
    loss, accuracy = info_nce(q, k, t, queue)
    assert loss.item() == pytest.approx(total / 5, rel=1e-9)
    assert accuracy.item() == pytest.approx(hits / 5)


def test_info_nce_of_one_direction_is_log_of_the_candidates_and_no_hit():
    ones = torch.ones(8, 3)
    loss, accuracy = info_nce(ones, ones, 0.3, torch.ones(15, 3) / math.sqrt(3))
    assert loss.item() == pytest.approx(math.log(16), rel=1e-6)
    assert accuracy.item() == 0
    assert info_nce(ones, ones, 0.3)[0].item() == pytest.approx(math.log(8), rel=1e-6)


def test_cross_correlation_and_barlow_twins_equal_the_equations_spelt_out():
    z1, z2, weight = random(6, 3), random(6, 3, seed=1), 0.2
    expected = 0.0
    correlation = cross_correlation(z1, z2)
    for i in range(3):
        for j in range(3):
            a = [float(x) - float(z1[:, i].mean()) for x in z1[:, i]]
            b = [float(x) - float(z2[:, j].mean()) for x in z2[:, j]]
            lengths = math.sqrt(sum(x * x for x in a) * sum(x * x for x in b))
            c = sum(x * y for x, y in zip(a, b, strict=True)) / lengths
            assert correlation[i, j].item() == pytest.approx(c, rel=1e-9)
            expected += (1 - c) ** 2 if i == j else weight * c**2
    assert barlow_twins(correlation, weight).item() == pytest.approx(expected, rel=1e-9)


def test_barlow_twins_is_zero_for_equal_views_of_uncorrelated_dimensions():
    z = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    assert barlow_twins(cross_correlation(z, 5 * z + 3), 0.5).item() == pytest.approx(0, abs=1e-10)
    twice = z[:, [0, 0]]
    assert barlow_twins(cross_correlation(twice, twice), 0.5).item() == pytest.approx(1, rel=1e-5)


def test_vicreg_terms_equal_the_equations_spelt_out():
    z = 0.8 * random(6, 3)
    centred = [[float(x) - float(column.mean()) for x in column] for column in z.T]
    covariance = [
        [sum(x * y for x, y in zip(a, b, strict=True)) / 5 for b in centred] for a in centred
    ]
    hinges = [max(0, 1 - math.sqrt(covariance[i][i] + 1e-4)) for i in range(3)]
    assert variance_hinge(z).item() == pytest.approx(sum(hinges) / 3, rel=1e-9)
    penalty = sum(covariance[i][j] ** 2 for i in range(3) for j in range(3) if i != j) / 3
    assert covariance_penalty(z).item() == pytest.approx(penalty, rel=1e-9)


def test_vicreg_terms_have_their_closed_forms():
    z = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    assert variance_hinge(z).item() == 0  # deviations of sqrt(4/3)
    assert variance_hinge(torch.ones(4, 2)).item() == pytest.approx(0.99)
    assert covariance_penalty(z).item() == 0
    # Twice the same dimension: (4/3)^2, at two places, by 2 dimensions.
    assert covariance_penalty(z[:, [0, 0]] + 7).item() == pytest.approx(16 / 9)


def test_epps_pulley_equals_its_sum_spelt_out():
    x, step = random(5, 2), 3 / 16
    for column, found in zip(x.T, epps_pulley(x), strict=True):
        total = 0.0
        for knot in range(-16, 17):
            t = knot * step
            real = sum(math.cos(t * v) for v in column.tolist()) / 5
            imaginary = sum(math.sin(t * v) for v in column.tolist()) / 5
            height = (real - math.exp(-t * t / 2)) ** 2 + imaginary**2
            end = 0.5 if abs(knot) == 16 else 1.0
            total += end * step * height * math.exp(-t * t / 2)
        assert found.item() == pytest.approx(5 * total, rel=1e-9)


def test_epps_pulley_is_near_the_integral_in_closed_form():
    x = random(40, 1)
    pairs = torch.exp(-((x - x.T) ** 2) / 2).mean()
    cross = torch.exp(-(x**2) / 4).mean() * math.sqrt(2)
    integral = 40 * math.sqrt(2 * math.pi) * (pairs - cross + 1 / math.sqrt(3))
    assert epps_pulley(x).item() == pytest.approx(integral.item(), rel=0.02)


def test_sigreg_tells_a_gaussian_from_what_is_none():
    gaussian, directions = random(512, 6), random(6, 32, seed=1)
    near = sigreg(gaussian, directions)
    rank_one = gaussian[:, :1].expand(-1, 6)
    for other in (3 * gaussian, gaussian + 1, gaussian.sign(), rank_one, 0 * gaussian):
        assert sigreg(other, directions) > 3 * near
    assert sigreg(gaussian, 9 * directions).item() == pytest.approx(near.item())
