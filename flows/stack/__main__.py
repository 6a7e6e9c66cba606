"""`python -m flows.stack`: start, stop and supervise the stack."""

from flows.stack.supervisor import main

if __name__ == "__main__":
    main()
