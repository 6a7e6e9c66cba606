"""Images in an S3 bucket, read object by object; keys and endpoint come from the environment."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from typing import Any

from data.errors import DataError
from data.sources.members import Member

# Seconds without a connection, or without a byte, after which a try has failed; each is repeated.
CONNECT_SECONDS, READ_SECONDS = 10, 60
TRIES = 4


class Bucket:
    """The objects below a prefix; of a container's kind, see `data.sources.members`."""

    def __init__(self, address: str):
        """List them.

        Raises:
            DataError: The store does not answer, refuses the keys, or has no such bucket.
        """
        from s3fs import S3FileSystem

        self._address = address
        self._prefix = address.removeprefix("s3://").strip("/")
        self._outage: BaseException | None = None
        self._lock = threading.Lock()
        if not self._prefix:
            raise DataError(f"--input: {address} names no bucket; write s3://bucket/prefix.")
        try:
            self._store = S3FileSystem(
                config_kwargs={
                    "connect_timeout": CONNECT_SECONDS,
                    "read_timeout": READ_SECONDS,
                    "retries": {"max_attempts": TRIES, "mode": "standard"},
                },
                # What was listed before may be another thing now.
                use_listings_cache=False,
                skip_instance_cache=True,
            )
            self._objects: dict[str, dict[str, Any]] = self._store.find(self._prefix, detail=True)
            if not self._objects:
                # An empty prefix and a bucket that is not there look the same.
                self._store.ls(self._prefix.partition("/")[0])
        except FileNotFoundError:
            bucket = self._prefix.partition("/")[0]
            raise DataError(
                f"--input: bucket {bucket} does not exist; correct the address."
            ) from None
        except Exception as error:
            raise self._unanswered(error) from None

    def members(self) -> Iterator[Member]:
        """Every object, by its name below the prefix, in order."""
        for key, found in sorted(self._objects.items()):
            if found["type"] == "file" and not key.endswith("/"):
                size = int(found["size"] or 0)
                yield Member(self._name(key), partial(self._read, key, size), size=size)

    def state(self, name: str) -> bytes:
        """What changes when the object of this name does."""
        found = self._objects.get(f"{self._prefix}/{name}") or self._objects[self._prefix]
        return f"{found.get('ETag')} {found.get('LastModified')}".encode()

    def require_answers(self) -> None:
        """See that no read failed for want of an answer.

        Raises:
            DataError: One did; it says nothing of the image.
        """
        if self._outage is not None:
            raise self._unanswered(self._outage)

    def close(self) -> None:
        """Nothing stays open but a connection, which ends with the process."""

    def _name(self, key: str) -> str:
        inside = key.removeprefix(f"{self._prefix}/")
        return inside if inside != key else key.rpartition("/")[2]

    def _read(self, key: str, size: int, limit: int) -> bytes:
        if not size:
            return b""
        try:
            content: bytes = self._store.cat_file(key, start=0, end=min(size, limit))
            return content
        except FileNotFoundError:
            raise  # deleted since: that says nothing of the others
        except Exception as error:
            with self._lock:
                self._outage = self._outage or error
            raise

    def _unanswered(self, error: BaseException) -> DataError:
        said = " ".join(str(error).split())[:200] or type(error).__name__
        return DataError(
            f"--input: {self._address} cannot be read ({said}); check AWS_ENDPOINT_URL_S3, "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and that the store runs; then run the "
            "same command again."
        )
