"""Reproduction of a registered version."""
