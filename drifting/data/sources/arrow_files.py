"""Tables in parquet and arrow files: schemas, arrow files mapped into memory, and copies of parquet that can be."""

import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from drifting.data.sources.splits import not_what_it_seems
from drifting.errors import InputError, MachineError, one_line, while_reading

logger = logging.getLogger("drifting")

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


def copy_columns(path: Path, files: Sequence[Path], to: Path, schema: Any) -> None:
    """Copies the columns of a schema out of parquet files into one arrow file."""
    from pyarrow import ipc
    from pyarrow import parquet as reader

    size = sum(file.stat().st_size for file in files)
    if size > shutil.disk_usage(to.parent).free:
        raise MachineError(f"{path}: its copy in {to.parent} takes {size / 1e9:.1f} GB and finds no room: make some")
    if size > ANNOUNCED_BYTES:
        logger.info("data: copying %.1f GB of %s into %s, once", size / 1e9, path, to.parent)
    with ipc.new_file(str(to), schema) as out:
        for file in files:
            with reading_table(file), reader.ParquetFile(file) as rows:
                for batch in rows.iter_batches(ROWS_A_BATCH, columns=schema.names):
                    out.write_batch(batch.select(schema.names).cast(schema))


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
