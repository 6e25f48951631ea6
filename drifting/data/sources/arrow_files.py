"""Tables in parquet and arrow files: schemas, arrow files mapped into memory, and copies of parquet that can be."""

import json
import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from drifting.data.sources.splits import not_what_it_seems
from drifting.errors import InputError, MachineError, one_line, while_reading

logger = logging.getLogger("drifting")

ROWS = b"drifting.rows"
"""The key of the copy's metadata that says the rows of each file, as JSON."""

ROWS_A_BATCH = 256
"""Rows of a batch of the copy."""

ANNOUNCED_BYTES = 2**28
"""Bytes from which on copying takes long enough to be announced."""


def schema_of(file: Path) -> Any:
    """The schema of a parquet or an arrow file."""
    from pyarrow import parquet as reader

    return reader.read_schema(file) if file.suffix == ".parquet" else mapped(file).schema


def mapped(file: Path) -> Any:
    """An arrow file's table, where it lies. `datasets` writes streams, which have no list of their batches."""
    import pyarrow
    from pyarrow import ipc

    source = pyarrow.memory_map(str(file))
    is_file = source.read(6) == b"ARROW1"
    source.seek(0)
    return (ipc.open_file(source) if is_file else ipc.open_stream(source)).read_all()


def row_counts(files: Sequence[Path]) -> list[int]:
    """The rows of each parquet file, which its end says."""
    from pyarrow import parquet as reader

    counts = []
    for file in files:
        with reading_table(file):
            counts.append(int(reader.read_metadata(file).num_rows))
    return counts


def copy_columns(path: Path, files: Sequence[Path], to: Path, schema: Any) -> None:
    """Copies the columns of a schema out of parquet files into one arrow file, whose metadata say the rows of each."""
    from pyarrow import ipc
    from pyarrow import parquet as reader

    size = sum(file.stat().st_size for file in files)
    if size > shutil.disk_usage(to.parent).free:
        raise MachineError(f"{path}: its copy in {to.parent} takes {size / 1e9:.1f} GB and finds no room: make some")
    if size > ANNOUNCED_BYTES:
        logger.info("data: copying %.1f GB of %s into %s, once", size / 1e9, path, to.parent)
    rows_of_each = json.dumps(row_counts(files))
    with ipc.new_file(str(to), schema.with_metadata({ROWS: rows_of_each})) as out:
        for file in files:
            with reading_table(file), reader.ParquetFile(file) as rows:
                check_has(file, rows.schema_arrow, schema.names, files[0])
                for batch in rows.iter_batches(ROWS_A_BATCH, columns=schema.names):
                    columns = [cast_column(file, batch.column(field.name), field, files[0]) for field in schema]
                    out.write_batch(type(batch).from_arrays(columns, schema=schema))


def copied_rows(file: Path, names: Sequence[str]) -> list[int]:
    """The rows of each file that `copy_columns` has copied into this one.

    Raises:
        InputError: it has not been written by that, or not these columns, or is damaged.
    """
    with reading_table(file):
        table = mapped(file)
        counts: list[int] = json.loads((table.schema.metadata or {}).get(ROWS, b"[]"))
        if table.schema.names != list(names) or sum(counts) != len(table) or not counts:
            raise InputError(f"{file}: is no copy of {', '.join(names)}")
        return counts


def check_has(file: Path, schema: Any, names: Sequence[str], first: Path) -> None:
    """Raises `InputError` unless a file has the columns that are read of the first."""
    if missing := [name for name in names if name not in schema.names]:
        there = ", ".join(schema.names)[:200]
        remedy = "write both alike, or leave one out"
        raise InputError(f"{file}: has no column {missing[0]!r}, which {first.name} has, but {there}: {remedy}")


def cast_column(file: Path, column: Any, field: Any, first: Path) -> Any:
    """A column as the type that it has in the first file.

    Raises:
        InputError: it cannot be.
    """
    import pyarrow

    try:
        return column if column.type == field.type else column.cast(field.type)
    except (pyarrow.ArrowInvalid, pyarrow.ArrowNotImplementedError) as error:
        types = f"of {column.type}, and of {field.type} in {first.name}"
        raise InputError(f"{file}: its column {field.name!r} is {types}: write both alike, or leave one out") from error


@contextmanager
def reading_table(file: Path) -> Iterator[None]:
    """What is wrong with a file becomes an `InputError` that names it; what the machine refuses, a `MachineError`."""
    try:
        with while_reading(file):
            yield
    except (InputError, MachineError):
        raise
    except Exception as error:  # Arrow's errors derive from several of Python's
        raise InputError(f"{file}: cannot be read ({one_line(error)[:200]}): {not_what_it_seems(file)}") from error
