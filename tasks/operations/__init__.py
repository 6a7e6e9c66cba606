"""Health checks and repairs of an installation."""
