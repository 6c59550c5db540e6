"""Rows from a file, a data set on the Hugging Face Hub, a generator of reasoning-gym, or objects already in memory.

`load_data` reads records, `load_prompts` their prompts, `load_samples` prompts and completions in a file of samples.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias, get_args
from urllib.parse import parse_qsl

import yaml

from accord.data.chat import read_prompt, read_text
from accord.data.conventions import Convention, convention_of
from accord.data.readers import FORMATS, Numbered, format_of
from accord.errors import InputError
from accord.records import Message, Prompt, Row, Text, row_to_json

Source: TypeAlias = str | os.PathLike[str] | Iterable[Row | Mapping[str, Any]]

_HUB_NAME = re.compile(r"(?P<name>[\w.-]+(/[\w.-]+)?)(:(?P<config>[\w.-]+))?")
_SPLIT = re.compile(r"train(\[(?P<start>-?\d+)?:(?P<stop>-?\d+)?\])?")


def load_data(source: Source, *, split: str = "train", limit: int | None = None) -> list[Row]:
    """The rows of `source` as records, in order; all of one kind.

    `source` is a file (.jsonl, .json or .csv, each also with .gz, or .parquet), a name on the Hugging Face Hub (with a
    configuration as `name:config`), a generator of reasoning-gym (as `reasoning-gym:chain_sum?size=200`), or an
    iterable of dicts or records: a list, a `datasets.Dataset`. Records are returned as they are; columns become records
    by the conventions in `accord.data.conventions`.

    `split` names a split on the Hub; other sources have only "train". Rows can be picked by position, as
    `split="train[:1800]"` or `split="train[-512:]"`. `limit` keeps the first rows of what the split gives.

    Raises InputError, naming the file and the row, for a missing or malformed file, columns that fit no convention, an
    empty completion, equal chosen and rejected, a malformed chat, label or ranking, and when there are no rows.
    """
    return [record for record, _ in read_rows(source, split, limit)]


def load_prompts(source: Source, *, split: str = "train", limit: int | None = None) -> list[Prompt]:
    """The prompts of the rows that `load_data` would give, each with all its row's other columns as they were given.

    So a reward function or a verifier sees `answer`, `chosen`, and whatever else a row holds. Raises as `load_data`.
    """
    return [
        record
        if isinstance(record, Prompt)
        else Prompt(record.prompt, {name: value for name, value in columns.items() if name != "prompt"})
        for record, columns in read_rows(source, split, limit)
    ]


def read_rows(source: Source, split: str, limit: int | None) -> list[tuple[Row, Mapping[str, Any]]]:
    """Every row as a record, and its columns."""
    if isinstance(source, (str, os.PathLike)):
        name, unit, numbered = open_rows(source, split)
    else:
        name, unit, numbered = "", "row", _pick(_number(source), split)
    rows = list(_records(head(numbered, limit), f"{name}, {unit}" if name else unit))
    if not rows:
        raise InputError(
            f"{name or 'the data'} holds no rows" + ("" if split == "train" else f" in the split '{split}'")
        )
    return rows


def head(numbered: Numbered, limit: int | None) -> Numbered:
    """The first so many rows, or all."""
    if limit is not None and limit < 1:
        raise InputError(f"the limit on rows must be at least 1, not {limit}")
    return islice(numbered, limit)


def open_rows(source: str | os.PathLike[str], split: str) -> tuple[str, str, Numbered]:
    """What to call the source, what its numbers count, and its rows."""
    path, name = Path(source), os.fspath(source)
    if name.startswith(GENERATED):
        return name, "row", _pick(_number(generated(name)), split)
    reader = format_of(path)
    if path.is_file() and reader is not None:
        return name, reader.unit, _pick(reader.read(path), split)
    if path.is_dir():
        raise InputError(f"{name} is a folder: name one of its files ({', '.join(FORMATS)})")
    if path.exists():
        raise InputError(f"{name} is none of the formats that can be read: {', '.join(FORMATS)}")
    hub = _HUB_NAME.fullmatch(name)
    if reader is not None or isinstance(source, os.PathLike) or hub is None:
        raise InputError(f"there is no file {name}")
    return name, "row", _number(_from_hub(hub["name"], hub["config"], split))


def _from_hub(name: str, config: str | None, split: str) -> Iterable[Mapping[str, Any]]:
    import datasets
    from datasets.exceptions import DatasetsError

    try:
        dataset: Iterable[Mapping[str, Any]] = datasets.load_dataset(name, config, split=split)
    except (OSError, ValueError, RuntimeError, DatasetsError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"there is no file {name}, and the split '{split}' of a data set of that name could not be loaded from the "
            f"Hugging Face Hub ({reason})"
        ) from None
    return dataset


def _number(rows: Iterable[Any]) -> Iterator[tuple[int, Any]]:
    if isinstance(rows, Mapping):
        raise InputError(f"data in memory must be a list of rows, not a mapping (of {', '.join(map(str, rows))})")
    return enumerate(rows, start=1)


def _pick(numbered: Iterator[tuple[int, Any]], split: str) -> Iterator[tuple[int, Any]]:
    """The rows of a source that has a single split, by position where the split says so."""
    match = _SPLIT.fullmatch(split)
    if match is None:
        raise InputError(f"there is no split '{split}' here: only 'train', or a part such as 'train[:100]'")
    if match["start"] is None and match["stop"] is None:
        return numbered
    start, stop = (None if match[end] is None else int(match[end]) for end in ("start", "stop"))
    return iter(list(numbered)[start:stop])


def _records(numbered: Iterable[tuple[int, Any]], where: str) -> Iterator[tuple[Row, Mapping[str, Any]]]:
    """Each row as a record, and its columns; all follow the first row's convention, or are records of one kind."""
    first: Convention | type | None = None
    for number, row in numbered:
        try:
            is_record = isinstance(row, get_args(Row))
            if not is_record and not isinstance(row, Mapping):
                raise InputError(f"a row must be a dict of columns or a record, not of type {type(row).__name__}")
            kind: Convention | type = type(row) if is_record else convention_of(row)
            if first is None:
                first = kind
            if kind is not first:
                raise InputError(f"the row has {_describe(kind)}, where the first row has {_describe(first)}")
            yield (row, row_to_json(row)) if isinstance(kind, type) else (kind.convert(row), row)
        except InputError as error:
            raise InputError(f"{where} {number}: {error}") from None


