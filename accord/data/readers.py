"""Readers of file formats; each yields (line or row number, columns)."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, TypeAlias

from accord.console import error_text
from accord.data.text_files import OPENERS, open_text, require_kind
from accord.errors import InputError
from accord.parsing import Repeated, parse_json

Numbered: TypeAlias = Iterator[tuple[int, Mapping[str, Any]]]
"""(number, columns) of each row; the number, from 1, is the line's where a row is a line."""


def reader_of(path: Path) -> Callable[[Path], Numbered] | None:
    """The reader for a file name's extension (`FORMATS`, or `TEXT` with a compression), None if unknown."""
    suffix = path.suffix.lower()
    if suffix in OPENERS:
        suffix = path.with_suffix("").suffix.lower()
        return FORMATS[suffix] if suffix in TEXT else None
    return FORMATS.get(suffix)


def read_jsonl(path: Path) -> Numbered:
    """One JSON object a line; empty lines are skipped. A file that is one list of objects is read as that."""
    with open_text(path) as file:
        for number, line in enumerate(file, start=1):
            if line.strip() in ("[", "[{") or (number == 1 and line.startswith("[{")):
                yield from read_json(path)
                return
            if line.strip():
                if "\0" in line:
                    raise InputError(
                        f"{path}, line {number}: NUL characters, as in UTF-16 text, or after a crash while it was "
                        "written: save it as UTF-8, or cut them off"
                    )
                if line.strip() == "{":
                    raise InputError(
                        f"{path}, line {number}: an object over several lines: write every row on one line (jq -c . "
                        "FILE), or a list of objects"
                    )
                with where_json(path, number):
                    columns = parse_json(line)
                yield number, _object(columns, f"{path}, line {number}")


def read_json(path: Path) -> Numbered:
    """A JSON list of objects, also as the only list in an object (`WRAPPERS`) or by their ids, or one object per
    line."""
    with open_text(path) as file:
        text = file.read()
    if not text.strip():
        return
    are_lines = False
    with where_json(path):
        try:
            rows = parse_json(text)
        except json.JSONDecodeError as error:
            are_lines = error.msg == "Extra data"
            if not are_lines:
                raise
    if are_lines:
        yield from read_jsonl(path)
        return
    if isinstance(rows, dict):
        rows = _rows_in(path, rows, is_one_line="\n" not in text.strip())
    if not isinstance(rows, list):
        raise InputError(f"{path} must hold a JSON list of objects, not {_json_kind(rows)}")
    for number, columns in enumerate(rows, start=1):
        yield number, _object(columns, f"{path}, row {number}")


WRAPPERS = ("data", "rows", "train", "examples", "instances")
"""Keys of an object that may hold the list of all rows."""


def _rows_in(path: Path, rows: dict[str, Any], *, is_one_line: bool) -> Any:
    """The rows of a JSON object: its only list, the objects that it has by their ids, or itself, written on one line.

    Raises InputError for an object of columns, as pandas writes a table.
    """
    lists = [value for name, value in rows.items() if name in WRAPPERS and isinstance(value, list)]
    values = list(rows.values())
    if len(lists) == 1 and not any(isinstance(value, list | dict) for value in values if value is not lists[0]):
        return lists[0]
    are_columns = False
    if len(values) > 1 and all(isinstance(value, dict) and value.keys() == values[0].keys() for value in values):
        are_columns = all(key.isdigit() for key in values[0])
        if not are_columns and not {"role", "from"} & values[0].keys():
            return values
    elif len(values) > 1 and all(isinstance(value, list) and len(value) == len(values[0]) > 1 for value in values):
        are_columns = any(isinstance(item, str | int | float) for value in values for item in value)
    if are_columns:
        raise InputError(
            f"{path} holds a table by columns, not by rows: write a list of objects, a row each (orient='records' in "
            "pandas)"
        )
    if len(values) > 1 and all(isinstance(value, list) and value and _are_rows(value) for value in values):
        raise InputError(
            f"{path} holds several lists of rows ({', '.join(rows)}): write each to a file of its own, such as "
            f"{next(iter(rows))}.jsonl"
        )
    return [rows] if is_one_line else rows


def _are_rows(values: list[Any]) -> bool:
    """Whether a list holds objects that are no messages."""
    return all(isinstance(value, dict) and not {"role", "from"} & value.keys() for value in values)


@contextmanager
def where_json(path: Path, line: int | None = None) -> Iterator[None]:
    """Turn parsing errors in the block into an InputError that names the file and line."""
    try:
        yield
    except json.JSONDecodeError as error:
        where = f"{path}, line {error.lineno if line is None else line}"
        raise InputError(f"{where}: not JSON ({error.msg} at column {error.colno})") from None
    except (RecursionError, ValueError) as error:
        why = "nested too deeply" if isinstance(error, RecursionError) else "a number of too many digits"
        why = str(error) if isinstance(error, Repeated) else why
        raise InputError(f"{path}{'' if line is None else f', line {line}'}: {why}") from None


