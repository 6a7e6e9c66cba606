import math
from itertools import pairwise

import pytest

from models.training.schedules import warmup_cosine


def test_schedule_rises_in_a_line_then_falls_as_half_a_cosine_to_zero():
    factors = [warmup_cosine(step, 110, 10) for step in range(111)]
    assert factors[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert factors[10] == 1.0
    assert factors[35] == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))
    assert factors[60] == pytest.approx(0.5)
    assert factors[110] == 0.0
    assert all(a >= b for a, b in pairwise(factors[9:]))


def test_schedule_without_warmup_starts_at_its_peak():
    assert warmup_cosine(0, 10, 0) == 1.0


def test_warmup_longer_than_the_run_still_reaches_the_peak():
    assert [warmup_cosine(step, 2, 50) for step in range(2)] == [0.5, 1.0]
