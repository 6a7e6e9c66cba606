"""Layers that methods and learners share."""
