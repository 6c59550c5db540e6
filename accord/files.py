"""Files written whole: to a temporary name beside the path, then renamed, so a kill leaves no half-written file."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import yaml

from accord.errors import InputError
from accord.records import Row, row_to_json


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[IO[str]]:
    """An open UTF-8 text file that becomes `path` when the block ends, and vanishes when the block raises.

    Missing folders are made; a path that ends in `.gz` is compressed.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    opener: Any = gzip.open if target.suffix == ".gz" else open
    try:
        with opener(partial, "wt", encoding="utf-8", newline="\n") as file:
            yield file
        os.replace(partial, target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def require_folder(path: str | os.PathLike[str]) -> Path:
    """The path, where it is a folder or can become one; `InputError` where it, or a folder it would lie in, is a file.

    Asked before long work whose result goes there.
    """
    folder = Path(path)
    there = next(one for one in (folder, *folder.parents) if one.exists())
    if not there.is_dir():
        raise InputError(f"{folder} cannot be a folder, since {there} is a file; name another.")
    return folder


def read_yaml(path: str | os.PathLike[str], called: str) -> Any:
    """What a YAML file holds; InputError, by what the file is `called`, where it cannot be read or is none."""
    try:
        return yaml.safe_load(Path(path).read_bytes())
    except OSError as error:
        raise InputError(f"{called} {path} cannot be read: {error.strerror}.") from None
    except yaml.YAMLError as error:
        raise InputError(f"{called} {path} is not YAML: {' '.join(str(error).split())}.") from None


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write `text` to `path`, whole or not at all."""
    with replacing(path) as file:
        file.write(text)


def write_rows(path: str | os.PathLike[str], rows: Iterable[Row | Mapping[str, Any]]) -> None:
    """Write records or JSON objects to `path`, one a line, whole or not at all; `load_data` reads them back."""
    with replacing(path) as file:
        for row in rows:
            columns = row if isinstance(row, Mapping) else row_to_json(row)
            file.write(json.dumps(columns, ensure_ascii=False, allow_nan=False) + "\n")
