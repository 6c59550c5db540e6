"""Columns by other names: what a row holds at a path, and rows whose columns get the names that are read.

A path is a column, or leads into one: `reward_model.ground_truth`, `answers[0].text`, `turns.-1.value`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from accord.data.messages import parsed
from accord.errors import InputError, nearest

_INDEX = re.compile(r"\[(-?\d+)\]")


def value_at(columns: Mapping[str, Any], path: str) -> Any:
    """What is at a column or a path; a text on the way is read as the JSON that it is.

    Raises InputError where there is nothing, with what there is instead.
    """
    if path in columns:
        return columns[path]
    value: Any = columns
    taken: list[str] = []
    for key in _INDEX.sub(r".\1", path).split("."):
        holder = value if not isinstance(value, str) or (meant := parsed(value)) is None else meant
        if isinstance(holder, Mapping) and key in holder:
            value = holder[key]
        elif (
            isinstance(holder, list | tuple) and re.fullmatch(r"-?\d+", key) and -len(holder) <= int(key) < len(holder)
        ):
            value = holder[int(key)]
        else:
            raise InputError(_absent(path, key, ".".join(taken), holder))
        taken.append(key)
    return value


def _absent(path: str, key: str, within: str, holder: Any) -> str:
    """What is wrong with a path whose `key` is not in what the path before it leads to."""
    names = list(map(str, holder)) if isinstance(holder, Mapping) else []
    if not within:
        return f"there is no column {path!r}; the row has {', '.join(names) or 'none'}{nearest(key, names)}"
    has = f"has {', '.join(names)}" if names else f"is a list of {len(holder)}" if isinstance(holder, Sequence) else ""
    if not has or isinstance(holder, str):
        has = "holds a text" if isinstance(holder, str) else f"is {holder!r}"
    return f"there is no column {path!r}: {within!r} {has}{nearest(key, names)}"


def renamed(row: Any, names: Mapping[str, str] | None) -> Any:
    """The row with its columns under the names that are read: `names` has the path of each; "" leaves a column out.

    Of several paths, separated by commas, the text is theirs in that order, an empty line between them; a list of texts
    is one paragraph. A column that gets another name loses its own; one that a path leads into stays, beside what was
    in it.
    Raises InputError where a path leads nowhere, or one of several to no text.
    """
    if not names or not isinstance(row, Mapping):
        return row
    found = {name: _joined(row, path) for name, path in names.items() if path}
    moved = {*names, *(part.strip() for path in names.values() for part in (path, *path.split(",")))}
    return {name: value for name, value in row.items() if name not in moved} | found


def _joined(row: Mapping[str, Any], path: str) -> Any:
    if path in row or "," not in path:
        return value_at(row, path)
    cells = {part.strip(): value_at(row, part.strip()) for part in path.split(",")}
    texts = [paragraphs(cell, part) for part, cell in cells.items() if cell is not None]
    return "\n\n".join(text for text in texts if text.strip())


def is_listed(value: Any) -> bool:
    """Whether it is a list of texts, or of such lists, and not one of messages."""
    return isinstance(value, Sequence) and not isinstance(value, str) and not any(isinstance(v, Mapping) for v in value)


def paragraphs(value: Any, column: str) -> str:
    """A text; a list of texts as one paragraph, a list of those as several. Raises InputError for anything else."""
    if isinstance(value, str):
        return value
    if not is_listed(value):
        raise InputError(f"{column!r} holds no text, so it cannot be joined with others: name a path to one")
    return ("\n\n" if any(map(is_listed, value)) else " ").join(paragraphs(item, column) for item in value)


def written(names: Mapping[str, str]) -> str:
    """The names as a command line has them: `prompt=question,chosen=best.text`."""
    return ",".join(f"{name}={path}" for name, path in names.items())
