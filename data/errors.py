"""The one exception of this room."""


class DataError(Exception):
    """A problem with the data that its owner can solve.

    The message is shown to the user as it is: one or two sentences that name the file, key or row
    at fault and what to do about it.
    """
