"""Methods that solve a made-up task on each image."""
