"""Random access to rows on disk, for data larger than memory.

Of a .jsonl file only each line's offset is kept, 8 bytes per row; a `datasets.Dataset` is memory-mapped Arrow. Any row
can be read at any time, so the training order is the same as for rows in memory (`accord.data.mix.Order`), and a run
resumes from its step number alone. An `IterableDataset` of `datasets` is not supported: its `state_dict()` does not
include the shuffle buffer, so a resumed run would see other rows.
"""

from __future__ import annotations

import hashlib
import os
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, overload

from accord.data import mix
from accord.data.conventions import Convention
from accord.data.conversations import join_messages
from accord.data.exports import expand_annotations
from accord.data.load import records_of
from accord.data.notes import notes_on, unread_settings
from accord.data.readers import read_jsonl, reader_of, where_json
from accord.data.sources import is_on_hub, open_dataset, slice_indices
from accord.data.text_files import OPENERS
from accord.errors import InputError, LeftOut, Reason, RowNumber
from accord.outputs import tell_changed
from accord.parsing import parse_json
from accord.records import Row

if TYPE_CHECKING:
    import datasets

    from accord.data.load import Source


LOOKED_AT = 100
"""How many rows of each source are read at once, to say which columns are not read."""


class Table(Protocol):
    """Rows with random access."""

    name: str
    """The source's name in messages."""
    digest: str
    """A hash of the rows."""

    def __len__(self) -> int: ...

    def row(self, i: int) -> tuple[int, str, Mapping[str, Any]]:
        """The row at index `i` (from 0) as (number from 1, location for messages, columns)."""


class Lines:
    """The rows of a .jsonl file: one pass records the lines' offsets, and rows are read on demand.

    Raises InputError if the file cannot be read.
    """

    def __init__(self, path: Path) -> None:
        tell_changed(path)
        self.path, self.name = path, os.fspath(path)
        self.starts = array("q")
        self.numbers: array[int] | None = None  # line numbers, kept only if some lines are empty
        digest, at = hashlib.sha256(), 0
        try:
            with path.open("rb") as file:
                for number, line in enumerate(file, start=1):
                    if line.strip():
                        self._keep(at, number)
                    digest.update(line)
                    at += len(line)
        except OSError as error:
            raise InputError(f"{path} cannot be read ({error.strerror or error})") from None
        self.size, self.digest = at, digest.hexdigest()[:16]

    def _keep(self, start: int, number: int) -> None:
        self.starts.append(start)
        if self.numbers is None and number != len(self.starts):
            self.numbers = array("q", range(1, len(self.starts)))
        if self.numbers is not None:
            self.numbers.append(number)

    def __len__(self) -> int:
        return len(self.starts)

    def row(self, i: int) -> tuple[int, str, Mapping[str, Any]]:
        number = i + 1 if self.numbers is None else self.numbers[i]
        try:
            with self.path.open("rb") as file:
                file.seek(self.starts[i])
                text = file.readline().decode("utf-8-sig" if i == 0 else "utf-8")
        except UnicodeDecodeError as error:
            raise InputError(f"{self.path}, line {number}: not UTF-8 text ({error.reason})") from None
        except OSError as error:
            raise InputError(f"{self.path} cannot be read ({error.strerror or error})") from None
        with where_json(self.path, number):
            columns = parse_json(text)
        if not isinstance(columns, dict):
            raise InputError(f"{self.path}, line {number}: a row must be a JSON object")
        return number, f"{self.path}, line {number}", columns


class Mapped:
    """The rows of a memory-mapped `datasets.Dataset`."""

    def __init__(self, rows: datasets.Dataset, name: str) -> None:
        self.rows, self.name, self.digest = rows, name, str(rows._fingerprint)

    def __len__(self) -> int:
        return len(self.rows)

    def row(self, i: int) -> tuple[int, str, Mapping[str, Any]]:
        return i + 1, f"{self.name}, row {i + 1}", self.rows[i]


