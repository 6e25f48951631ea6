"""Pictures in parquet or arrow files, as data sets of the Hugging Face hub are kept."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drifting.data.class_labels import UNLABELLED, classes_of, label_numbers, label_values, tell_one_class
from drifting.data.decode import EncodedSource, ImageShape, delivered_shape
from drifting.data.kept import kept_file
from drifting.data.source import Indices
from drifting.data.sources.arrow_files import (
    cast_column,
    check_has,
    copied_rows,
    copy_columns,
    mapped,
    reading_table,
    schema_of,
)
from drifting.data.sources.parquet_columns import ParquetOptions, columns_of
from drifting.data.sources.splits import split_files
from drifting.errors import InputError, counted


class ParquetSource(EncodedSource):
    """Pictures in files that are mapped into memory, decoded when they are read: see `parquet`."""

    def __init__(self, table: "_Table", labels: NDArray, names: tuple[str, ...], shape: ImageShape) -> None:
        super().__init__("parquet", labels, names, shape)
        self._table = table

    def encoded(self, indices: Indices) -> Iterator[tuple[str, Path | bytes]]:
        """Yields for each image its row, and its bytes or its file."""
        for index in indices:
            yield f"in row {index} of {self._table.path}", self._table.picture(int(index))


def parquet(
    path: str | Path,
    image_size: int,
    split: str = "train",
    channels: int = 3,
    image_width: int | None = None,
    options: ParquetOptions = ParquetOptions(),  # noqa: B008  it is frozen
) -> ParquetSource:
    """Pictures and labels of parquet files, or of the arrow files that `save_to_disk` of Hugging Face's datasets wrote.

    Of parquet a row cannot be read without its neighbours. Both columns are copied once into an arrow file, beside the
    data or in the cache folder where that may not be written; arrow files are mapped into memory, rows read from there.

    Args:
        path: a file, or a folder of files with the names of splits, see `split_files`.
        image_size: height of the delivered images, in pixels, and their width but where `image_width` says another.
        split: `train` or `heldout`.
        channels: 3 for RGB, 1 for grey.
        image_width: see `image_size`.
        options: the columns.

    Raises:
        InputError: there are no such files, columns or labels, a file is damaged, or pyarrow is not installed.
        MachineError: there is no room for the copy.
    """
    shape = delivered_shape(image_size, image_width, channels)
    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise InputError("needs pyarrow: pip install 'drifting[hf]'") from error
    train = _Table(Path(path), "train", options)
    found = train if split == "train" else _Table(Path(path), split, options)
    if found.label is None or train.label is None:
        tell_one_class(path, train.label is not None, found.label is not None)
        return ParquetSource(found, np.zeros(len(found), np.int32), UNLABELLED, shape)
    names = classes_of(train.values(), train.declared, path)
    labels = label_numbers(found.values(), names, train.declared is not None, path)
    return ParquetSource(found, labels, names, shape)


class _Table:
    """The pictures and labels of one split. Threads may read it, and worker processes are given it without its maps."""

    def __init__(self, path: Path, split: str, options: ParquetOptions) -> None:
        self.path, files = path, split_files(path, (".parquet", ".arrow"), split, "parquet or arrow files")
        files = [file for file in files if file.suffix == files[0].suffix and not file.name.startswith("cache-")]
        with reading_table(files[0]):
            schema = schema_of(files[0])
        self.image, self.label, self.declared = columns_of(path, schema, options)
        self.files, self._sources, self._schema = files, files, schema
        self._images: Any = None
        columns = [column for column in (self.image, self.label) if column is not None]
        if files[0].suffix == ".parquet":
            fields = schema.empty_table().select(columns).schema
            self.files, counts = kept_file(
                path, f"parquet-{split}.arrow", files,
                write=lambda to: copy_columns(path, files, to, fields),
                read=lambda kept: ([kept], copied_rows(kept, columns)),
                about=columns,
            )  # fmt: skip
        else:
            counts = [self._rows(file, columns) for file in files]
        self._starts = np.cumsum([0, *counts])

    def _rows(self, file: Path, columns: Sequence[str]) -> int:
        with reading_table(file):
            table = mapped(file)
        check_has(file, table.schema, columns, self._sources[0])
        return len(table)

    def values(self) -> NDArray[Any]:
        """The labels as they are there, `[N]` integers or texts."""
        column = self._column(str(self.label))
        if column.null_count:
            row = int(np.argmax(column.is_null().to_numpy()))
            raise InputError(
                f"{self.path}: row {row} has no {self.label}, {counted(column.null_count, 'row')} in all: "
                "leave out what has none"
            )
        values = column.to_numpy()
        if np.issubdtype(values.dtype, np.floating):
            return label_values(values.tolist(), lambda row: f"{self.path}: row {row}", "leave it out")
        return values if np.issubdtype(values.dtype, np.integer) else np.asarray([str(value) for value in values], str)

    def __len__(self) -> int:
        return len(self._column(self.image))

    def picture(self, index: int) -> Path | bytes:
        """The encoded picture of a row, or the file that holds it."""
        if self._images is None:
            self._images = self._column(self.image)
        found = self._images[index].as_py()
        if isinstance(found, dict):
            if found.get("bytes") is None and found.get("path"):
                file = self._sources[int(np.searchsorted(self._starts, index, side="right")) - 1]
                return file.parent / found["path"]
            found = found.get("bytes")
        return found or b""

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_images": None}

    def _column(self, name: str) -> Any:
        import pyarrow

        field, chunks = self._schema.field(name), []
        for file in self.files:
            with reading_table(file):
                column = mapped(file).column(name)
            chunks += cast_column(file, column, field, self._sources[0]).chunks
        return pyarrow.chunked_array(chunks, field.type)
