"""Learning-rate schedules as pure functions of the step."""

import math


def warmup_cosine(step: int, total_steps: int, warmup_steps: int) -> float:
    """Give the factor on the learning rate at a step (SGDR, https://arxiv.org/abs/1608.03983).

    Rises in a line to 1 at step `warmup_steps - 1` (the first step is already above 0), then
    falls as half a cosine, to reach 0 at `total_steps`, one past the last step.
    """
    warmup_steps = min(warmup_steps, total_steps)
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if step >= total_steps:
        return 0.0
    return 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / (total_steps - warmup_steps)))


def momentum_to_one(start: float, progress: float) -> float:
    """Give a teacher's momentum, which rises as half a cosine from `start` to 1.

    BYOL, section 3.3 (Grill et al. 2020, https://arxiv.org/abs/2006.07733): an unripe student is
    followed closely, a ripe one averaged.

    Args:
        start: Momentum of the first step.
        progress: Share of the run's steps that are done, from 0 to 1.
    """
    return 1 - (1 - start) * (math.cos(math.pi * progress) + 1) / 2
