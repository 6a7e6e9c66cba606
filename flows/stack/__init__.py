"""The stack of servers that `make stack` starts."""
