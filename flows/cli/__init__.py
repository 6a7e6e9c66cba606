"""The `instar` command line."""
