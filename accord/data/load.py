"""Load rows from a file, a dataset on the Hugging Face Hub, a reasoning-gym generator, or objects in memory.

`load_data` reads records, `load_prompts` their prompts, `load_samples` the prompts and completions of sampled text.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, TypeAlias, get_args

from accord.data import mix
from accord.data.columns import in_own_names, rename_columns
from accord.data.conventions import Convention, convention_of
from accord.data.conversations import expand_rankings, join_messages
from accord.data.exports import expand_annotations
from accord.data.layouts import standardize
from accord.data.messages import read_prompt, read_text
from accord.data.notes import notes_on
from accord.data.sources import open_source
from accord.data.verdicts import CONTRADICTORY, is_tied
from accord.errors import InputError, LeftOut, Reason, RowNumber, Taken, located
from accord.records import Message, Prompt, Ranking, Row, Text, row_to_json

Source: TypeAlias = (
    str | os.PathLike[str] | Iterable[Row | Mapping[str, Any]] | Sequence[str | os.PathLike[str]] | Mapping[str, float]
)


def load_data(
    source: Source,
    *,
    split: str = "train",
    limit: int | None = None,
    columns: Mapping[str, str] | None = None,
    left_out: LeftOut | None = None,
) -> list[Row]:
    """Read the rows of `source` as records, in order; all records are of one kind.

    Args:
        source: a file in one of `accord.data.readers.FORMATS`, a folder of such files, a dataset on the Hugging Face
            Hub (`name` or `name:config`), a reasoning-gym generator (`reasoning-gym:chain_sum?size=200`), or an
            iterable of dicts or records, such as a `datasets.Dataset`. Records are returned unchanged; dicts become
            records by the conventions of `accord.data.conventions`. Several sources are a list of names, read one
            after the other, or a mapping from names to mixing weights (`accord.data.mix`).
        split: a split on the Hub; other sources have only "train". May slice by position: "train[:1800]",
            "train[-512:]".
        limit: the number of rows kept, from the start of the split.
        columns: maps the column names accord reads to the rows' own columns, or paths into them:
            `{"prompt": "question", "chosen": "answers[0].text"}`.
        left_out: collects the rows that cannot be used, in place of an error, unless no row is usable.

    Raises InputError, naming the file and row, for a missing or malformed file, columns that fit no convention, an
    empty completion, equal chosen and rejected, a malformed chat, label or ranking, and for a source without rows.
    """
    rows = read_rows(source, split, limit, left_out, columns)
    first, _, here = rows[0]
    other, _, there = next((row for row in rows if row[2] != here and type(row[0]) is not type(first)), rows[0])
    if type(other) is not type(first):
        kind, kinds = (type(record).__name__.lower() for record in (first, other))
        raise InputError(f"{here} holds {kind}s, and {there} {kinds}s: a mix has rows of one kind")
    return [record for record, _, _ in rows]


def load_prompts(
    source: Source,
    *,
    split: str = "train",
    limit: int | None = None,
    columns: Mapping[str, str] | None = None,
    left_out: LeftOut | None = None,
) -> list[Prompt]:
    """Read the prompts of the rows that `load_data` reads, each with all other columns of its row unchanged.

    Reward functions and verifiers thus see `answer`, `chosen` and any other column. Raises as `load_data`.
    """
    return [
        record
        if isinstance(record, Prompt)
        else Prompt(record.prompt, {name: value for name, value in others.items() if name != "prompt"})
        for record, others, _ in read_rows(source, split, limit, left_out, columns, keep=True)
    ]


def load_samples(path: Source, columns: Mapping[str, str] | None = None) -> list[tuple[Prompt, Text]]:
    """Read (prompt, completion) pairs from a file of samples: demonstrations whose completion may be empty.

    The completion of a chat is a tuple of messages, an empty one included. Each prompt keeps its row's other columns,
    such as `answer`, or `stop` from `accord sample`. Raises as `load_data`, except that a file may have no rows.
    """
    samples: list[tuple[Prompt, Text]] = []
    for _, where, raw in open_rows(path):
        with located(f"{where}: "):
            row = rename_columns(raw, columns)
            if not {"prompt", "completion"} <= row.keys():
                raise InputError(f"a sample needs the columns prompt and completion; the row has {', '.join(row)}")
            prompt = read_prompt(row["prompt"])
            completion = read_text(row["completion"], "completion")
        if not isinstance(prompt, str) and isinstance(completion, str):
            completion = (Message("assistant", completion),)
        rest = {name: value for name, value in row.items() if name not in ("prompt", "completion")}
        samples.append((Prompt(prompt, rest), completion))
    return samples


def read_rows(
    source: Source,
    split: str,
    limit: int | None,
    left_out: LeftOut | None = None,
    columns: Mapping[str, str] | None = None,
    *,
    keep: bool = False,
) -> list[tuple[Row, Mapping[str, Any], str]]:
    """Read every row as (record, its columns, name of its source).

    All rows of a source must fit the same convention as its first row, or be records of one kind. `keep` also returns
    rows without a training signal: ties and contradictory verdicts as a ranking of equals, and messages without an
    answer or an empty completion as a prompt.
    """
    noted = LeftOut() if left_out is None else left_out
    read = list(stream_rows(source, split, limit, left_out, columns, keep=keep, noted=noted))
    if noted.reasons and not read:
        bad = noted.reasons[0]
        raise InputError(f"{bad.where}: {bad.why} (and no other row of {mix.called(source)} can be used)")
    noted.numbers = [number for number, *_ in read]
    if not keep:
        noted.taken += notes_on([(record, row) for _, record, row, _ in read])
    require_rows(read, source, split)
    return [(record, row, name) for _, record, row, name in read]


def stream_rows(
    source: Source,
    split: str = "train",
    limit: int | None = None,
    left_out: LeftOut | None = None,
    columns: Mapping[str, str] | None = None,
    *,
    keep: bool = False,
    noted: LeftOut | None = None,
) -> Iterator[tuple[int, Row, Mapping[str, Any], str]]:
    """Yield (row number, record, columns, source name) as rows are read; like `read_rows`, but may yield none.

    A single file is read a few rows at a time; several sources are held in memory. `noted` collects the rows left out.
    """
    noted = LeftOut() if noted is None else noted
    yield from records_of(
        join_messages(open_rows(source, split, limit, left_out)), columns, left_out, noted=noted, keep=keep
    )


def records_of(
    rows: Iterable[tuple[int, str, Any]],
    columns: Mapping[str, str] | None = None,
    left_out: LeftOut | None = None,
    *,
    noted: LeftOut,
    keep: bool = False,
    kinds: dict[str, Convention | type] | None = None,
) -> Iterator[tuple[int, Row, Mapping[str, Any], str]]:
    """Yield (row number, record, columns, source name) of rows given as (number, location, columns).

    `kinds` maps each source's name to the convention of its first row; it is updated in place.
    """
    kinds = {} if kinds is None else kinds
    for number, where, row in rows:
        name = where.rpartition(", ")[0]
        try:
            converted = [_read(each) for each in expand_rankings(rename_columns(row, columns))]
            if not keep:
                _require_signal(converted)
            for kind, _, _ in converted:
                if kind is not (first := kinds.setdefault(name, kind)):
                    raise InputError(f"the row has {_describe(kind)}, where the first row has {_describe(first)}")
        except InputError as error:
            if left_out is None or (left_out.strict and not isinstance(error, _Tie)):
                raise InputError(f"{where}: {error}") from None
            noted.reasons.append(Reason(number, str(error), str(error), not isinstance(error, _Tie), where))
            continue
        if not converted:
            noted.reasons.append(Reason(number, NOT_RANKED, NOT_RANKED, False, where))
        yield from ((number, record, read, name) for _, record, read in converted)


NOT_RANKED = "no message of the tree has two ranked answers"


class _Tie(InputError):
    """The row has no preference to learn from; it is skipped without counting as bad."""


def _require_signal(converted: Iterable[tuple[Any, Row, Mapping[str, Any]]]) -> None:
    """Raise InputError, or `_Tie`, if a record has no training signal."""
    for _, record, columns in converted:
        if CONTRADICTORY in columns:
            raise _Tie("the verdicts on its answers contradict each other, so they are no ranking")
        if isinstance(record, Ranking) and not any(record.ranks) and is_tied(columns):
            raise _Tie("neither answer is preferred, so there is nothing to learn from the row")
        if isinstance(record, Prompt) and "messages" in columns:
            raise InputError("'messages' has no assistant turn to learn from")
        if isinstance(record, Prompt) and "completion" in columns:
            raise InputError("'completion' is empty")


def _read(row: Any) -> tuple[Convention | type, Row, Mapping[str, Any]]:
    """Convert a row to (convention or record type, record, columns), without a derived `completion`."""
    if isinstance(row, get_args(Row)):
        return type(row), row, row_to_json(row)
    if not isinstance(row, Mapping):
        raise InputError(f"a row must be a dict of columns or a record, not of type {type(row).__name__}")
    columns = standardize(row)
    kind = convention_of(columns)
    kept = {name: value for name, value in columns.items() if name != "completion" or name in row}
    with in_own_names(row, columns):
        return kind, kind.convert(columns), kept


def _describe(kind: Convention | type) -> str:
    return f"the record {kind.__name__}" if isinstance(kind, type) else f"the columns {', '.join(kind.needs)}"


def require_rows(rows: Sequence[Any], source: Source, split: str) -> None:
    """Raise InputError if the split has no rows."""
    if not rows:
        raise InputError(
            f"{mix.called(source)} holds no rows" + ("" if split == "train" else f" in the split '{split}'")
        )


def require_limit(limit: int | None) -> None:
    """Raise InputError where a limit on rows is below 1."""
    if limit is not None and limit < 1:
        raise InputError(f"the limit on rows must be at least 1, not {limit}")


def open_rows(
    source: Source, split: str = "train", limit: int | None = None, left_out: LeftOut | None = None
) -> Iterator[tuple[int, str, Any]]:
    """Yield at most `limit` rows as (row number from 1, location for messages, columns).

    The numbers run on over several sources; each is a `RowNumber` that names the row within its own source. `left_out`
    records how many rows each source contributed.
    """
    require_limit(limit)
    parts, notes = mix.parts_of(source), [] if left_out is None else left_out.taken
    if len(parts) == 1:
        unit, numbered = open_source(parts[0].source, split)
        count = last = 0
        for number, row in islice(expand_annotations(unit, numbered, notes), limit):
            count, last = count + 1, number
            yield number, f"{unit} {number}", row
        if left_out is not None:
            left_out.sources.append(Taken(mix.called(source), None, count, count, last))
        return
    read = []
    for part in parts:
        unit, numbered = open_source(part.source, split)
        read.append([(number, f"{unit} {number}", row) for number, row in expand_annotations(unit, numbered, notes)])
        require_rows(read[-1], part.source, split)
    taken, before = mix.select_rows(parts, [len(rows) for rows in read], limit), 0
    for part, rows, indices in zip(parts, read, taken, strict=True):
        if left_out is not None:
            left_out.taken.append(f"{part.name}: {len(indices):,} of {len(rows):,} rows")
            last = before + rows[-1][0]
            left_out.sources.append(Taken(part.name, part.weight, len(indices), len(rows), last))
        for number, where, row in (rows[i] for i in indices):
            yield RowNumber(before + number, f"{number} of {part.name}"), where, row
        before += rows[-1][0]
