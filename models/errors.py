"""The exceptions of this room."""


class ModelError(Exception):
    """A problem a user can fix; its text says what is wrong and what to do."""


class UnhealthyError(ModelError):
    """A training diverged or collapsed: to go on with it is of no use."""
