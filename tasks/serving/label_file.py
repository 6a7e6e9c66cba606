"""The file that a prediction writes: Parquet or CSV, as its name says."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.errors import TaskError

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow.csv import CSVWriter
    from pyarrow.parquet import ParquetWriter

ENDINGS = (".parquet", ".csv")


def require_ending(path: Path) -> None:
    """Refuse a name that says another format than those which can be written, or none.

    Raises:
        TaskError: It ends in none of `ENDINGS`, in small letters or capitals.
    """
    if path.suffix.lower() not in ENDINGS:
        raise TaskError(
            f"--output: {path} says no format that can be written; end its name in .parquet (keeps "
            "the types of the columns) or .csv."
        )


def open_writer(
    path: Path, ending: str, schema: pa.Schema
) -> AbstractContextManager[CSVWriter | ParquetWriter]:
    """What writes tables of a schema, one after the other, into a file.

    CSV is UTF-8 with a line of names; text is quoted, and a null is nothing between two commas.

    Args:
        path: The file.
        ending: One of `ENDINGS`.
        schema: Of every table; its metadata is kept by Parquet alone.
    """
    if ending == ".csv":
        from pyarrow.csv import CSVWriter

        return CSVWriter(str(path), schema)
    from pyarrow.parquet import ParquetWriter

    return ParquetWriter(path, schema, compression="zstd")
