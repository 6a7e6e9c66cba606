"""The pretraining loop, and what watches it."""
