"""Files of rows: JSONL, JSON, CSV and Parquet, each read into (line or row number, columns)."""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeAlias

from accord.errors import InputError

Numbered: TypeAlias = Iterator[tuple[int, Mapping[str, Any]]]
"""The columns of each row, with its number (from 1) in its file: of its line where a row is a line."""


def reader_of(path: Path) -> Callable[[Path], Numbered] | None:
    """How a file of that name is read, if it ends as one of `FORMATS`."""
    suffix = "".join(path.suffixes[-2:]).lower() if path.suffix.lower() == ".gz" else path.suffix.lower()
    return FORMATS.get(suffix)


def read_jsonl(path: Path) -> Numbered:
    """One JSON object a line; empty lines are skipped."""
    with _open_text(path) as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                columns = json.loads(line)
            except json.JSONDecodeError as error:
                raise InputError(f"{path}, line {number}: not JSON ({error.msg} at column {error.colno})") from None
            yield number, _object(columns, f"{path}, line {number}")


def read_json(path: Path) -> Numbered:
    """A JSON list of objects."""
    with _open_text(path) as file:
        text = file.read()
    try:
        rows = json.loads(text)
    except json.JSONDecodeError as error:
        hint = "; name a file of one object a line .jsonl" if error.msg == "Extra data" else ""
        raise InputError(f"{path}, line {error.lineno}: not JSON ({error.msg} at column {error.colno}{hint})") from None
    if not isinstance(rows, list):
        raise InputError(f"{path} must hold a JSON list of objects, not {_json_kind(rows)}")
    for number, columns in enumerate(rows, start=1):
        yield number, _object(columns, f"{path}, row {number}")


def read_csv(path: Path) -> Numbered:
    """A header, then a row of cells each, which are text."""
    with _open_text(path, newline="") as file:
        csv.field_size_limit(CELL)
        reader = csv.DictReader(file, strict=True)
        try:
            for number, cells in enumerate(reader, start=1):
                if None in cells:
                    raise InputError(f"{path}, row {number}: more cells than the header has columns")
                yield number, cells
        except csv.Error as error:
            raise InputError(f"{path}, line {reader.line_num}: not CSV ({error})") from None


def read_parquet(path: Path) -> Numbered:
    """The rows of a Parquet file, a batch at a time."""
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            yield from enumerate((row for batch in file.iter_batches() for row in batch.to_pylist()), start=1)
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{path} is not a readable Parquet file ({first_line(error)})") from None


FORMATS = {
    ".jsonl": read_jsonl,
    ".jsonl.gz": read_jsonl,
    ".json": read_json,
    ".json.gz": read_json,
    ".csv": read_csv,
    ".csv.gz": read_csv,
    ".parquet": read_parquet,
}

CELL = 2**30
"""Characters that a cell may have: a long document is one."""


@contextmanager
def _open_text(path: Path, newline: str | None = None) -> Iterator[IO[str]]:
    """The file, open; InputError where it cannot be read, is not UTF-8, or its compression is damaged."""
    opener: Any = gzip.open if path.suffix.lower() == ".gz" else open
    try:
        file = opener(path, "rt", encoding="utf-8-sig", newline=newline)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error})") from None
    try:
        with file:
            yield file
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text ({error.reason})") from None
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} cannot be read to its end ({first_line(error)})") from None


def _object(columns: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(columns, dict):
        raise InputError(f"{where}: a row must be a JSON object, not {_json_kind(columns)}")
    return columns


def _json_kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def first_line(error: BaseException) -> str:
    """What an exception says in its first line, or else its name."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
