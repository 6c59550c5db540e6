"""Open sources of rows: files, folders, the Hugging Face Hub, reasoning-gym generators, objects in memory."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import yaml

from accord.console import error_text
from accord.data.readers import READ, read_jsonl, read_plain, reader_of
from accord.engine import hub
from accord.errors import InputError, nearest
from accord.outputs import tell_changed
from accord.parsing import parse_untyped

MOST_GENERATED = 1_000_000
"""The most rows of a generated dataset."""
GENERATED = "reasoning-gym:"
"""The prefix of a generated dataset's name."""

_HUB_NAME = re.compile(r"(?P<name>[\w.-]+(/[\w.-]+)?)(:(?P<config>[\w.-]+))?")
_SPLIT = re.compile(r"(?P<name>[\w.]+)(?P<part>\[(?P<start>-?\d+%?)?:(?P<stop>-?\d+%?)?\])?")
_SHARD = re.compile(r"(?P<split>[\w.]+)-\d{5}-of-\d{5}\..+")
"""The Hub's file names for the shards of a split."""


def open_source(source: str | os.PathLike[str] | Iterable[Any], split: str) -> tuple[str, Iterator[tuple[int, Any]]]:
    """Open a source: a location prefix ("FILE, line" or "NAME, row"), and the (number, columns) of a split's rows.

    Raises InputError if there is no such source or split.
    """
    if not isinstance(source, (str, os.PathLike)):
        return "row", slice_rows(enumerate(_rows_of(source), start=1), split)
    path, name = Path(source), os.fspath(source)
    if name.startswith(GENERATED):
        return f"{name}, row", slice_rows(enumerate(generate(name), start=1), split)
    reader = reader_of(path)
    if path.is_file() and reader is not None:
        tell_changed(path)
        return f"{name}, {'line' if reader in (read_jsonl, read_plain) else 'row'}", slice_rows(reader(path), split)
    if path.is_dir():
        picked, part = parse_split(split)
        return f"{name}, row", slice_rows(enumerate(read_folder(path, picked), start=1), f"train{part}")
    if path.exists() and reader is not None:
        raise InputError(f"{name} is a device, a pipe or a socket: save the rows to a file first")
    if path.exists():
        raise InputError(f"{name} is none of the formats that can be read: {READ}")
    named = _HUB_NAME.fullmatch(name)
    if reader is not None or isinstance(source, os.PathLike) or named is None:
        raise InputError(f"there is no file {name}")
    return f"{name}, row", enumerate(load_from_hub(named["name"], named["config"], split), start=1)


def _rows_of(source: Iterable[Any]) -> Iterable[Any]:
    """The rows of an iterable in memory; a pandas or polars table, which iterates over columns, is converted."""
    if hasattr(source, "to_dicts"):
        return source.to_dicts()  # type: ignore[no-any-return]
    if not hasattr(source, "iterrows") or not hasattr(source, "to_dict"):
        return source
    rows = source.to_dict("records")
    return [{name: v.tolist() if hasattr(v, "tolist") else v for name, v in row.items()} for row in rows]


def slice_indices(count: int, split: str, name: str) -> range:
    """The indices of the rows, among `count`, that a split slices; all for a Hub dataset, which is already sliced."""
    if is_on_hub(name) and not Path(name).exists():
        return range(count)
    return range(count)[_part(split, count)]


def is_on_hub(name: str) -> bool:
    """Whether the name has the form of a dataset's name on the Hugging Face Hub."""
    return _HUB_NAME.fullmatch(name) is not None and reader_of(Path(name)) is None


def open_dataset(name: str, split: str) -> Any:
    """Open a folder written by `save_to_disk`, or a dataset on the Hub, as a `datasets.Dataset`.

    Raises InputError if there is none.
    """
    import datasets

    path = Path(name)
    if not path.is_dir():
        named = _HUB_NAME.fullmatch(name)
        assert named is not None  # by `is_on_hub`
        return load_from_hub(named["name"], named["config"], split)
    if not ((path / "dataset_dict.json").exists() or (path / "state.json").exists()):
        raise InputError(
            f"stream reads folders written by save_to_disk of datasets, and {name} is not one: name its files instead."
        )
    saved = datasets.load_from_disk(str(path))
    if isinstance(saved, datasets.DatasetDict):
        raise InputError(f"{name} holds the splits {', '.join(saved)}; give the folder of one of them")
    return saved


def slice_rows(numbered: Iterator[tuple[int, Any]], split: str) -> Iterator[tuple[int, Any]]:
    """The rows of a source whose only split is train, sliced as the split says."""
    if _part(split, 0) == slice(None):
        return numbered
    rows = list(numbered)
    return iter(rows[_part(split, len(rows))])


def _part(split: str, count: int) -> slice:
    """The slice of train, of `count` rows, that a split names; percentages are rounded to whole rows."""
    match = _SPLIT.fullmatch(split)
    if match is None or match["name"] != "train":
        raise InputError(f"there is no split '{split}' here: only 'train', or a part such as 'train[:100]'")
    start, stop = (_position(match[end], count) for end in ("start", "stop"))
    return slice(start, stop)


def _position(text: str | None, count: int) -> int | None:
    if text is None:
        return None
    return round(count * int(text[:-1]) / 100) if text.endswith("%") else int(text)


def parse_split(split: str) -> tuple[str, str]:
    """Split "train[:100]" into its name and its slice. Raises InputError if it is malformed."""
    match = _SPLIT.fullmatch(split)
    if match is None:
        raise InputError(f"a split is a name, or a part such as 'train[:100]', not '{split}'")
    return match["name"], match["part"] or ""


