"""What a folder's name says by itself: a split, no labels, an occasion, or a class."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from typing import Literal

from data.sources.file_names import escaped

Role = Literal["train", "val", "test"]

UNLABELLED = ("unlabelled", "unlabeled")
_LETTERS = re.compile(r"[^\W\d_]+")
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")

_ROLES: Mapping[str, Role] = {
    "train": "train", "training": "train", "trn": "train",
    "test": "test", "testing": "test", "tst": "test", "holdout": "test",
    "val": "val", "valid": "val", "validation": "val", "dev": "val", "eval": "val",
    "evaluation": "val",
}  # fmt: skip
# Words that say nothing more of a split's folder.
_FILLERS = (
    "set", "data", "dataset", "images", "image", "imgs", "img", "split", "samples", "pictures",
    "photos", "files", "folder",
)  # fmt: skip
_GLUED = re.compile(rf"({'|'.join(_ROLES)})(?:{'|'.join(_FILLERS)})")
# Folders within a class that sort its images by when or how they were taken.
_OCCASION = re.compile(
    r"(19|20)\d\d([-_. ]?(\d\d|w\d\d?|q\d))?([-_. ]?\d\d)?([-_. t]\d.*)?"
    r"|(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*[-_. ]?\d*"
    r"|(batch|session|cam|camera|day|week|month|year|part|page|seq|sequence|run|shot|roll|chunk"
    r"|shard|img|image|dsc|frame|clip|video|series|study|scan|slide|tile|visit)[-_. ]?\d+"
    r"|images?|imgs?|photos?|pictures?|raw|originals?|jpe?gs?|pngs?|crops?|cropped|resized|more"
)
# Numbered names that are classes all the same; WordNet's ids among them.
_NUMBERED_CLASS = re.compile(r"class|category|grade|kind|label|level|species|stage|type|^n\d{8}$")


def is_unlabelled(folder: str) -> bool:
    """Whether a folder's name says that its images have no labels."""
    words = _LETTERS.findall(folder.casefold())
    return "".join(word for word in words if word not in _FILLERS) in UNLABELLED


def class_name(folder: str) -> str:
    """The class that a folder stands for: one spelling for what is the same text.

    macOS writes an accent apart from its letter (NFD), others write both as one character (NFC).
    """
    return escaped(unicodedata.normalize("NFC", folder))


def look(folder: str) -> str:
    """A name as a reader sees it: without extra spaces, invisible and full-width characters."""
    plain = unicodedata.normalize("NFKC", folder)
    return " ".join("".join(c for c in plain if unicodedata.category(c) != "Cf").split())


def role_of(folder: str) -> tuple[Role, tuple[str, ...]] | None:
    """What split a folder's name stands for, and what else the name says."""
    plain = _CAMEL.sub(" ", unicodedata.normalize("NFC", folder))
    words = _LETTERS.findall(plain.casefold())
    words = [glued[1] if (glued := _GLUED.fullmatch(word)) else word for word in words]
    roles = [word for word in words if word in _ROLES]
    rest = tuple(word for word in words if word not in _ROLES and word not in _FILLERS)
    return (_ROLES[roles[0]], rest) if len(roles) == 1 else None


def is_occasion(folder: str) -> bool:
    """Whether a name says only when or how images were taken."""
    return _OCCASION.fullmatch(folder.casefold()) is not None


def says_nothing(folder: str) -> bool:
    """Whether a folder within a class is hardly a class of its own: a date, or one of a series."""
    numbered = any(map(str.isdigit, folder)) and not _NUMBERED_CLASS.search(folder.casefold())
    return numbered or is_occasion(folder)
