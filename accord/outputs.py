"""Output files of commands: checked before any work, and never written over input or over other people's files.

`.accord-wrote` in a folder has a line for each file that a command wrote there: its name and the SHA-256 of its
content, recorded before the file gets its name, so that a kill between the two leaves no file that looks foreign.
A file whose content is not recorded belongs to somebody else, or a person has changed it since. Lines are only
appended, so that processes that write in one folder need no lock.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import IO, Any

from accord.console import status
from accord.errors import InputError
from accord.files import line_of, others, partial_path, replacing, replacing_folder, require_here, sha256_of, tidy
from accord.records import Row

WROTE = ".accord-wrote"

DATA = {".jsonl", ".json", ".gz"}
"""Suffixes of the files of rows that commands write."""


class NotOurs(InputError):
    """The output file exists, and accord did not write its content."""


_overwrites = ContextVar("overwrites", default=False)


@contextmanager
def overwriting(asked: bool = True) -> Iterator[None]:
    """Let the block write over other people's files, as --overwrite asks, but never over its input."""
    token = _overwrites.set(asked)
    try:
        yield
    finally:
        _overwrites.reset(token)


def may_overwrite() -> bool:
    """Whether --overwrite was given."""
    return _overwrites.get()


def require_file(path: str | os.PathLike[str], *read: Any) -> Path:
    """The path, checked before long work whose result goes there: a file can be written there.

    `read` is the work's input: file names, and lists and mappings of them. Raises InputError where the file is one of
    these or somebody else's, or the place cannot be written to.
    """
    file = Path(path)
    _require_possible(file)
    for name in _names(read):
        if _is_same(file, Path(name)) or _is_data_in(file, Path(name)):
            raise InputError(f"{file} is an input of this command, so it cannot be written too; name another.")
    _require_ours(file)
    return file


def require_folder(path: str | os.PathLike[str], *read: Any, leaves: Iterable[str] = ()) -> Path:
    """A folder, checked like `require_file` for each of the files (`leaves`, by name) that the work writes there."""
    folder = Path(path)
    for name in leaves:
        require_file(folder / name, *read)
    _require_possible(folder / "x")
    return folder


def require_model_folder(path: str | os.PathLike[str], *read: Any) -> Path:
    """The path of a model folder to be written whole: nothing is there, or with --overwrite a model folder.

    Raises InputError also where an input lies in it.
    """
    folder = Path(path)
    require_outside(folder, *read)
    if folder.is_dir() and others(folder):
        is_model = (folder / "config.json").is_file() and all(one.is_file() for one in folder.iterdir())
        if not (is_model and may_overwrite()):
            way_out = ", or replace this one by --overwrite" if is_model else ""
            raise InputError(f"{folder} holds {others(folder)[0]}; choose another --out{way_out}.")
    elif folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; choose another --out.")
    _require_possible(folder / "x")
    return folder


def require_whole(path: str | os.PathLike[str]) -> Path:
    """A folder to be written by `writing_folder`: as `require_model_folder`, or one that it wrote before."""
    folder = Path(path)
    is_ours = folder.is_dir() and _digest(folder) in _noted(folder)
    return folder if is_ours else require_model_folder(folder)


def require_outside(folder: Path, *read: Any) -> None:
    """Raise InputError where an input is the folder or lies in it, so that the folder cannot be replaced."""
    for name in _names(read):
        for one in (there := Path(name).absolute(), *there.parents) if _exists(name) else ():
            if _is_same(folder, one):
                raise InputError(f"{folder} holds {name}, which is read, and is not replaced; choose another --out.")


@contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[IO[str]]:
    """`files.replacing` for a command's output: records the file, and raises InputError over somebody else's."""
    file = Path(path)
    _require_ours(file)
    with replacing(file, written=lambda partial: _note(file, sha256_of(partial))) as opened:
        yield opened


@contextmanager
def writing_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """`files.replacing_folder` for a command's output: records it, and raises InputError over somebody else's."""
    folder = require_whole(path)
    with replacing_folder(folder, written=lambda partial: _note(folder, _digest(partial))) as partial:
        yield partial


def save_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a command's text to `path`, whole or not at all. Raises NotOurs over a file that accord did not write."""
    with writing(path) as file:
        file.write(text)


def save_rows(path: str | os.PathLike[str], rows: Iterable[Row | Mapping[str, Any]]) -> None:
    """Write records or JSON objects to `path`, one a line, whole or not at all; `load_data` reads them back.

    Raises NotOurs over a file that accord did not write, or that was changed since, except within `overwriting`.
    """
    with writing(path) as file:
        file.writelines(map(line_of, rows))


def tell_changed(file: Path) -> None:
    """Print a status line where an input file differs from what accord wrote there."""
    if (noted := _noted(file)) and sha256_of(file) not in noted:
        status(f"{file} is not as accord wrote it: somebody has changed it since, or it is damaged.")


