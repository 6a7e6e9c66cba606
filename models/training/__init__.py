"""What all training shares: optimizers, schedules, randomness."""
