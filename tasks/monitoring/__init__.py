"""Watching the raw data for changes and drift."""
