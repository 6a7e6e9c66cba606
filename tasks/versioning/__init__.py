"""git and DVC: commits, caches, remotes and keys of stages."""
