"""Comparison of methods and settings over seeds."""
