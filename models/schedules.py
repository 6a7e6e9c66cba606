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
