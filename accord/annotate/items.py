"""Items from rows of data, identified by an id or by their content."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from accord.annotate.database import LAST, Item
from accord.annotate.tasks.base import SourceRow, Task, key_of
from accord.data.columns import rename_columns
from accord.data.load import Source, load_samples, open_rows, read_rows
from accord.data.mix import called
from accord.data.verdicts import CONTRADICTORY
from accord.errors import InputError, LeftOut
from accord.records import Demonstration, Prompt


@dataclass(frozen=True)
class AddedItems:
    """The number of new items and of known ones, and why rows or answers were left out."""

    new: int
    known: int
    left_out: tuple[str, ...] = ()


def read_items(
    data: Source | int, task: Task, *, gold: bool, columns: Mapping[str, str] | None, settings: Mapping[str, Any]
) -> tuple[list[tuple[str, Item]], tuple[str, ...]]:
    """The items made from the rows of `data`, each with its row's place, and a line for each kind of row left out.

    Raises InputError where a row cannot be asked about, or an id occurs twice with different content.
    """
    rows = _blank(data, task) if isinstance(data, int) else _rows(data, task, columns)
    sure = [row for row in rows if CONTRADICTORY not in row.columns] if gold else rows
    items: dict[str, tuple[str, Item]] = {}
    twice = 0
    for new in task.items(sure, gold=gold, **{name: value for name, value in settings.items() if value is not None}):
        content = new.content.model_dump(mode="json")
        item = Item(
            key=key_of(task.name, new),
            task=task.name,
            content=content,
            gold=new.gold and new.gold.model_dump(mode="json"),
            position=LAST,
        )
        where, known = items.setdefault(item.key, (new.source.where, item))
        if known.content != item.content or known.gold != item.gold:
            raise InputError(
                f"{new.source.where}: the id {new.source.columns.get('id')!r} is that of {where} already, with "
                "different content: give each its own."
            )
        twice += known is not item
    if not items:
        raise InputError(f"{called(data)} holds nothing to ask about: all answers to a prompt are the same.")  # type: ignore[arg-type]
    left_out = [f"{twice} rows that come twice are asked about once"] if twice else []
    if len(sure) < len(rows):
        left_out.append(f"{len(rows) - len(sure)} rows have verdicts that contradict each other, and no known answer")
    return list(items.values()), tuple(left_out)


def _blank(number: int, task: Task) -> list[SourceRow]:
    if task.needs_data:
        raise InputError(f"the task {task.name} asks about rows: name a file of them by --data.")
    if number < 1:
        raise InputError(f"--items must be at least 1, not {number}.")
    return [SourceRow(f"item {i + 1}", Prompt(""), {}) for i in range(number)]


def _rows(data: Source, task: Task, columns: Mapping[str, str] | None) -> list[SourceRow]:
    """The rows with their places; completions may be empty, as models' sometimes are."""
    noted = LeftOut(strict=True)
    places = [(where, row) for _, where, row in open_rows(data)]
    if not places:
        raise InputError(f"{called(data)} holds no rows.")
    first = places[0][1]
    cells = rename_columns(first, columns) if isinstance(first, Mapping) else {}
    if task.name == "use-case":
        return [SourceRow(where, Prompt(""), rename_columns(row, columns)) for where, row in places]
    if {"prompt", "completion"} <= cells.keys() and cells.get("label") is None:
        samples = load_samples(data, columns)
        return [
            SourceRow(where, Demonstration(prompt.prompt, completion), prompt.columns)
            for (where, _), (prompt, completion) in zip(places, samples, strict=True)
        ]
    rows = read_rows(data, "train", None, noted, columns, keep=True)
    return [
        SourceRow(_place(name, number), record, held)
        for (record, held, name), number in zip(rows, noted.numbers, strict=True)
    ]


def _place(name: str, number: int) -> str:
    return f"{name}, row {number}" if name else f"row {number}"
