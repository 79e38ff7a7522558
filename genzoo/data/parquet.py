"""Parquet files of pictures as Hugging Face writes them: a column of encoded pictures, and labels.

Reading is pyarrow's. Other columns are not read; a picture that is only a path or an address is
refused, so that nothing outside of the file is ever opened.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from genzoo.data.indexing import Scan, ShardIndex, Stat, check_unchanged
from genzoo.errors import InputError

IMAGE_NAMES = ("image", "img", "picture", "png", "jpg")
LABEL_NAMES = ("label", "labels", "fine_label", "cls", "class")
# What must be in memory at once.
MAX_GROUP_ROWS, MAX_GROUP_BYTES = 1 << 15, 256 << 20


class Columns(NamedTuple):
    """Where pictures and labels are.

    Attributes:
        image: name of the column of pictures.
        nested: whether it has fields, of which ``bytes`` is the picture.
        label: name of the column of labels; ``None`` without.
        classes: names of the labels 0, 1, …; empty where the file does not tell.
    """

    image: str
    nested: bool
    label: str | None
    classes: tuple[str, ...]


def pyarrow_parquet() -> Any:
    """``pyarrow.parquet``.

    Raises:
        InputError: it is not installed.
    """
    try:
        import pyarrow.parquet
    except ImportError:
        raise InputError(
            "hf: reads parquet by pyarrow, which is not installed; pip install 'genzoo[stream]'"
        ) from None
    return pyarrow.parquet


def index_parquet(path: Path) -> ShardIndex:
    """What a parquet file holds.

    Raises:
        InputError: it cannot be read, has no pictures, or too many in one row group.
    """
    scan = Scan(path)
    with _opened(path) as file:
        columns = _columns(file, path)
        cuts = _cuts(file, path)
        for group in range(file.num_row_groups):
            pictures, labels = _read_group(file, group, columns, path)
            first = int(cuts[group])
            for row, picture in enumerate(pictures, first):
                if picture is None:
                    raise InputError(
                        f"{path}: row {row} has no picture inside the file; write the pictures "
                        "themselves into it (datasets: embed_external_files=True)"
                    )
                label = None if labels is None else _label(labels[row - first], columns, path, row)
                scan.add(row, len(picture), picture, label)
    return scan.index(lambda row: f"row {row}", cuts, columns.classes)


def read_parquet(path: Path, starts: list[int], lengths: list[int], index: Stat) -> list[bytes]:
    """The pictures of these rows, which are of one row group.

    Raises:
        InputError: the file is another than the one of which `index` tells size and time.
    """
    check_unchanged(path, os.stat(path), index)
    with _opened(path) as file:
        columns = _columns(file, path)
        cuts = _cuts(file, path)
        group = int(np.searchsorted(cuts, starts[0], side="right")) - 1
        pictures, _ = _read_group(file, group, columns._replace(label=None), path)
        first = int(cuts[group])
        return [pictures[start - first] or b"" for start in starts]


def _opened(path: Path) -> Any:
    parquet = pyarrow_parquet()
    try:
        return parquet.ParquetFile(path, memory_map=False)
    except (MemoryError, PermissionError, FileNotFoundError):
        raise
    except Exception as error:  # decoders raise anything on a corrupt file
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: not a readable parquet file ({reason:.100})") from error


def _cuts(file: Any, path: Path) -> Any:
    """First row of each row group."""
    about = file.metadata
    rows = [about.row_group(k).num_rows for k in range(about.num_row_groups)]
    most = max(rows, default=0)
    large = max((about.row_group(k).total_byte_size for k in range(len(rows))), default=0)
    if most > MAX_GROUP_ROWS or large > MAX_GROUP_BYTES:
        raise InputError(
            f"{path}: a row group of {most:,} rows, {large / 2**20:,.0f} MiB, must be read as a "
            "whole; write the file with row_group_size=1000"
        )
    return np.cumsum([0, *rows[:-1]], dtype=np.int64) if rows else np.empty(0, dtype=np.int64)


def _columns(file: Any, path: Path) -> Columns:
    schema = file.schema_arrow
    features = _features(schema.metadata or {})
    kinds = {field.name: str(field.type) for field in schema}
    fitting = [
        name
        for name, kind in kinds.items()
        if kind.startswith("struct<bytes: ") or kind in ("binary", "large_binary")
    ]
    known = [name for name in IMAGE_NAMES if name in fitting] or fitting
    if len(known) != 1 and not (known and known[0] in IMAGE_NAMES):
        raise InputError(
            f"{path}: no column of pictures among {', '.join(kinds) or 'none'}; call it 'image'"
        )
    label = next((n for n in LABEL_NAMES if n in kinds and n != known[0]), None)
    classes = features.get(label or "", {}).get("names") or ()
    return Columns(known[0], kinds[known[0]].startswith("struct"), label, tuple(map(str, classes)))


def _features(metadata: dict[bytes, bytes]) -> dict[str, Any]:
    """What Hugging Face's `datasets` tells of the columns; nothing where it does not."""
    try:
        found = json.loads(metadata[b"huggingface"])["info"]["features"]
        return {str(k): v for k, v in found.items() if isinstance(v, dict)}
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError):
        return {}


def _read_group(
    file: Any, group: int, columns: Columns, path: Path
) -> tuple[list[bytes | None], list[Any] | None]:
    wanted = [columns.image + (".bytes" if columns.nested else "")]
    wanted += [] if columns.label is None else [columns.label]
    try:
        table = file.read_row_group(group, columns=wanted, use_threads=False)
    except MemoryError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: row group {group} is damaged ({reason:.100})") from error
    pictures = table[columns.image].combine_chunks()
    if columns.nested:
        pictures = pictures.field("bytes")
    labels = None if columns.label is None else table[columns.label].to_pylist()
    return pictures.to_pylist(), labels


def _label(value: Any, columns: Columns, path: Path, row: int) -> str | None:
    """A label as a text; the name of a class where the file knows it; ``None`` for none."""
    if value is None or value == -1:  # -1 is how `datasets` says that it is withheld
        return None
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise InputError(f"{path}: the label of row {row} is neither a whole number nor a text")
    if isinstance(value, int) and columns.classes:
        if not 0 <= value < len(columns.classes):
            raise InputError(f"{path}: label {value} of row {row} is none of its classes")
        return columns.classes[value]
    return str(value)
