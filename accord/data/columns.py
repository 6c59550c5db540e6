"""Column paths: look up nested values, and rename a row's columns to the names that accord reads.

A path is a column name, or leads into a column: `reward_model.ground_truth`, `answers[0].text`, `turns.-1.value`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from accord.data.messages import TEXTS, parsed
from accord.errors import InputError, nearest

_INDEX = re.compile(r"\[(-?\d+)\]")


def value_at(columns: Mapping[str, Any], path: str) -> Any:
    """The value at a column path; strings along the path are parsed as JSON.

    Raises InputError, with the names that exist, if the path leads nowhere.
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
    """The error message for a path whose `key` is missing from `holder`, the value at the path `within`."""
    names = list(map(str, holder)) if isinstance(holder, Mapping) else []
    if not within:
        return f"there is no column {path!r}; the row has {', '.join(names) or 'none'}{nearest(key, names)}"
    has = f"has {', '.join(names)}" if names else f"is a list of {len(holder)}" if isinstance(holder, Sequence) else ""
    if not has or isinstance(holder, str):
        has = "holds a text" if isinstance(holder, str) else f"is {holder!r}"
    return f"there is no column {path!r}: {within!r} {has}{nearest(key, names)}"


def rename_columns(row: Any, names: Mapping[str, str] | None) -> Any:
    """The row with columns renamed: `names` maps each new name to a path; the path "" drops the column.

    Several paths separated by commas join their texts with empty lines between; a list of texts becomes one paragraph.
    A renamed column loses its old name; a column that a longer path leads into stays as it was.

    Raises InputError if a path leads nowhere, or one of several to no text.
    """
    if not names or not isinstance(row, Mapping):
        return row
    values = {name: _joined(row, path) for name, path in names.items() if path}
    moved = {*names, *(part.strip() for path in names.values() for part in (path, *path.split(",")))}
    return {name: value for name, value in row.items() if name not in moved} | values


def _joined(row: Mapping[str, Any], path: str) -> Any:
    if path in row or "," not in path:
        return value_at(row, path)
    cells = {part.strip(): value_at(row, part.strip()) for part in path.split(",")}
    texts = [paragraphs(cell, part) for part, cell in cells.items() if cell is not None]
    return "\n\n".join(text for text in texts if text.strip())


def is_filled(value: Any) -> bool:
    """Whether a value says something: no blank text, and no object of Arrow's with nulls alone."""
    if isinstance(value, Mapping):
        return any(map(is_filled, value.values()))
    return bool(value.strip() if isinstance(value, str) else value)


def is_listed(value: Any) -> bool:
    """Whether the value is a (possibly nested) list of texts rather than of messages."""
    return isinstance(value, Sequence) and not isinstance(value, str) and not any(isinstance(v, Mapping) for v in value)


def paragraphs(value: Any, column: str) -> str:
    """Join a list of texts to one paragraph, and a list of such lists to several; a text is returned unchanged.

    Raises InputError for anything else.
    """
    if isinstance(value, str):
        return value
    if not is_listed(value):
        raise InputError(f"{column!r} holds no text to join with the other columns: name a path to a text")
    return ("\n\n" if any(map(is_listed, value)) else " ").join(paragraphs(item, column) for item in value)


def words(value: Any, column: str) -> str:
    """A column that is one text, such as a system prompt: a string, or a list of parts of type text, as APIs write it.

    Raises InputError for anything else.
    """
    if isinstance(value, str):
        return value
    parts = value if isinstance(value, list) else [value]
    known = [part for part in parts if isinstance(part, Mapping) and part.get("type", "text") in TEXTS]
    texts = [part["text"] for part in known if isinstance(part.get("text"), str)]
    if len(texts) == len(parts):
        return "".join(texts)
    raise InputError(
        f"{column!r} must be a text, not of type {type(value).__name__}: write it as text, or leave it out by "
        f"--columns {column}="
    )


@contextmanager
def in_own_names(own: Mapping[str, Any], read: Mapping[str, Any]) -> Iterator[None]:
    """Say, in an InputError raised in the block, which of a row's own columns are read under the names it has."""
    try:
        yield
    except InputError as error:
        text, known = str(error), dict(read)
        for name in (name for name, value in read.items() if isinstance(value, list)):
            known |= {f"{name}[{i}]": value for i, value in enumerate(read[name])}
        for name, value in known.items():
            mine = [column for column, held in own.items() if held is value]
            if name not in own and len(mine) == 1 and re.search(rf"'{re.escape(name)}'|\b{re.escape(name)}\[", text):
                text = text.replace(f"{name}={name}.", f"{name}={mine[0]}.") + f" ({name!r} is the row's {mine[0]!r})"
        raise InputError(text) from None


def format_columns(names: Mapping[str, str]) -> str:
    """Column names in the command line's syntax: `prompt=question,chosen=best.text`."""
    return ",".join(f"{name}={path}" for name, path in names.items())
