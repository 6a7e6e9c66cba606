"""Which samples are kept: exact duplicates and contradictory labels are found here."""

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from data.samples import Sample, Split, id_of
from data.sources.file_names import printable
from data.store.quarantine import DUPLICATE, SAME_PIXELS, kind_of


class Refused(NamedTuple):
    """A sample without pixels in the store."""

    source: str
    digest: bytes | None
    words: str
    """Why, to be followed by the name of `of` if there is one."""
    of: int | None = None
    """The kept row that it is a duplicate of."""


class Ledger:
    """The index table in the making: a row for each sample, the kept ones in the order of their
    pixels, then the refused ones.

    It holds some 300 bytes a sample, and no pixels.
    """

    def __init__(self) -> None:
        self._seen: dict[bytes, int] = {}
        self._digests: list[bytes] = []
        self._sources: list[str] = []
        self._splits: list[Split | None] = []
        self._labels: list[int] = []
        self._reasons: dict[int, str] = {}
        self._refused: list[Refused] = []
        self.duplicates = 0
        self.given: Counter[int | None] = Counter()
        """Of each class, how many samples came; `unread`: how many of them without pixels."""
        self.unread: Counter[int | None] = Counter()

    @property
    def kept(self) -> int:
        """Number of samples with pixels in the store."""
        return len(self._sources)

    @property
    def quarantined(self) -> int:
        """Number of samples that are in no split, duplicates not counted."""
        return len(self._refused) + len(self._reasons) - self.duplicates

    def quarantine(self) -> Iterator[tuple[str, str]]:
        """Source and reason of each sample that `quarantined` counts, in the index's order."""
        for row, reason in sorted(self._reasons.items()):
            yield self._sources[row], reason
        for refused in self._refused:
            if refused.of is None:
                yield refused.source, refused.words

    def frequent_reasons(self) -> list[tuple[str, int]]:
        """Kinds of reasons in `quarantine` and how often each occurs, the most frequent first."""
        counted = Counter(kind_of(reason) for _, reason in self.quarantine())
        return sorted(counted.items(), key=lambda kind: (-kind[1], kind[0]))

    def refuse(self, sample: Sample, reason: str) -> None:
        """Quarantine a sample without pixels."""
        self.given[sample.label] += 1
        self.unread[sample.label] += 1
        self._refused.append(Refused(sample.source, None, printable(reason)))

    def admit(self, sample: Sample, digest: bytes) -> bool:
        """Enter a sample by the SHA-256 of its pixels.

        Returns:
            Whether its pixels belong into the store. They do not if the same pixels came before;
            if these carried another label, neither can be trusted and the former leaves its split.
        """
        self.given[sample.label] += 1
        row = self._seen.setdefault(digest, self.kept)
        if row == self.kept:
            self._digests.append(digest)
            self._sources.append(sample.source)
            self._splits.append(sample.split)
            self._labels.append(-1 if sample.label is None else sample.label)
            return True
        first = self._sources[row]
        if sample.label is not None and sample.label != self._labels[row] >= 0:
            # The reason names no label: one of the two may be a test image's.
            self._reasons.setdefault(row, f"{sample.source} {SAME_PIXELS}")
            self._splits[row] = None
            reason = f"{first} {SAME_PIXELS}"
            self._refused.append(Refused(sample.source, digest, reason))
        else:
            self.duplicates += 1
            self._refused.append(Refused(sample.source, digest, DUPLICATE, row))
        return False

    def splits(self) -> np.ndarray:
        """Split of each kept row: "train", "test", "unlabelled", or "" if quarantined; (N,)."""
        return np.array([split or "" for split in self._splits], dtype="U10")

    def labels(self) -> np.ndarray:
        """Label of each kept row, -1 for none; (N,) int64."""
        return np.array(self._labels, dtype=np.int64)

    def ids(self) -> list[str]:
        """A short name of each row, made of its source's name alone: 16 hex digits."""
        return list(map(id_of, self._all_sources()))

    def table(self, splits: np.ndarray) -> pa.Table:
        """The index as it is stored.

        Of test images it has neither labels nor sources, nor the sources of their duplicates: a
        file's name often holds its class.

        Args:
            splits: Final split of each kept row, "" for none; (N,).
        """
        refused = len(self._refused)
        labels, ids, test = self.labels(), self.ids(), splits == "test"
        hidden = (labels < 0) | (splits != "train")
        names = self._all_sources()
        digests = [*self._digests, *(r.digest for r in self._refused)]
        known = [
            f"test image {id_}" if hide else name
            for id_, name, hide in zip(ids, names, test, strict=False)
        ]
        reasons = [
            *map(self._reasons.get, range(self.kept)),
            *(r.words if r.of is None else f"{r.words} {known[r.of]}" for r in self._refused),
        ]
        return pa.table(
            {
                "id": pa.array(ids, pa.string()),
                "source": pa.array(names, pa.string(), mask=self._of_test(test)),
                "sha256": pa.array([d and d.hex() for d in digests], pa.string()),
                "split": pa.array(
                    [*(s or None for s in splits.tolist()), *[None] * refused], pa.string()
                ),
                "label": pa.concat_arrays(
                    [pa.array(labels, pa.int64(), mask=hidden), pa.nulls(refused, pa.int64())]
                ),
                "reason": pa.array(reasons, pa.string()),
            }
        )

    def hidden_sources(self, splits: np.ndarray) -> pa.Table:
        """What `table` leaves out: id and source of the test images and of their duplicates."""
        rows = np.flatnonzero(self._of_test(splits == "test"))
        ids, names = self.ids(), self._all_sources()
        return pa.table(
            {
                "id": pa.array([ids[row] for row in rows], pa.string()),
                "source": pa.array([names[row] for row in rows], pa.string()),
            }
        )

    def _all_sources(self) -> list[str]:
        return [*self._sources, *(refused.source for refused in self._refused)]

    def _of_test(self, test: np.ndarray) -> np.ndarray:
        """Rows of the index, refused ones included, that are a test image or a copy of one."""
        copies = [r.of is not None and bool(test[r.of]) for r in self._refused]
        return np.concatenate([test, np.array(copies, bool)])
