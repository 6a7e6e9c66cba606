"""Registered versions: their tags, places and moves."""
