"""Where rows are: a file, a folder, the Hugging Face Hub, a data set that is made as it is read, or in memory."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import yaml

from accord.data.readers import READ, first_line, read_jsonl, read_plain, reader_of
from accord.engine import hub
from accord.errors import InputError, nearest
from accord.outputs import tell_changed
from accord.parsing import parse_yaml

MOST_GENERATED = 1_000_000
"""Rows of a data set that is made as it is read."""
GENERATED = "reasoning-gym:"
"""What the name of such a data set begins with."""

_HUB_NAME = re.compile(r"(?P<name>[\w.-]+(/[\w.-]+)?)(:(?P<config>[\w.-]+))?")
_SPLIT = re.compile(r"(?P<name>[\w.]+)(?P<part>\[(?P<start>-?\d+)?:(?P<stop>-?\d+)?\])?")
_SHARD = re.compile(r"(?P<split>[\w.]+)-\d{5}-of-\d{5}\..+")
"""What the Hub calls the files of a split."""


def open_source(source: str | os.PathLike[str] | Iterable[Any], split: str) -> tuple[str, Iterator[tuple[int, Any]]]:
    """What the numbers of the rows count, and the rows of a split.

    Raises InputError where there is no such source or split.
    """
    if not isinstance(source, (str, os.PathLike)):
        return "row", pick(enumerate(_rows_of(source), start=1), split)
    path, name = Path(source), os.fspath(source)
    if name.startswith(GENERATED):
        return f"{name}, row", pick(enumerate(generated(name), start=1), split)
    reader = reader_of(path)
    if path.is_file() and reader is not None:
        tell_changed(path)
        return f"{name}, {'line' if reader in (read_jsonl, read_plain) else 'row'}", pick(reader(path), split)
    if path.is_dir():
        picked, part = named_split(split)
        return f"{name}, row", pick(enumerate(in_folder(path, picked), start=1), f"train{part}")
    if path.exists() and reader is not None:
        raise InputError(f"{name} is a device, a pipe or a socket: save the rows to a file first")
    if path.exists():
        raise InputError(f"{name} is none of the formats that can be read: {READ}")
    named = _HUB_NAME.fullmatch(name)
    if reader is not None or isinstance(source, os.PathLike) or named is None:
        raise InputError(f"there is no file {name}")
    return f"{name}, row", enumerate(from_hub(named["name"], named["config"], split), start=1)


def _rows_of(source: Iterable[Any]) -> Iterable[Any]:
    """The rows of something in memory: of a table of pandas' or polars' its rows, where it yields its columns."""
    if hasattr(source, "to_dicts"):
        return source.to_dicts()  # type: ignore[no-any-return]
    if not hasattr(source, "iterrows") or not hasattr(source, "to_dict"):
        return source
    rows = source.to_dict("records")
    return [{name: v.tolist() if hasattr(v, "tolist") else v for name, v in row.items()} for row in rows]


def pick_numbers(count: int, split: str, name: str) -> range:
    """Which of so many rows, counted from 0, a split picks by position; of the Hub's, which has picked already, all."""
    if is_on_hub(name) and not Path(name).exists():
        return range(count)
    start, stop = _part(split)
    return range(count)[start:stop]


def is_on_hub(name: str) -> bool:
    """Whether it may be a name on the Hugging Face Hub."""
    return _HUB_NAME.fullmatch(name) is not None and reader_of(Path(name)) is None


def opened_lazily(name: str, split: str) -> Any:
    """What `datasets` has under a name: a folder that `save_to_disk` wrote, or a data set of the Hub.

    Raises InputError where there is none.
    """
    import datasets

    path = Path(name)
    if not path.is_dir():
        named = _HUB_NAME.fullmatch(name)
        assert named is not None  # by `is_on_hub`
        return from_hub(named["name"], named["config"], split)
    if not ((path / "dataset_dict.json").exists() or (path / "state.json").exists()):
        raise InputError(
            f"stream reads folders that save_to_disk of datasets wrote, and {name} is none: name its files."
        )
    saved = datasets.load_from_disk(str(path))
    if isinstance(saved, datasets.DatasetDict):
        raise InputError(f"{name} holds the splits {', '.join(saved)}; give the folder of one of them")
    return saved


def pick(numbered: Iterator[tuple[int, Any]], split: str) -> Iterator[tuple[int, Any]]:
    """The rows of a source that has a single split, by position where the split says so."""
    start, stop = _part(split)
    return numbered if start is None and stop is None else iter(list(numbered)[start:stop])


def _part(split: str) -> tuple[int | None, int | None]:
    """Between which rows of the only split a part is."""
    match = _SPLIT.fullmatch(split)
    if match is None or match["name"] != "train":
        raise InputError(f"there is no split '{split}' here: only 'train', or a part such as 'train[:100]'")
    start, stop = (None if match[end] is None else int(match[end]) for end in ("start", "stop"))
    return start, stop


def named_split(split: str) -> tuple[str, str]:
    """The name of a split, and what says which part of it; InputError where it is neither."""
    match = _SPLIT.fullmatch(split)
    if match is None:
        raise InputError(f"a split is a name, or a part such as 'train[:100]', not '{split}'")
    return match["name"], match["part"] or ""


