"""Parquet and Arrow files, read by batches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

from codi.data.rows import Row, Rows
from codi.data.text_files import other_thing, readable
from codi.errors import DataError

_BATCH = 1_000
_BUFFER = 1 << 16


def read_parquet(path: Path, split: str = "") -> Rows:
    """The rows of a Parquet file. Raises DataError when it is none."""
    import pyarrow.parquet as pq  # type: ignore[import-untyped, unused-ignore]

    if path.stat().st_size == 0:
        return Rows((), iter(()), "row")

    def batches() -> Iterator[Any]:
        with (
            _arrow_faults(path, "Parquet"),
            # Page by page; buffering ahead would read whole row groups.
            pq.ParquetFile(path, buffer_size=_BUFFER, pre_buffer=False) as file,
        ):
            yield from file.iter_batches(_BATCH)

    with _arrow_faults(path, "Parquet"), pq.ParquetFile(path) as file:
        names = tuple(file.schema_arrow.names)
    return Rows(names, _rows(batches()), "row")


def read_arrow(path: Path, split: str = "") -> Rows:
    """The rows of an Arrow file or stream, or of a Feather file. Raises DataError when it is none."""
    import pyarrow as pa  # type: ignore[import-untyped, unused-ignore]

    if path.stat().st_size == 0:
        return Rows((), iter(()), "row")

    @contextmanager
    def opened() -> Iterator[tuple[Any, Iterator[Any]]]:
        with _arrow_faults(path, "Arrow"), pa.memory_map(str(path)) as source:
            if source.read(6) == b"ARROW1":
                with pa.ipc.open_file(source) as file:
                    yield file.schema, map(file.get_batch, range(file.num_record_batches))
            else:
                source.seek(0)
                with pa.ipc.open_stream(source) as stream:
                    yield stream.schema, iter(stream)

    def batches() -> Iterator[Any]:
        with opened() as (_, found):
            yield from found

    with opened() as (schema, _):
        names = tuple(schema.names)
    return Rows(names, _rows(batches()), "row")


@contextmanager
def _arrow_faults(path: Path, form: str) -> Iterator[None]:
    import pyarrow as pa  # type: ignore[import-untyped, unused-ignore]

    try:
        with readable(path):
            yield
    except pa.ArrowException as error:
        with path.open("rb") as file:
            reason = other_thing(file.read(64)) or (
                f"{str(error).rstrip('.')}. Copy it again, or give it the ending of what it is"
            )
        raise DataError(f"The file '{path}' is not a readable {form} file: {reason}.") from error


def _rows(batches: Iterator[Any]) -> Iterator[tuple[int, Row]]:
    import pyarrow as pa  # type: ignore[import-untyped, unused-ignore]

    number = 0
    for batch in batches:
        # As a Python float a short float would show digits that nobody wrote: 0.1 as 0.10000000149.
        short = [field.name for field in batch.schema if field.type in (pa.float16(), pa.float32())]
        for part in (batch.slice(start, _BATCH) for start in range(0, batch.num_rows, _BATCH)):
            exact = {name: part.column(name).to_numpy(zero_copy_only=False) for name in short}
            for place, row in enumerate(part.to_pylist()):
                for name, values in exact.items():
                    if row[name] is not None:
                        row[name] = Decimal(str(values[place]))
                number += 1
                yield number, row