class StreamedRows(Sequence[Row]):
    """The rows of one or several sources as records, each read on demand.

    Args:
        source: a .jsonl file, a folder written by `save_to_disk`, a name on the Hugging Face Hub, or a
            `datasets.Dataset`; or a list of these, read one after the other.
        split, columns: as in `load_data`.

    Raises InputError if a source is none of these or has no rows, or if its rows depend on one another.
    """

    def __init__(self, source: Source, split: str = "train", columns: Mapping[str, str] | None = None) -> None:
        parts = mix.parts_of(source)
        if any(part.weight is not None for part in parts):
            raise InputError("stream cannot mix files by weight: leave the weights out, and it reads all rows of each.")
        self.columns = columns
        self.tables = [open_table(part.source, split) for part in parts]
        self.picked = [slice_indices(len(table), split, table.name) for table in self.tables]
        self.ends = list(accumulate(map(len, self.picked)))
        for table, picked in zip(self.tables, self.picked, strict=True):
            if not picked:
                raise InputError(f"{table.name} holds no rows" + ("" if split == "train" else f" in '{split}'"))
            require_independent(table)
        marks = [f"{table.digest} {picked.start} {picked.stop}" for table, picked in self._both()]
        self.digest = hashlib.sha256("\n".join(marks).encode()).hexdigest()[:16]
        self._kinds: dict[str, Convention | type] = {}
        self.first: list[tuple[Row, Mapping[str, Any]]] = []
        """The records of the first rows of each source, with their columns."""
        for table, picked in self._both():  # the first row sets the kind that the others must have
            noted = LeftOut()
            for i in picked[:LOOKED_AT]:
                with suppress(InputError) if i > picked.start else nullcontext():  # said when the row's step comes
                    read = records_of([table.row(i)], columns, noted, noted=noted, kinds=self._kinds)
                    self.first += [(record, row) for _, record, row, _ in read]

    def notes(self, template: object) -> list[str]:
        """What is said of the columns and template variables that are not read, judged by the first rows."""
        found = notes_on(self.first) + unread_settings(template, [record for record, _ in self.first])
        return [f"in the first rows, {note}" for note in found]

    def _both(self) -> Iterator[tuple[Table, range]]:
        return zip(self.tables, self.picked, strict=True)

    def __len__(self) -> int:
        return self.ends[-1]

    @overload
    def __getitem__(self, i: int) -> Row: ...

    @overload
    def __getitem__(self, i: slice) -> list[Row]: ...

    def __getitem__(self, i: int | slice) -> Row | list[Row]:
        """The row at an index as a record. Raises InputError if the row gives none, or several."""
        if isinstance(i, slice):
            return [self[k] for k in range(*i.indices(len(self)))]
        if not -len(self) <= i < len(self):
            raise IndexError(i)
        records, reasons = self.read(i % len(self))
        if len(records) != 1:
            raise InputError(f"{reasons[0].where}: {reasons[0].why}" if reasons else "the row is several")
        return records[0]

    def read(self, i: int, *, strict: bool = False) -> tuple[list[Row], list[Reason]]:
        """The records of the row at index `i`, and the reasons why it cannot be used.

        Raises InputError if the row cannot be parsed or, with `strict`, cannot be used.
        """
        k = bisect_right(self.ends, i)
        inside = i - (self.ends[k - 1] if k else 0)
        _, where, columns = self.tables[k].row(self.picked[k][inside])
        called, noted = self.number(i), LeftOut(strict)
        records = list(records_of([(called, where, columns)], self.columns, noted, noted=noted, kinds=self._kinds))
        return [record for _, record, _, _ in records], noted.reasons

    def number(self, i: int) -> RowNumber:
        """The number, from 1, of the row at index `i`, with its name in messages."""
        k = bisect_right(self.ends, i)
        inside = self.picked[k][i - (self.ends[k - 1] if k else 0)]
        table = self.tables[k]
        number = table.numbers[inside] if isinstance(table, Lines) and table.numbers is not None else inside + 1
        return RowNumber(i + 1, str(number) if len(self.tables) == 1 else f"{number} of {table.name}")


def open_table(source: Any, split: str) -> Table:
    """Open one source for random access. Raises InputError if it does not allow it."""
    if not isinstance(source, str | os.PathLike):
        name = mix.IN_MEMORY
    else:
        path, name = Path(source), os.fspath(source)
        if path.is_file() and reader_of(path) is read_jsonl and path.suffix.lower() in (".jsonl", ".ndjson"):
            return Lines(path)
        if path.is_file() or not (path.is_dir() or is_on_hub(name)):
            why = "compressed" if path.suffix in OPENERS else "neither"
            problem = f"{name} is {why}" if path.is_file() else f"there is no file {name}"
            raise InputError(f"stream reads .jsonl files and datasets of the library `datasets`; {problem}.")
        source = open_dataset(name, split)
    import datasets

    if not isinstance(source, datasets.Dataset):
        kind = type(source).__name__
        raise InputError(
            f"stream needs random access to rows, and {name} is a {kind}, which has none: give a .jsonl file, a "
            "datasets.Dataset, a folder that its save_to_disk wrote, or a name on the Hub."
        )
    return Mapped(source, name)


def require_independent(table: Table) -> None:
    """Raise InputError if the first row is part of a conversation or of an annotation export."""
    first = table.row(0)
    (number, where, columns), rows = first, iter([first])
    is_export = list(expand_annotations("row", iter([(number, columns)]), [])) != [(number, columns)]
    if is_export or list(join_messages(rows))[:1] != [first]:
        raise InputError(
            f"{where}: rows that depend on other rows cannot be streamed: leave stream out, or convert the file."
        )
