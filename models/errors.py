"""The one exception of this room."""


class ModelError(Exception):
    """A problem a user can fix; its text says what is wrong and what to do."""