def read_csv(path: Path) -> Numbered:
    """A header and rows of text cells, separated by tabs in a .tsv, else by commas.

    A header without commas that has semicolons (as spreadsheets write in many countries), tabs or bars is separated by
    those; a first line `sep=;` sets the separator. Several columns may have no name.
    """
    with open_text(path, newline="") as file:
        csv.field_size_limit(CELL)
        first = file.readline(LONGEST_LINE)
        declared = re.fullmatch(r"sep=(.)", first.strip("\r\n"))
        guessed = next((sign for sign in ";\t|" if sign in first and "," not in first), ",")
        delimiter = "\t" if ".tsv" in path.suffixes else declared[1] if declared else guessed
        rows = csv.reader(file if declared else chain([first], file), strict=True, delimiter=delimiter)
        try:
            header = next(rows, [])
            _require_unique(path, header)
            if delimiter == "\t" and len(header) == 1 and "," in header[0]:
                raise InputError(f"{path} has commas between its columns, and no tabs: name it .csv")
            for number, cells in enumerate(filter(None, rows), start=1):
                if any("\0" in cell for cell in cells):
                    raise InputError(f"{path}, row {number}: a NUL character; save the file as UTF-8 text")
                if len(cells) != len(header):
                    more = "more" if len(cells) > len(header) else "fewer"
                    raise InputError(f"{path}, row {number}: {more} cells than the header has columns")
                yield number, dict(zip(header, cells, strict=True))
        except csv.Error as error:
            raise InputError(f"{path}, line {rows.line_num}: not CSV ({error})") from None


def _require_unique(path: Path, header: list[str]) -> None:
    twice = next((name for name in header if name and header.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"{path} has two columns of the name {twice!r} in its header: rename one")


def read_plain(path: Path) -> Numbered:
    """Split plain text into passages, each a row with the number of its first line.

    A passage ends at the first empty line after `PASSAGE` characters, or the first line after twice as many. A line
    `DOCUMENT_END` ends a document and its passage, and belongs to none. Joined passages give back the text; only one
    is held in memory at a time.
    """
    with open_text(path) as file:
        lines: list[str] = []
        first, size, is_after_blank = 1, 0, False
        for number, line in enumerate(iter(partial(file.readline, LONGEST_LINE + 1), ""), start=1):
            if len(line) > LONGEST_LINE:
                raise InputError(f"{path}, line {number}: a line of more than {LONGEST_LINE:,} characters; break it")
            is_end, is_blank = line.strip() == DOCUMENT_END, not line.strip()
            is_full = (size >= PASSAGE and is_after_blank) or size >= 2 * PASSAGE
            if is_end or (is_full and not is_blank):
                yield from _passage(first, lines)
                lines, first, size = [], number + is_end, 0
            if not is_end:
                lines.append(line)
                size += len(line)
            is_after_blank = is_blank
        yield from _passage(first, lines)


def _passage(first: int, lines: list[str]) -> Numbered:
    """The lines as a row, unless all are blank."""
    if any(map(str.strip, lines)):
        yield first, {"text": "".join(lines)}


PASSAGE = 2_000
LONGEST_LINE = 10_000_000
DOCUMENT_END = "<|endoftext|>"


def read_parquet(path: Path) -> Numbered:
    """The rows of a Parquet file, read in batches."""
    import pyarrow.parquet

    require_kind(path)

    with _arrow(path, "Parquet"), pyarrow.parquet.ParquetFile(path) as file:
        _require_unique(path, file.schema_arrow.names)
        yield from enumerate(_rows_of(path, file.iter_batches()), start=1)


def read_arrow(path: Path) -> Numbered:
    """The rows of an Arrow or Feather file, in Arrow's file or stream format."""
    import pyarrow

    with _arrow(path, "Arrow"), pyarrow.memory_map(str(path)) as file:
        is_file = file.read(6) == b"ARROW1"
        file.seek(0)
        reader = pyarrow.ipc.open_file(file) if is_file else pyarrow.ipc.open_stream(file)
        _require_unique(path, reader.schema.names)
        batches = (reader.get_batch(i) for i in range(reader.num_record_batches)) if is_file else reader
        yield from enumerate(_rows_of(path, batches), start=1)


def _rows_of(path: Path, batches: Iterable[Any]) -> Iterator[dict[str, Any]]:
    """The rows of Arrow batches.

    Raises InputError, naming the column, for a value Python cannot represent: the year 10,000, a text that is not
    UTF-8, an unknown time zone.
    """
    for batch in batches:
        columns = {}
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            try:
                columns[name] = column.to_pylist(maps_as_pydicts="strict")
            except (ValueError, OverflowError, KeyError) as error:
                raise InputError(
                    f"{path}: the column {name!r} has a value that cannot be read ({error_text(error)}); write it as "
                    "text, or leave the column out"
                ) from None
        for i in range(batch.num_rows):
            yield {name: values[i] for name, values in columns.items()}


@contextmanager
def _arrow(path: Path, kind: str) -> Iterator[None]:
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:  # column names may not be UTF-8
        raise InputError(f"{path} is not a readable {kind} file ({error_text(error)})") from None


PLAIN = {".txt": read_plain, ".md": read_plain}
"""Plain text, which has no rows."""
TEXT = {
    ".jsonl": read_jsonl, ".ndjson": read_jsonl, ".json": read_json, ".csv": read_csv, ".tsv": read_csv, **PLAIN,
}  # fmt: skip
"""Text formats, which may be compressed."""
FORMATS = {**TEXT, ".parquet": read_parquet, ".arrow": read_arrow, ".feather": read_arrow}
READ = f"{', '.join(FORMATS)}, those of text also with {', '.join(OPENERS)}"
"""The readable formats, for messages."""

CELL = 2**30
"""The most characters in a CSV cell, which may be a long document."""


def _object(columns: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(columns, dict):
        raise InputError(f"{where}: a row must be a JSON object, not {_json_kind(columns)}")
    return columns


def _json_kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
