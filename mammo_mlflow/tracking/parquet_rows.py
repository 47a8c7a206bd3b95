"""Read a Parquet file that came with a request: no more of it than the rows of a request can be."""

from __future__ import annotations

import io
from collections.abc import Iterator

from mammo_mlflow.errors import UserError, expected

CODECS = ("UNCOMPRESSED", "SNAPPY", "LZ4", "LZ4_RAW")
"""Compressions that make a file at most some hundred times larger, not millions of times."""
MOST_COLUMNS, MOST_ROWS = 100, 10_000
MOST_BYTES = 2**28
"""The most that all columns may have in memory."""
ROWS_AT_ONCE = 64


def read_table(body: bytes, numbers: int) -> tuple[list[str], Iterator[list[object]]]:
    """Read names and columns of a table whose rows have at most so many `numbers`. Raises `UserError`."""
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(io.BytesIO(body))
        _check(file, numbers)
        columns = _read(file)
    except UserError:
        raise
    except Exception as problem:  # Arrow has many
        raise expected("request", "a Parquet file", f"something else ({problem})") from None
    return [str(name) for name in columns], iter(columns.values())


def _check(file, numbers: int) -> None:  # type: ignore[no-untyped-def]  # Arrow has no types
    """Refuse a file by what it says of itself, before anything is unpacked."""
    about = file.metadata
    if about.num_rows > MOST_ROWS or about.num_columns > MOST_COLUMNS:
        found = f"{about.num_rows:,} rows of {about.num_columns:,}"
        raise expected("request", f"a table of at most {MOST_ROWS:,} rows of {MOST_COLUMNS} columns", found)
    parts = [about.row_group(at).column(of) for at in range(about.num_row_groups) for of in range(about.num_columns)]
    for one in parts:
        if one.compression not in CODECS:
            raise expected("request", f"a Parquet file compressed by {', '.join(CODECS)}", one.compression)
    values, size = sum(one.num_values for one in parts), sum(one.total_uncompressed_size for one in parts)
    most = about.num_rows * (numbers + MOST_COLUMNS)
    if values > most or size > MOST_BYTES:
        wanted = f"a table of at most {most:,} numbers in {MOST_BYTES:,} bytes"
        raise expected("request", wanted, f"{values:,} in {size:,}")


def _read(file) -> dict[str, list[object]]:  # type: ignore[no-untyped-def]
    """The columns by name: of lists an array for each row, of anything else its values."""
    columns: dict[str, list[object]] = {name: [] for name in file.schema_arrow.names}
    size = 0
    for batch in file.iter_batches(batch_size=ROWS_AT_ONCE, use_threads=False):
        size += batch.nbytes
        if size > MOST_BYTES:
            raise expected("request", f"a table of at most {MOST_BYTES:,} bytes", "more")
        for name, values in zip(columns, batch.to_pandas().items(), strict=True):
            columns[name] += list(values[1])
    return columns
