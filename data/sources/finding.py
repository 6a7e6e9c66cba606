"""Which members of a folder or archive are images, and what is passed over."""

from __future__ import annotations

import posixpath
from collections import Counter
from pathlib import PurePosixPath

from data.errors import DataError
from data.files import BYTES_LIMIT, require_few_bytes
from data.images.formats import START_BYTES
from data.images.reading import looks_like_image
from data.sources.file_names import escaped
from data.sources.members import Container, Member, named_as_image

HIDDEN = "hidden files"
SYSTEM = "files in folders that systems make (thumbnails, recycle bins, snapshots)"
NO_IMAGE = "files that are no images, by name and by content"
REPLACED = "members that another of the same name replaces"
# What NAS boxes, Windows and others put beside a user's files; folders that begin with a dot are
# hidden anyway. Copies of images in them would be classes, or double the data.
SYSTEM_FOLDERS = frozenset(
    (
        "@eadir", "@recycle", "@recycler", "#recycle", "@tmp", "#snapshot", "~snapshot",
        "@recently-snapshot", "@sharebin", "@database", "@transcode", "$recycle.bin",
        "system volume information", "lost+found", "recycler", "thumbs.db", "desktop.ini",
        "_gsdata_", "network trash folder", "temporary items", "__pycache__",
    )
)  # fmt: skip
# Of linked folders, how many the error names.
SHOWN = 4


def find_images(container: Container, passed_over: Counter[str]) -> dict[tuple[str, ...], Member]:
    """Images, and what may be one or cannot be looked at, by the parts of their names.

    Args:
        container: Where to look.
        passed_over: Counts the other files, by what they are.

    Raises:
        DataError: A link leads to a folder with images, which would all be lost with it.
    """
    found: dict[tuple[str, ...], Member] = {}
    lost: list[Member] = []
    for member in container.members():
        parts = visible_parts(member.name)
        if not parts:
            passed_over[HIDDEN] += 1
        elif any(part.casefold() in SYSTEM_FOLDERS for part in parts):
            passed_over[SYSTEM] += 1
        elif member.behind != 0:
            lost.append(member)
        elif not may_be_image(parts[-1], member):
            passed_over[NO_IMAGE] += 1
        else:
            # Of several members of one name the last counts, as when an archive is unpacked: that
            # is how `tar -r` corrects a file.
            if parts in found:
                passed_over[REPLACED] += 1
            found[parts] = member
    if lost:
        raise DataError(_lost_folders(lost))
    return found


def may_be_image(name: str, member: Member) -> bool:
    """By its name or, where that says nothing, by its content; and all that cannot be looked at."""
    if named_as_image(name) or not member.regular:
        return True
    try:
        return looks_like_image(member.read(START_BYTES))
    except Exception:
        return True


def visible_parts(name: str) -> tuple[str, ...]:
    """A name's parts, each file having but one way to be named; empty for a hidden file.

    What climbs out (``..``, ``/``) is left out: a name only labels a sample, nothing is ever
    written or opened under it.
    """
    parts = PurePosixPath(posixpath.normpath(f"/{name}")).parts[1:]
    if any(part.startswith(".") or part == "__MACOSX" for part in parts):
        return ()
    return parts


def whole(member: Member) -> bytes:
    """A member's content, or, of one too large for an image, enough to tell."""
    # An archive of a few kilobytes can declare, and truly hold, terabytes of zeros.
    require_few_bytes(member.size)
    return member.read(BYTES_LIMIT + 1)


def _lost_folders(links: list[Member]) -> str:
    names = ", ".join(sorted(escaped(link.name) for link in links)[:SHOWN])
    more = f" and {len(links) - SHOWN} more" if len(links) > SHOWN else ""
    known = sum(link.behind or 0 for link in links)
    images = f"{known:,} images" if known else "perhaps images"
    if known and any(link.behind is None for link in links):
        images = f"at least {images}"
    return (
        f"data.path: links to folders are not followed, and {images} lie behind {names}{more}. Put "
        "the real folder in the link's place (`cp -rL` copies what a link leads to; `tar -h` and "
        "`zip` without -y pack it), or remove the link."
    )