def _describe(kind: Convention | type) -> str:
    if isinstance(kind, type):
        return f"the record {kind.__name__}"
    return f"the columns {', '.join(kind.needs)}"


GENERATED = "reasoning-gym:"
"""What the name of such a data set begins with."""


def generated(source: str) -> Iterator[Mapping[str, Any]]:
    """The rows of `reasoning-gym:NAME?size=200&seed=1`: a question, its answer, and metadata that its scorer reads.

    What follows the question mark are settings of the data set; `seed` is 0 unless given. Where a question has many
    right answers and the data set names none, its row is a prompt alone.

    Raises InputError where the extra is not installed, and for names, settings and values that the data set refuses.
    """
    name, _, query = source.removeprefix(GENERATED).partition("?")
    try:
        from reasoning_gym.factory import DATASETS, create_dataset
    except ImportError:
        raise InputError(f"{source} needs the verify extra: pip install reasoning-gym") from None
    if name not in DATASETS:
        raise InputError(f"reasoning-gym has no data set {name!r}{_nearest(name, DATASETS)}")
    settings = {"seed": 0} | _settings(source, query, [field.name for field in fields(DATASETS[name][1])])
    try:
        dataset = create_dataset(name, **settings)
    except (AssertionError, TypeError, ValueError) as error:
        raise InputError(f"{source} has settings that do not fit: {error}") from None
    return map(_row, dataset)


def _settings(source: str, query: str, known: list[str]) -> dict[str, Any]:
    """The settings after the question mark, their values as YAML reads them."""
    settings = {}
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key not in known:
            raise InputError(f"{source} has no setting {key!r}{_nearest(key, known)}: it has {', '.join(known)}")
        try:
            settings[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise InputError(f"{source} sets {key} to {value!r}, which is no value") from None
    return settings


def _row(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    asked = [{"role": "user", "content": entry["question"]}]
    return entry if isinstance(entry["answer"], str) else {"prompt": asked, **entry}


def _nearest(name: str, names: Any) -> str:
    near = get_close_matches(name, list(names), 1, 0.5)
    return f" (did you mean {near[0]}?)" if near else ""


def load_samples(path: str | os.PathLike[str]) -> list[tuple[Text, Text]]:
    """The prompts and completions in a file of samples: rows as demonstrations have them, but a model may say nothing.

    A chat's completion is a chat, an empty one an empty message.

    Raises InputError as `load_data` does.
    """
    return [(prompt.prompt, completion) for prompt, completion in load_prompted_samples(path)]


def load_prompted_samples(path: str | os.PathLike[str]) -> list[tuple[Prompt, Text]]:
    """The same, each prompt with its row's other columns: `answer`, perhaps, or the `stop` of `accord sample`."""
    name, unit, numbered = open_rows(path, "train")
    samples: list[tuple[Prompt, Text]] = []
    for number, columns in numbered:
        try:
            if not {"prompt", "completion"} <= columns.keys():
                raise InputError(f"a sample has the columns prompt and completion, and here are {', '.join(columns)}")
            prompt = read_prompt(columns["prompt"])
            completion = read_text(columns["completion"], "completion")
        except InputError as error:
            raise InputError(f"{name}, {unit} {number}: {error}") from None
        chat = (Message("assistant", completion),) if isinstance(completion, str) else completion
        rest = {name: value for name, value in columns.items() if name not in ("prompt", "completion")}
        samples.append((Prompt(prompt, rest), completion if isinstance(prompt, str) else chat))
    return samples
