"""Files, locks, processes, terminal and network of this machine."""