def read_folder(path: Path, split: str = "train") -> Iterator[Mapping[str, Any]]:
    """The rows of a split in a folder, written by `save_to_disk` or holding data files."""
    import datasets

    if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
        saved = datasets.load_from_disk(str(path))
        there = saved if isinstance(saved, datasets.DatasetDict) else {"train": saved}
        if split not in there:
            holds = f"holds the splits {', '.join(there)}" if there is saved else "holds one split, train"
            raise InputError(f"{path} {holds}, and no {split}: name one of them by --split")
        yield from there[split]
        return
    files = _files_of_split(path, split)
    if len({reader_of(file) for file in files}) > 1:
        raise InputError(f"{path} is a folder of files of several formats: name one of its files")
    for file in files:
        reader = reader_of(file)
        assert reader is not None  # ensured by _files_of_split
        tell_changed(file)
        yield from (columns for _, columns in reader(file))


def _files_of_split(path: Path, split: str) -> list[Path]:
    """The files of a split in a folder: its shards, else files named for it, else for train all not held out.

    Raises InputError if there are none, or several splits could be meant.
    """
    files = sorted(f for f in path.rglob("*") if f.is_file() and reader_of(f) and not _is_hidden(f, path))
    files = [file for file in files if file.name not in DESCRIPTIONS] or files
    files = [file for file in files if reader_of(file) is not read_plain] or files  # text beside rows is a README
    if not files:
        raise InputError(f"{path} is a folder without data: it holds none of {READ}")
    shards: dict[str, list[Path]] = {}
    for file in files:
        if match := _SHARD.fullmatch(file.name):
            shards.setdefault(match["split"], []).append(file)
    chosen = shards.get(split) or [file for file in files if _split_of(file, path) == split]
    if chosen:
        return chosen
    begun = [name for name in shards if name.startswith(split)]
    if split != "train" or len(begun) > 1:
        known = ", ".join(shards) or ", ".join(dict.fromkeys(_split_of(file, path) for file in files))
        raise InputError(f"{path} has no split {split}: name one of its splits by --split: {known}")
    others = [file for file in files if re.split(r"[._-]", _split_of(file, path))[0] in HELD_OUT]
    return [file for file in files if file.name.startswith("train")] or [f for f in files if f not in others] or files


DESCRIPTIONS = ("dataset_info.json", "dataset_infos.json")
"""Files that describe the data beside them, as those of datasets and LLaMA-Factory do."""

HELD_OUT = ("test", "validation", "valid", "val", "dev", "eval")
"""Names of splits that are not for training."""


def _split_of(file: Path, folder: Path) -> str:
    """The split that a file belongs to, by a parent folder named for a split or else by the file's own name."""
    inside = next((part for part in file.relative_to(folder).parts[:-1] if part in ("train", *HELD_OUT)), None)
    return inside or file.name.partition(".")[0]


def _is_hidden(file: Path, folder: Path) -> bool:
    """Whether the file, or a folder between it and `folder`, is hidden."""
    return any(part.startswith(".") for part in file.relative_to(folder).parts)


def load_from_hub(name: str, config: str | None, split: str) -> Iterable[Mapping[str, Any]]:
    """Load a split of a dataset on the Hub. Raises InputError, with the reason, if it fails."""
    import datasets

    try:
        with hub.quiet_hub():
            dataset: Iterable[Mapping[str, Any]] = datasets.load_dataset(name, config, split=split)
    except Exception as error:  # datasets and its readers raise errors of many types
        raise hub.failure(name, "data set", error) or _load_error(name, config, split, error) from None
    return dataset


def _load_error(name: str, config: str | None, split: str, error: Exception) -> InputError:
    """The error message for a missing split or configuration, or a dataset that cannot be loaded."""
    text = str(error)
    if match := re.search(r"Unknown split .*? Should be one of (\[.*?\])", text):
        return InputError(f"{name} on the Hub has no split '{split}': there are {_listed(match[1])}")
    if match := re.search(r"BuilderConfig '.*?' not found\. Available: (\[.*?\])", text):
        return InputError(f"{name} on the Hub has no configuration {config}: there are {_listed(match[1])}")
    if match := re.search(r"Config name is missing\.[^\[]*(\[.*?\])", text):
        known = _listed(match[1])
        return InputError(f"{name} on the Hub has several configurations: name one, as {name}:CONFIG, of {known}")
    return InputError(
        f"there is no file {name}, and the split '{split}' of a data set of that name could not be loaded from the "
        f"Hugging Face Hub ({error_text(hub.cause_of(error))})"
    )


def _listed(names: str) -> str:
    """The names in a printed Python list, separated by commas."""
    return ", ".join(re.findall(r"'(.*?)'", names))


def generate(source: str) -> Iterator[Mapping[str, Any]]:
    """The rows of `reasoning-gym:NAME?size=200&seed=1`: question, answer, and the metadata its scorer reads.

    The query holds the dataset's settings; `seed` defaults to 0. If the dataset gives no answer (many are right), the
    row has a prompt instead.

    Raises InputError if the extra is not installed, and for names, settings and values that the dataset refuses.
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
            settings[key] = parse_untyped(value)
        except yaml.YAMLError:
            raise InputError(f"{source} sets {key} to {value!r}, which cannot be read as a value") from None
    try:
        dataset = create_dataset(name, **settings)
        size, _ = len(dataset), dataset[0]
    except Exception as error:  # datasets check their settings by errors of many types
        raise InputError(f"{source} has invalid settings: {error}") from None
    if size > MOST_GENERATED:
        raise InputError(f"{source} is too long: give a size of at most {MOST_GENERATED:,}")
    for entry in dataset:
        asked = [{"role": "user", "content": entry["question"]}]
        yield entry if isinstance(entry["answer"], str) else {"prompt": asked, **entry}
