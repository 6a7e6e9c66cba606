"""Text for people, without users and passwords in addresses."""

from __future__ import annotations

import re


def shown(text: str) -> str:
    """The text, an address or a message with addresses in it, without users and passwords."""
    # To the last @: a password may hold one, and even a slash.
    return re.sub(r"(?<=://)[^\s'\"]*@", "", text)
