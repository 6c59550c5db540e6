"""Rows from a file, a data set on the Hugging Face Hub, a generator of reasoning-gym, or objects already in memory.

`load_data` reads records, `load_prompts` their prompts, `load_samples` prompts and completions in a file of samples.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, TypeAlias, get_args

from accord.data import mix
from accord.data.columns import renamed
from accord.data.conventions import Convention, convention_of
from accord.data.conversations import assembled, several
from accord.data.exports import answered
from accord.data.layouts import standard
from accord.data.messages import read_prompt, read_text
from accord.data.sources import opened
from accord.errors import InputError, LeftOut, Reason, RowNumber, Taken, located
from accord.records import Message, Prompt, Row, Text, row_to_json

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
    """The rows of `source` as records, in order; all of one kind.

    `source` is a file of one of `accord.data.readers.FORMATS`, a folder of them, a name on the Hugging Face Hub (with a
    configuration as `name:config`), a generator of reasoning-gym (as `reasoning-gym:chain_sum?size=200`), or an
    iterable of dicts or records: a list, a `datasets.Dataset`. Records are returned as they are; columns become records
    by the conventions in `accord.data.conventions`. Several sources are a list of their names, one after the other, or
    a mapping of names to weights (`accord.data.mix`).

    `columns` has the rows' columns, or paths into them, by the names that they are read under: `{"prompt": "question",
    "chosen": "answers[0].text"}`.

    `split` names a split on the Hub; other sources have only "train". Rows can be picked by position, as
    `split="train[:1800]"` or `split="train[-512:]"`. `limit` keeps the first rows of what the split gives.

    Raises InputError, naming the file and the row, for a missing or malformed file, columns that fit no convention, an
    empty completion, equal chosen and rejected, a malformed chat, label or ranking, and when there are no rows. With
    `left_out` a row that cannot be used is left out and noted there instead, unless none is left.
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
    """The prompts of the rows that `load_data` would give, each with all its row's other columns as they were given.

    So a reward function or a verifier sees `answer`, `chosen`, and whatever else a row holds. Raises as `load_data`.
    """
    return [
        record
        if isinstance(record, Prompt)
        else Prompt(record.prompt, {name: value for name, value in others.items() if name != "prompt"})
        for record, others, _ in read_rows(source, split, limit, left_out, columns, keep=True)
    ]


def load_samples(path: Source, columns: Mapping[str, str] | None = None) -> list[tuple[Prompt, Text]]:
    """The prompts and completions in a file of samples: rows as demonstrations have them, but a model may say nothing.

    A chat's completion is a chat, an empty one an empty message. Each prompt has its row's other columns: `answer`,
    perhaps, or the `stop` of `accord sample`. Raises as `load_data`, but for a file without rows.
    """
    samples: list[tuple[Prompt, Text]] = []
    for _, where, given in open_rows(path):
        with located(f"{where}: "):
            row = renamed(given, columns)
            if not {"prompt", "completion"} <= row.keys():
                raise InputError(f"a sample has the columns prompt and completion, and here are {', '.join(row)}")
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
    """Every row as a record, its columns, and where it is from.

    All rows of a file follow the convention of its first, or are records of one kind. With `keep` rows stay that teach
    nothing: two answers of which neither is better, and several whose verdicts contradict each other, as a ranking of
    equals, messages without an answer and an empty completion as a prompt.
    """
    noted = LeftOut() if left_out is None else left_out
    read = list(stream_rows(source, split, limit, left_out, columns, keep=keep, noted=noted))
    if noted.reasons and not read:
        bad = noted.reasons[0]
        raise InputError(f"{bad.where}: {bad.why} (and no other row of {called(source)} can be used)")
    noted.numbers = [number for number, *_ in read]
    require_rows(read, source, split)
    return [(record, found, name) for _, record, found, name in read]


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
    """The same, one after the other as they are read, each with its number, and also where there are none.

    Of one file a few rows are held at once, of several all; what is left out is `noted`.
    """
    firsts: dict[str, Convention | type] = {}
    noted = LeftOut() if noted is None else noted
    for number, where, row in assembled(open_rows(source, split, limit, left_out)):
        name = where.rpartition(", ")[0]
        try:
            found = [_read(each) for each in several(renamed(row, columns))]
            if not keep:
                _require_lesson(found)
            for kind, _, _ in found:
                if kind is not (first := firsts.setdefault(name, kind)):
                    raise InputError(f"the row has {_describe(kind)}, where the first row has {_describe(first)}")
        except InputError as error:
            if left_out is None or (left_out.strict and not isinstance(error, _Tie)):
                raise InputError(f"{where}: {error}") from None
            noted.reasons.append(Reason(number, str(error), str(error), not isinstance(error, _Tie), where))
            continue
        if not found:
            noted.reasons.append(Reason(number, NOT_RANKED, NOT_RANKED, False, where))
        yield from ((number, record, read, name) for _, record, read in found)


NOT_RANKED = "no message of the tree has two ranked answers"


class _Tie(InputError):
    """Two answers of which neither is preferred: no fault of the data."""


def _require_lesson(found: Iterable[tuple[Any, Row, Mapping[str, Any]]]) -> None:
    for _, record, columns in found:
        if "verdicts" in columns:
            raise _Tie("the verdicts on its answers contradict each other, so they are no ranking")
        if "tied" in columns:
            raise _Tie("neither answer is preferred, so there is nothing to learn from the row")
        if isinstance(record, Prompt) and "messages" in columns:
            raise InputError("'messages' has no assistant turn to learn from")
        if isinstance(record, Prompt) and "completion" in columns:
            raise InputError("'completion' is empty")


def _read(row: Any) -> tuple[Convention | type, Row, Mapping[str, Any]]:
    """What sort of row it is, the record it makes, and its columns, without a completion that is another's copy."""
    if isinstance(row, get_args(Row)):
        return type(row), row, row_to_json(row)
    if not isinstance(row, Mapping):
        raise InputError(f"a row must be a dict of columns or a record, not of type {type(row).__name__}")
    columns = standard(row)
    kind = convention_of(columns)
    kept = {name: value for name, value in columns.items() if name != "completion" or name in row}
    return kind, kind.convert(columns), kept


def _describe(kind: Convention | type) -> str:
    return f"the record {kind.__name__}" if isinstance(kind, type) else f"the columns {', '.join(kind.needs)}"


def called(source: Source) -> str:
    """What messages call the source."""
    return mix.called(source)


def require_rows(rows: Sequence[Any], source: Source, split: str) -> None:
    """Raise InputError where the split gave no rows."""
    if not rows:
        raise InputError(f"{called(source)} holds no rows" + ("" if split == "train" else f" in the split '{split}'"))


def open_rows(
    source: Source, split: str = "train", limit: int | None = None, left_out: LeftOut | None = None
) -> Iterator[tuple[int, str, Any]]:
    """The rows, at most `limit` of them: each with its number, from 1, and where messages say that it is.

    Those of several sources are numbered on, and know the numbers that they have in theirs; `left_out` gets a line for
    each source, of how many rows are taken.
    """
    if limit is not None and limit < 1:
        raise InputError(f"the limit on rows must be at least 1, not {limit}")
    parts, told = mix.parts_of(source), [] if left_out is None else left_out.taken
    if len(parts) == 1:
        unit, numbered = opened(parts[0].source, split)
        count = last = 0
        for number, row in islice(answered(unit, numbered, told), limit):
            count, last = count + 1, number
            yield number, f"{unit} {number}", row
        if left_out is not None:
            left_out.sources.append(Taken(called(source), None, count, count, last))
        return
    read = []
    for part in parts:
        unit, numbered = opened(part.source, split)
        read.append([(number, f"{unit} {number}", row) for number, row in answered(unit, numbered, told)])
        require_rows(read[-1], part.source, split)
    taken, before = mix.shares(parts, [len(rows) for rows in read], limit), 0
    for part, rows, some in zip(parts, read, taken, strict=True):
        if left_out is not None:
            left_out.taken.append(f"{part.name}: {len(some):,} of {len(rows):,} rows")
            last = before + rows[-1][0]
            left_out.sources.append(Taken(part.name, part.weight, len(some), len(rows), last))
        for number, where, row in (rows[i] for i in some):
            yield RowNumber(before + number, f"{number} of {part.name}"), where, row
        before += rows[-1][0]
