"""Encoders: networks that turn images into features."""
