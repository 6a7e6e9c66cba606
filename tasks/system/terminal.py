"""What a process prints, whatever its terminal can show and whoever has stopped reading.

Every entry point calls `open_terminal` first.
"""

from __future__ import annotations

import codecs
import errno
import io
import os
import sys
from typing import Any

# What our own messages hold beyond ASCII, for terminals that cannot show it.
_SIGNS = {
    "→": "->", "←": "<-", "…": "...", "–": "-", "—": "-", "−": "-", "·": "-", "×": "x", "±": "+-",
    "≤": "<=", "≥": ">=", "“": '"', "”": '"', "‘": "'", "’": "'", "\N{NO-BREAK SPACE}": " ",
}  # fmt: skip
_ERRORS = "instar.readable"
_STREAMS = {1: "stdout", 2: "stderr"}


def open_terminal() -> None:
    """Make sure that no message can fail, in this process and in those that it starts.

    A sign that the terminal's encoding lacks is written in ASCII, a byte of a file name that is
    not UTF-8 as `\\xff`. Output that nobody takes any more is dropped, the work goes on. All text
    files are UTF-8, as Python's UTF-8 mode has it; under a locale of another encoding the process
    starts itself again in that mode.
    """
    _open_closed_streams()
    _require_utf8_mode()
    codecs.register_error(_ERRORS, _readable)
    for name in _STREAMS.values():
        stream = getattr(sys, name)
        # In a test it may be another's: that one stays.
        if type(stream) is io.TextIOWrapper and stream is getattr(sys, f"__{name}__"):
            lasting = _LastingStream(stream)
            setattr(sys, name, lasting)
            setattr(sys, f"__{name}__", lasting)
    # Those that are started know no handler of ours.
    os.environ["PYTHONIOENCODING"] = f"{_encoding()}:backslashreplace"


def close_terminal(status: Any) -> Any:
    """Bring out all that was printed.

    Returns:
        The exit status: 1 where it was 0 and the output could not be written; that is reported.
        A reader that had enough (`| head`) is not a problem.
    """
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    lost = sys.stdout.lost if isinstance(sys.stdout, _LastingStream) else None
    if lost is None or lost.errno == errno.EPIPE or status:
        return status
    print(
        f"error: the output could not be written ({lost.strerror}): what the command did is done; "
        "send its output elsewhere to see it.",
        file=sys.stderr,
        flush=True,
    )
    return 1


def shown_in(text: str, encoding: str) -> str:
    """The text as a terminal of this encoding will show it."""
    codecs.register_error(_ERRORS, _readable)
    return text.encode(encoding, _ERRORS).decode(encoding, "replace")


class _LastingStream(io.TextIOWrapper):
    """A standard stream that takes any text, and goes on when its reader has gone.

    Attributes:
        lost: Why it could not be written to.
    """

    mode = "w"

    def __init__(self, stream: io.TextIOWrapper):
        line_buffering, encoding = stream.line_buffering, stream.encoding
        through = stream.write_through
        super().__init__(stream.detach(), encoding, _ERRORS, None, line_buffering, through)
        self.lost: OSError | None = None

    def write(self, text: str, /) -> int:
        try:
            return super().write(text)
        except OSError as error:
            self._lose(error)
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            self._lose(error)

    def _lose(self, error: OSError) -> None:
        self.lost = self.lost or error
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self.fileno())
        os.close(null)


def _readable(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    wrong = error.object[error.start : error.end]
    return "".join(_SIGNS.get(sign) or _escaped(sign) for sign in wrong), error.end


def _escaped(sign: str) -> str:
    if "\udc80" <= sign <= "\udcff":  # how Python keeps a byte that is not UTF-8
        return f"\\x{ord(sign) - 0xDC00:02x}"
    return sign.encode("ascii", "backslashreplace").decode("ascii")


def _open_closed_streams() -> None:
    """Occupy what was closed (`>&-`): the next file would take its number, and all the output."""
    for number in (0, *_STREAMS):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for number, name in _STREAMS.items():
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w", encoding="utf-8", closefd=False))  # noqa: SIM115
            setattr(sys, f"__{name}__", getattr(sys, name))


def _require_utf8_mode() -> None:
    if sys.getfilesystemencoding() == "utf-8" or os.environ.get("PYTHONUTF8") == "1":
        return
    os.environ["PYTHONUTF8"] = "1"
    os.environ["PYTHONIOENCODING"] = _encoding()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _encoding() -> str:
    return str(getattr(sys.stdout, "encoding", None) or "utf-8")


def at_terminal() -> bool:
    """Whether a stage's progress bar shows: its stderr is then a terminal."""
    return sys.stderr is not None and sys.stderr.isatty()
