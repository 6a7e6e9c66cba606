"""What the commands of `instar` do and print."""
