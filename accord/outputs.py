"""What commands write: nothing over what somebody else wrote or what is read, and tried before any work.

`.accord-wrote` in a folder has a line for every file that a command wrote there: its name and the SHA-256 of its
content, noted before the file takes its name, so that a kill between the two leaves nothing that looks like another's.
A file whose content is not noted is somebody's, also one that a person has changed since. The note only grows, a line a
write, so that processes that write beside each other need no lock.
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
from accord.files import beside, line_of, others, replacing, replacing_folder, require_here, sha256_of, tidy
from accord.records import Row

WROTE = ".accord-wrote"

DATA = {".jsonl", ".json", ".gz"}
"""How files of rows that commands write may end."""


class NotOurs(InputError):
    """A file that is there, and that accord did not write."""


_overwrites = ContextVar("overwrites", default=False)


@contextmanager
def overwriting(asked: bool = True) -> Iterator[None]:
    """Within it files of others are written over, as --overwrite asks, but never what is read."""
    token = _overwrites.set(asked)
    try:
        yield
    finally:
        _overwrites.reset(token)


def may_overwrite() -> bool:
    """Whether --overwrite was given."""
    return _overwrites.get()


def require_file(path: str | os.PathLike[str], *read: Any) -> Path:
    """The path, where a file can be written there; asked before long work whose result goes there.

    `read` is what the work reads: names of files, and lists and mappings that hold some. Raises InputError where the
    file is one of these or somebody else's, or the place cannot be written to.
    """
    file = Path(path)
    _require_possible(file)
    for name in _names(read):
        if _is_same(file, Path(name)) or _is_data_in(file, Path(name)):
            raise InputError(f"{file} is read, so it cannot be written too; name another.")
    _require_ours(file)
    return file


def require_folder(path: str | os.PathLike[str], *read: Any, leaves: Iterable[str] = ()) -> Path:
    """The same of a folder in which the files that the work `leaves` are written, by their names."""
    folder = Path(path)
    for name in leaves:
        require_file(folder / name, *read)
    _require_possible(folder / "x")
    return folder


def require_model_folder(path: str | os.PathLike[str], *read: Any) -> Path:
    """The same of a folder that is written whole, where there is nothing, or with --overwrite a model's folder.

    Raises InputError also where something that is read lies in it.
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
    """The same of a folder that a command may have written whole before, by `writing_folder`."""
    folder = Path(path)
    is_ours = folder.is_dir() and _digest(folder) in _noted(folder)
    return folder if is_ours else require_model_folder(folder)


def require_outside(folder: Path, *read: Any) -> None:
    """Raise InputError where something that is read is the folder, or lies in it, so that it cannot be cleared."""
    for name in _names(read):
        for one in (there := Path(name).absolute(), *there.parents) if _exists(name) else ():
            if _is_same(folder, one):
                raise InputError(f"{folder} holds {name}, which is read, and is not replaced; choose another --out.")


@contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[IO[str]]:
    """`files.replacing` for what a command writes: InputError where somebody else's file is there; it is noted."""
    file = Path(path)
    _require_ours(file)
    with replacing(file, written=lambda partial: _note(file, sha256_of(partial))) as opened:
        yield opened


@contextmanager
def writing_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """`files.replacing_folder` for a folder that a command writes whole; the same."""
    folder = require_whole(path)
    with replacing_folder(folder, written=lambda partial: _note(folder, _digest(partial))) as partial:
        yield partial


def save_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a command's text to `path`, whole or not at all."""
    with writing(path) as file:
        file.write(text)


def save_rows(path: str | os.PathLike[str], rows: Iterable[Row | Mapping[str, Any]]) -> None:
    """Write a command's records or JSON objects to `path`, one a line, whole or not at all."""
    with writing(path) as file:
        file.writelines(map(line_of, rows))


def tell_changed(file: Path) -> None:
    """Say in a line where a file that is read is another than accord wrote there: a person may have changed it."""
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
    """Raise InputError where somebody has changed what accord wrote in a folder, which is to go."""
    for file in changed_in(folder) if not may_overwrite() else ():
        raise InputError(
            f"{file} was changed since accord wrote it, and {folder} is to be made anew: move it, or give --overwrite."
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
    """Raise InputError where no file can be written at a path, by making one beside it, or where its folder will be."""
    require_here(file)
    try:
        if file.exists() and not file.is_file():
            kind = "a folder" if file.is_dir() else "no file"
            raise InputError(f"{file} is {kind}, so no file can be written there.")
        if file.is_symlink() and not file.exists():
            raise InputError(f"{file} is a link to {os.readlink(file)}, which is not there; name the place itself.")
        missing = [one for one in (file, *file.parents) if not one.exists()]
        there = (missing or [file])[-1].parent
        if not there.is_dir():
            raise InputError(f"{file.parent} cannot be a folder, since {there} is a file; name another.")
        for one in missing:  # a name that is too long is told by the folder that it is looked up in
            with suppress(FileNotFoundError):
                os.lstat(there / one.name)
        tidy(there, file.name)  # what a kill left of such a try
        tried = there / beside(file).name
        os.close(os.open(tried, os.O_WRONLY | os.O_CREAT, 0o600))
        tried.unlink()
    except OSError as error:
        raise InputError(f"{file} cannot be written ({error.strerror}); name another place.") from None


def _names(read: Any) -> Iterator[str]:
    """The texts in what is read that may name files: also in a formula, and without their weights in a mix."""
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
    """Whether a file is there, and among the rows of a folder that is read, which is no run's or model's."""
    is_data = file.suffix in DATA and _exists(str(folder)) and folder.is_dir() and file.exists()
    return is_data and file.resolve().is_relative_to(folder.resolve()) and not list(folder.glob("config.*"))


def _exists(name: str) -> bool:
    with suppress(OSError, ValueError):  # it is a text, and no name
        return Path(name).exists()
    return False


def _note(path: Path, digest: str) -> None:
    """Have it on the disk that accord wrote this content under the path's name."""
    if digest in _noted(path):
        return
    record = path.parent / WROTE
    is_torn = record.is_file() and not record.read_bytes().endswith(b"\n")
    line = "\n" * is_torn + json.dumps({"name": path.name, "sha256": digest}) + "\n"
    opened = os.open(record, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        os.write(opened, line.encode())
        os.fsync(opened)
    finally:
        os.close(opened)


def _noted(path: Path) -> set[str]:
    """The digests of what accord wrote under the path's name."""
    return {digest for name, digest in _lines(path.parent / WROTE) if name == path.name}


def _lines(record: Path) -> Iterator[tuple[str, str]]:
    """Names and digests; a line that was torn off is none."""
    for line in record.read_bytes().splitlines() if record.is_file() else ():
        with suppress(ValueError, KeyError, TypeError):
            noted = json.loads(line)
            yield noted["name"], noted["sha256"]


def _digest(folder: Path) -> str:
    """The SHA-256 of all files in a folder and their names."""
    files = sorted(one for one in folder.rglob("*") if one.is_file())
    listed = "".join(f"{one.relative_to(folder).as_posix()}\0{sha256_of(one)}\n" for one in files)
    return hashlib.sha256(listed.encode(errors="surrogateescape")).hexdigest()
