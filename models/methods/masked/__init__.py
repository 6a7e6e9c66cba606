"""Methods that predict hidden parts of an image."""