def changed_in(folder: Path) -> Iterator[Path]:
    """The files in a folder, at any depth, that accord wrote and somebody has changed since."""
    for record in sorted(folder.rglob(WROTE)):
        for name in dict.fromkeys(name for name, _ in _lines(record)):
            file = record.parent / name
            if file.is_file() and not _is_ours(file):
                yield file


def require_unchanged(folder: Path) -> None:
    """Raise InputError where somebody has changed one of accord's files in a folder that is to be removed."""
    for file in changed_in(folder) if not may_overwrite() else ():
        raise InputError(
            f"{file} was changed since accord wrote it, and {folder} is to be made again: move it, or give --overwrite."
        )


def _require_ours(file: Path) -> None:
    if not may_overwrite() and file.is_file() and not _is_ours(file):
        raise NotOurs(
            f"{file} is there, and accord did not write it, or it was changed since: name another, or give --overwrite."
        )


def _is_ours(file: Path) -> bool:
    noted = _noted(file)
    return bool(noted) and sha256_of(file) in noted


def _require_possible(file: Path) -> None:
    """Raise InputError where no file can be written at a path; tries with a temporary one in the nearest folder."""
    require_here(file)
    try:
        if file.exists() and not file.is_file():
            kind = "a folder" if file.is_dir() else "not a regular file"
            raise InputError(f"{file} is {kind}, so no file can be written there.")
        if file.is_symlink() and not file.exists():
            raise InputError(f"{file} is a link to {os.readlink(file)}, which is not there; name the place itself.")
        missing = [one for one in (file, *file.parents) if not one.exists()]
        there = (missing or [file])[-1].parent
        if not there.is_dir():
            raise InputError(f"{file.parent} cannot be a folder, since {there} is a file; name another.")
        for one in missing:  # a name that is too long shows up when the folder is asked for it
            with suppress(FileNotFoundError):
                os.lstat(there / one.name)
        tidy(there, file.name)  # what a killed process left of such a try
        tried = there / partial_path(file).name
        os.close(os.open(tried, os.O_WRONLY | os.O_CREAT, 0o600))
        tried.unlink()
    except OSError as error:
        raise InputError(f"{file} cannot be written ({error.strerror}); name another place.") from None


def _names(read: Any) -> Iterator[str]:
    """The strings among the inputs that may name files: also the terms of a formula, and names without mix weights."""
    if isinstance(read, str | os.PathLike):
        text = os.fspath(read)
        whole = [text, *re.split(r"[\s+*,()]+", text)]
        yield from (name for one in whole for name in (one, re.sub(r":[\d.]+$", "", one)) if name)
    elif isinstance(read, Mapping):
        yield from _names(list(read.values()))
    elif isinstance(read, list | tuple):
        for one in read:
            yield from _names(one)


def _is_same(one: Path, other: Path) -> bool:
    with suppress(OSError, ValueError):
        return os.path.realpath(one) == os.path.realpath(other) or (other.exists() and one.samefile(other))
    return False


def _is_data_in(file: Path, folder: Path) -> bool:
    """Whether an existing file is one of the data files of an input folder that is neither a run nor a model."""
    is_data = file.suffix in DATA and _exists(str(folder)) and folder.is_dir() and file.exists()
    return is_data and file.resolve().is_relative_to(folder.resolve()) and not list(folder.glob("config.*"))


def _exists(name: str) -> bool:
    with suppress(OSError, ValueError):  # the string cannot be a file name
        return Path(name).exists()
    return False


def _note(path: Path, digest: str) -> None:
    """Record durably that accord wrote this content under the path's name."""
    if digest in _noted(path):
        return
    record = path.parent / WROTE
    is_torn = record.is_file() and not record.read_bytes().endswith(b"\n")
    line = "\n" * is_torn + json.dumps({"name": path.name, "sha256": digest}) + "\n"
    with record.open("ab") as file:
        file.write(line.encode())
        file.flush()
        os.fsync(file.fileno())


def _noted(path: Path) -> set[str]:
    """The digests of the contents that accord wrote under the path's name."""
    return {digest for name, digest in _lines(path.parent / WROTE) if name == path.name}


def _lines(record: Path) -> Iterator[tuple[str, str]]:
    """Names and digests in a record; a line cut short is skipped."""
    for line in record.read_bytes().splitlines() if record.is_file() else ():
        with suppress(ValueError, KeyError, TypeError):
            noted = json.loads(line)
            yield noted["name"], noted["sha256"]


def _digest(folder: Path) -> str:
    """The SHA-256 over the names and contents of all files in a folder."""
    files = sorted(one for one in folder.rglob("*") if one.is_file())
    listed = "".join(f"{one.relative_to(folder).as_posix()}\0{sha256_of(one)}\n" for one in files)
    return hashlib.sha256(listed.encode(errors="surrogateescape")).hexdigest()
