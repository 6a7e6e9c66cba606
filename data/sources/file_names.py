"""File names as text that any table, page or terminal can hold, and back.

A name is bytes: it may be no UTF-8, hold a newline, a quote or a terminal's control codes.
"""

import re

_ESCAPE = re.compile(r"\\(?:(\\)|x([0-9a-f]{2})|u([0-9a-f]{4})|U([0-9a-f]{8}))")
# How Python stands for a byte that is not UTF-8 (PEP 383).
_FIRST_BYTE, _LAST_BYTE = 0xDC80, 0xDCFF


def escaped(name: str) -> str:
    r"""A name without anything unprintable: ``\xff`` for a byte, ``\u2028`` for a character.

    Different names stay different, since a backslash becomes two; `unescaped` is the inverse.
    """
    return printable(name.replace("\\", "\\\\"))


def unescaped(text: str) -> str:
    """The name that `escaped` made `text` of; ``os.fsencode`` gives its bytes."""
    return _ESCAPE.sub(_original, text)


def printable(text: str) -> str:
    """Any text on one line, what cannot be printed written as `escaped` does."""
    return text if text.isprintable() else "".join(map(_shown, text))


def _shown(char: str) -> str:
    code = ord(char)
    if char.isprintable():
        return char
    if _FIRST_BYTE <= code <= _LAST_BYTE:
        return f"\\x{code - 0xDC00:02x}"
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def _original(found: re.Match[str]) -> str:
    backslash, byte, *character = found.groups()
    if backslash:
        return "\\"
    if byte:
        return chr(int(byte, 16) + (0xDC00 if int(byte, 16) >= 0x80 else 0))
    return chr(int(character[0] or character[1], 16))
