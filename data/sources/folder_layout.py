"""What the folders around images mean: split, class, or neither.

The top folder is the class, as in torchvision's ImageFolder; folders below it say nothing. Folders
called train and test (or alike) beside each other are splits, and the class is the folder below.
What can be read in two ways is refused with both readings: a guess would be wrong labels, or test
images in the training set, and nothing later would show it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from data.errors import DataError
from data.samples import Split
from data.sources.file_names import escaped
from data.sources.folder_names import (
    Role,
    class_name,
    is_occasion,
    is_unlabelled,
    look,
    role_of,
    says_nothing,
)

Parts = tuple[str, ...]

TRAIN, HELD_OUT = "train", ("test", "val")
# Of a list of folders, how many an error names.
SHOWN = 4


class Layout(NamedTuple):
    """How the images of one container are read.

    Attributes:
        depth: Folders that are wrapped around all others.
        roles: Folders that are splits; empty if none is.
        wrapped: Of each of these, the folders that are wrapped around its classes.
        classes: Folders of classes of the training set.
        ignored: Folders below these whose names may have been meant to be classes.
    """

    depth: int
    roles: Mapping[str, Role]
    wrapped: Mapping[str, int]
    classes: Collection[str]
    ignored: Collection[str]

    @property
    def test_from(self) -> str | None:
        """The folder that is the test set; None where there is none."""
        wanted = "test" if "test" in self.roles.values() else "val"
        held_out = [name for name, role in self.roles.items() if role == wanted]
        return f"{escaped(held_out[0])}/" if held_out else None

    def place(self, parts: Parts) -> tuple[Split, str | None] | None:
        """Split and class of an image by the parts of its name; None if it lies in neither."""
        if is_unlabelled(parts[0]):
            return "unlabelled", None
        parts = parts[self.depth :]
        if len(parts) < 2 or is_unlabelled(parts[0]):
            return "unlabelled", None
        if not self.roles:
            return "train", class_name(parts[0])
        role = self.roles.get(parts[0])
        below = parts[1 + self.wrapped.get(parts[0], 0) :]
        if any(map(is_unlabelled, (*parts[1:2], *below[:1]))):
            return "unlabelled", None
        if role is None or len(below) < 2:
            return None
        # With a test/ of its own, a val/ is more labelled data: no choice here is made on it.
        held_out = role == "test" or (role == "val" and "test" not in self.roles.values())
        return ("test" if held_out else "train"), class_name(below[0])


def read_layout(names: Iterable[Parts]) -> Layout:
    """Finds the layout of images by the parts of their names.

    Raises:
        DataError: There are two ways to read it, or a test set without a training set.
    """
    names = [parts for parts in names if len(parts) > 1 and not is_unlabelled(parts[0])]
    depth = _wrapping_depth(names)
    inside = [parts[depth:] for parts in names if len(parts) > depth + 1]
    inside = [parts for parts in inside if not is_unlabelled(parts[0])]
    roles = _find_roles(inside)
    if not roles:
        _require_classes_at_top(inside)
        return Layout(depth, {}, {}, {parts[0] for parts in inside}, _ignored(inside))
    wrapped: dict[str, int] = {}
    classes: dict[Role, set[str]] = {"train": set(), "val": set(), "test": set()}
    ignored: set[str] = set()
    for top, role in sorted(roles.items(), key=lambda item: item[1] != "train"):
        below = [parts[1:] for parts in inside if parts[0] == top and len(parts) > 2]
        below = [parts for parts in below if not is_unlabelled(parts[0])]
        if not below:
            raise DataError(
                f"data.path: the images in {escaped(top)}/ lie in no class folder, so their "
                f"classes are not known: move them to {escaped(top)}/<class>/ or, if they have no "
                "labels, to unlabelled/."
            )
        wrapped[top] = _wrapping_depth(below, classes["train"])
        below = [parts[wrapped[top] :] for parts in below if len(parts) > wrapped[top] + 1]
        below = [parts for parts in below if not is_unlabelled(parts[0])]
        _require_one_reading(below, f"{top}/")
        classes[role] |= {parts[0] for parts in below}
        ignored |= _ignored(below)
    learned = classes["train"] | (classes["val"] if "test" in roles.values() else set())
    return Layout(depth, roles, wrapped, learned, ignored)


def _ignored(inside: Iterable[Parts]) -> set[str]:
    """Folders below the top that do not merely say when or how an image was taken."""
    return {
        f"{parts[0]}/{folder}"
        for parts in inside
        for folder in parts[1:-1]
        if not says_nothing(folder)
    }


def notes_on(layout: Layout) -> list[str]:
    """What a reader should know of how the folders were read.

    Raises:
        DataError: Names of classes differ by what cannot be seen.
    """
    notes, folders = [], layout.classes
    if layout.ignored:
        notes.append(f"folders within a class are not classes: {_listed(layout.ignored)}")
    for same in _groups(folders, class_name):
        notes.append(f"folders whose names are the same text are one class: {_spelled(same)}")
    classes = {class_name(folder): folder for folder in folders}.values()
    for alike in _groups(classes, look):
        raise DataError(
            f"data.path: the folders {_spelled(alike)} are different classes by names that look "
            "the same; give them one name, or names that differ to the eye."
        )
    for alike in _groups(classes, str.casefold):
        notes.append(f"classes whose names differ by upper and lower case: {_spelled(alike)}")
    return notes


def _groups(names: Iterable[str], key: object) -> list[list[str]]:
    """Names that share a key with another one."""
    found: dict[str, list[str]] = defaultdict(list)
    for name in sorted(names):
        found[key(name)].append(name)  # type: ignore[operator]
    return [group for group in found.values() if len(group) > 1]


def _spelled(names: Iterable[str]) -> str:
    return ", ".join(map(ascii, names))


def _listed(names: Iterable[str]) -> str:
    names = sorted(names)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(map(escaped, names[:SHOWN])) + more


def _wrapping_depth(names: Sequence[Parts], classes: Collection[str] = ()) -> int:
    """How many folders, none of them one of `classes`, are wrapped around the classes."""
    depth = 0
    while True:
        inside = [parts for parts in names if len(parts) > depth + 1]
        tops = {parts[depth] for parts in inside}
        special = tops & {TRAIN, *HELD_OUT, *classes} or any(map(is_unlabelled, tops))
        below = {parts[depth + 1] for parts in inside if len(parts) > depth + 2}
        direct = any(len(parts) == depth + 2 for parts in inside)
        # One class over dates is not a wrapping folder over classes.
        occasions = len(below) > 1 and all(map(is_occasion, below))
        if len(tops) != 1 or special or not below or (direct and len(below) == 1) or occasions:
            return depth
        depth += 1


def _find_roles(inside: Sequence[Parts]) -> dict[str, Role]:
    """The folders at the top that are splits; empty if they are classes.

    Raises:
        DataError: Some seem to be, but cannot be told apart.
    """
    tops = {parts[0] for parts in inside}
    folders = _folders_below(inside)
    named = {top: found for top in sorted(tops) if (found := role_of(top))}
    trains = [top for top, (role, _) in named.items() if role == "train"]
    if not trains:
        for alone in sorted(named):
            if alone in HELD_OUT or folders[alone] & tops:
                raise DataError(
                    f"data.path: there is {escaped(alone)}/ but no train/; move the other classes "
                    f"to train/<class>/, or rename {escaped(alone)}/ if it holds no test images."
                )
        return {}
    held_out = [top for top, (role, _) in named.items() if role != "train"]
    sure = TRAIN in tops or (
        any(folders[top] for top in trains) and (held_out or tops == {*trains})
    )
    apart = {named[top][1] for top in trains} & {named[top][1] for top in held_out}
    if not sure and apart:
        raise DataError(
            f"data.path: the folders {_listed(named)} are splits by their names, but hold images "
            "and no class folders: move the images to train/<class>/ and test/<class>/, or rename "
            "the folders if they are classes."
        )
    if not sure:
        return {}
    main = TRAIN if TRAIN in trains else trains[0]
    roles: dict[str, Role] = {}
    for top in sorted(tops, key=lambda top: (top != main, top)):
        role, rest = named.get(top, (None, ()))
        if role and rest == named[main][1] and role not in roles.values():
            roles[top] = role
        elif folders[top] & folders[main] or (role and folders[top]):
            raise DataError(
                f"data.path: {escaped(top)}/ holds class folders ({_listed(folders[top])}) as "
                f"{escaped(main)}/ does, and its name does not say which split it is, or says one "
                "that another folder is: rename it to train/, val/ or test/, merge it with one of "
                "these, or move it out of the data."
            )
    return roles


def _folders_below(inside: Iterable[Parts]) -> dict[str, set[str]]:
    """Of each top folder, the names of all folders below it."""
    found: dict[str, set[str]] = defaultdict(set)
    for parts in inside:
        found[parts[0]].update(parts[1:-1])
    return found


def _require_classes_at_top(inside: Sequence[Parts]) -> None:
    """Refuse top folders that may be splits, or of which only some are classes."""
    folders = _folders_below(inside)
    for top in sorted(folders):
        if len(folders[top]) > 1 and folders[top] & {*folders} - {top}:
            both = _listed(folders[top] & {*folders} - {top})
            raise DataError(
                f"data.path: {escaped(top)}/ holds folders of the same names as those beside it "
                f"({both}), so it can be a class of its own, or images of these classes, as a test "
                "set is: move the classes to train/<class>/ and rename it to test/, val/ or "
                "unlabelled/; or rename the folders in it."
            )
    names: dict[str, set[str]] = defaultdict(set)
    for top, below in sorted(folders.items()):
        splits = {folder: found[0] for folder in below if (found := role_of(folder))}
        if "train" in splits.values() and len({*splits.values()}) > 1:
            raise DataError(
                f"data.path: {escaped(top)}/ holds splits ({_listed(splits)}), which are read at "
                "the top: move the images to train/<class>/ and test/<class>/, and other folders "
                "out of the data."
            )
        for folder in below:
            if not is_occasion(folder):
                names[look(folder).casefold()].add(top)
    shared = {name for name, tops in names.items() if len(tops) > 1}
    if shared and len(names) > 1:
        tops = {top for name in shared for top in names[name]}
        raise DataError(
            f"data.path: the folders {_listed(tops)} hold folders of the same names "
            f"({_listed(shared)}), so there are two readings. (1) {_listed(tops)} are splits of "
            f"the classes {_listed(shared)}: rename them to train/ and test/ (or val/), or merge "
            f"their folders. (2) {_listed(tops)} are the classes: move the images in their folders "
            "up into them."
        )
    _require_one_reading(inside, "")


def _require_one_reading(inside: Sequence[Parts], where: str) -> None:
    """Refuse classes that may as well lie below the top folders: at two depths, or in kinds.

    Raises:
        DataError: Shows both readings.
    """
    direct = {parts[0] for parts in inside if len(parts) == 2}
    deep: dict[str, set[str]] = defaultdict(set)
    for parts in inside:
        if parts[0] not in direct and not says_nothing(parts[-2]):
            deep[parts[0]].add(parts[-2])
    # One folder in each class is but another name for it.
    if not deep or not (direct or any(len(below) > 1 for below in deep.values())):
        return
    tops = {parts[0] for parts in inside}
    leaves = (tops - {*deep}).union(*deep.values())
    some, below = max(sorted(deep.items()), key=lambda item: len(item[1]))
    raise DataError(
        f"data.path: the folders{' in ' + escaped(where) if where else ''} have two readings. (1) "
        f"By the top folder, {len(tops)} classes: {_listed(tops)}; then move the images in the "
        f"folders of {escaped(some)}/ up into it, and so on. (2) By the folder that an image lies "
        f"in, {len(leaves)} classes: {_listed(leaves)}; then move {_listed(below)} up, out of "
        f"{escaped(some)}/, and so on."
    )