def in_folder(path: Path, split: str = "train") -> Iterator[Mapping[str, Any]]:
    """The rows of a folder: a split of what `save_to_disk` of datasets wrote, or the files of one, one by one."""
    import datasets

    if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
        saved = datasets.load_from_disk(str(path))
        there = saved if isinstance(saved, datasets.DatasetDict) else {"train": saved}
        if split not in there:
            holds = f"holds the splits {', '.join(there)}" if there is saved else "holds one split, train"
            raise InputError(f"{path} {holds}, and no {split}: name one of them by --split")
        yield from there[split]
        return
    files = _of_split(path, split)
    if len({reader_of(file) for file in files}) > 1:
        raise InputError(f"{path} is a folder of files of several formats: name one of its files")
    for file in files:
        reader = reader_of(file)
        assert reader is not None  # they were chosen by that
        tell_changed(file)
        yield from (columns for _, columns in reader(file))


def _of_split(path: Path, split: str) -> list[Path]:
    """The files of a split in a folder: shards of that name, or those called so, or for train all, where none is.

    Raises InputError where there is none, or the training split is one of several.
    """
    files = sorted(f for f in path.rglob("*") if f.is_file() and reader_of(f) and not _is_hidden(f, path))
    files = [file for file in files if reader_of(file) is not read_plain] or files  # beside rows a text is about them
    if not files:
        raise InputError(f"{path} is a folder without data: it holds none of {READ}")
    shards: dict[str, list[Path]] = {}
    for file in files:
        if match := _SHARD.fullmatch(file.name):
            shards.setdefault(match["split"], []).append(file)
    found = shards.get(split) or [file for file in files if _split_of(file, path) == split]
    if found:
        return found
    begun = [name for name in shards if name.startswith(split)]
    if split != "train" or len(begun) > 1:
        known = ", ".join(shards) or ", ".join(dict.fromkeys(_split_of(file, path) for file in files))
        raise InputError(f"{path} has no split {split}: name one of its splits by --split: {known}")
    others = [file for file in files if re.split(r"[._-]", _split_of(file, path))[0] in HELD_OUT]
    return [file for file in files if file.name.startswith("train")] or [f for f in files if f not in others] or files


HELD_OUT = ("test", "validation", "valid", "val", "dev", "eval")
"""What splits are called that are not for training."""


def _split_of(file: Path, folder: Path) -> str:
    """What split a file's name says that it is of, or the folder that it is in, where that is called as splits are."""
    inside = next((part for part in file.relative_to(folder).parts[:-1] if part in ("train", *HELD_OUT)), None)
    return inside or file.name.partition(".")[0]


def _is_hidden(file: Path, folder: Path) -> bool:
    """Whether a file, or a folder that it is in, is one that editors and systems make beside people's own."""
    return any(part.startswith(".") for part in file.relative_to(folder).parts)


def from_hub(name: str, config: str | None, split: str) -> Iterable[Mapping[str, Any]]:
    """The rows of a split of a data set on the Hub. Raises InputError where they cannot be had, and says why."""
    import datasets

    try:
        with hub.quiet_hub():
            dataset: Iterable[Mapping[str, Any]] = datasets.load_dataset(name, config, split=split)
    except Exception as error:  # of those that it is read by
        raise hub.failure(name, "data set", error) or _not_there(name, config, split, error) from None
    return dataset


def _not_there(name: str, config: str | None, split: str, error: Exception) -> InputError:
    """What is said of a split or a configuration that a data set of the Hub has not, or that cannot be read."""
    text = str(error)
    if found := re.search(r"Unknown split .*? Should be one of (\[.*?\])", text):
        return InputError(f"{name} on the Hub has no split '{split}': there are {_listed(found[1])}")
    if found := re.search(r"BuilderConfig '.*?' not found\. Available: (\[.*?\])", text):
        return InputError(f"{name} on the Hub has no configuration {config}: there are {_listed(found[1])}")
    if found := re.search(r"Config name is missing\.[^\[]*(\[.*?\])", text):
        known = _listed(found[1])
        return InputError(f"{name} on the Hub has several configurations: name one, as {name}:CONFIG, of {known}")
    return InputError(
        f"there is no file {name}, and the split '{split}' of a data set of that name could not be loaded from the "
        f"Hugging Face Hub ({first_line(hub.cause_of(error))})"
    )


def _listed(names: str) -> str:
    """Names in a list that Python has printed, for people."""
    return ", ".join(re.findall(r"'(.*?)'", names))


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
        hint = nearest(name, DATASETS, " (did you mean {}?)")
        raise InputError(f"reasoning-gym has no data set {name!r}{hint}")
    known = [field.name for field in fields(DATASETS[name][1])]
    settings: dict[str, Any] = {"seed": 0}
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key not in known:
            hint = nearest(key, known, " (did you mean {}?)")
            raise InputError(f"{source} has no setting {key!r}{hint}: it has {', '.join(known)}")
        try:
            settings[key] = parse_yaml(value)
        except yaml.YAMLError:
            raise InputError(f"{source} sets {key} to {value!r}, which is no value") from None
    try:
        dataset = create_dataset(name, **settings)
        size, _ = len(dataset), dataset[0]
    except Exception as error:  # a data set checks its settings in any manner, or by failing
        raise InputError(f"{source} has settings that do not fit: {error}") from None
    if size > MOST_GENERATED:
        raise InputError(f"{source} is too long: give a size of at most {MOST_GENERATED:,}")
    for entry in dataset:
        asked = [{"role": "user", "content": entry["question"]}]
        yield entry if isinstance(entry["answer"], str) else {"prompt": asked, **entry}
