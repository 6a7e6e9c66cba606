"""Metrics of predictions on the test set, with confidence intervals."""
