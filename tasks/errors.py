"""The error a user of the tasks room may see."""


class TaskError(Exception):
    """A problem the user can solve: the message says what is wrong and what to do."""
