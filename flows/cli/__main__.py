"""`python -m flows.cli`: the `instar` command."""

from flows.cli.main import main

if __name__ == "__main__":
    main()
