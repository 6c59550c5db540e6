"""Files written whole, and on the disk: under another name beside the path, synced, then renamed.

So neither a kill nor a power cut leaves half of one. What a process that died had begun is cleared by the next that
writes there: its names are `.NAME.PID.partial`, and `.NAME.PID.old` of a folder that was being replaced.
"""

from __future__ import annotations

import errno
import gzip
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from accord.errors import InputError
from accord.records import Row, row_to_json

LEFT = re.compile(r"\.(?P<name>.+)\.(?P<pid>\d+)\.(?P<kind>partial|old)|\.(model|best)-\w{8}|\.step-\d+")
"""What a killed process leaves; the last two are names of before they had the number of the process."""

OWN = re.compile(r"(\..+)?\.lock|\.accord-(stage|wrote)")
"""Files that accord keeps in a folder for itself: locks, and what it made there."""


@contextmanager
def replacing(
    path: str | os.PathLike[str], written: Callable[[Path], None] = lambda partial: None
) -> Iterator[IO[str]]:
    """An open UTF-8 text file that becomes `path` when the block ends, and vanishes when the block raises.

    It is on the disk when this returns. Missing folders are made; a path that ends in `.gz` is compressed; the
    permissions of a file that is there stay. `written` is called with the file before it takes its name. InputError
    where something else than a file is there.
    """
    target = Path(path)
    if target.exists() and not target.is_file():
        raise InputError(
            f"{target} is {'a folder' if target.is_dir() else 'no file'}, so no file can be written there."
        )
    partial = _beginning(target)
    opener: Any = gzip.open if target.suffix == ".gz" else open
    try:
        with opener(partial, "wt", encoding="utf-8", newline="\n") as file:
            yield file
        if target.exists():
            shutil.copymode(target, partial)
        sync(partial)
        written(partial)
        os.replace(partial, target)
        sync(target.parent, inside=False)
    except BaseException:
        with suppress(OSError):  # the first failure is the one to tell
            partial.unlink(missing_ok=True)
        raise


@contextmanager
def replacing_folder(
    path: str | os.PathLike[str], written: Callable[[Path], None] = lambda partial: None
) -> Iterator[Path]:
    """An empty folder that becomes `path` when the block ends, and vanishes when the block raises.

    It is on the disk when this returns, and only then what was there before goes. Missing folders above it are made.
    `written` is called with the folder before it takes its name.
    """
    target = Path(path)
    partial = _beginning(target)
    old = partial.with_suffix(".old")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir()
        yield partial
        mode = partial.stat().st_mode & 0o666  # as umask has it; safetensors writes for the owner alone
        for file in partial.rglob("*"):
            if file.is_file():
                file.chmod(mode)
        sync(partial)
        written(partial)
        if target.exists():
            target.rename(old)
        partial.rename(target)
        sync(target.parent, inside=False)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        if old.exists() and not target.exists():
            old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def real(path: str | os.PathLike[str]) -> Path:
    """Where a path leads, without links; `Path.resolve` raises RuntimeError where links lead in a circle."""
    return Path(os.path.realpath(path))


def beside(target: Path) -> Path:
    """The name under which a path is written until it is whole."""
    return target.with_name(f".{target.name}.{os.getpid()}.partial")


def _beginning(target: Path) -> Path:
    """The same, in its folder, which is made, and cleared of what the dead left of it."""
    make_folder(target.parent)
    tidy(target.parent, target.name)
    return beside(target)


def require_here(path: str | os.PathLike[str]) -> None:
    """Raise InputError where a place for results is an address, as s3://x, of which a path would make a folder."""
    if address := re.match(r"([a-z][a-z0-9+.-]*):/", os.fspath(path)):
        raise InputError(
            f"{path} is an address ({address[1]}), and results are written to files of this machine: name a place here."
        )


def make_folder(folder: Path) -> list[Path]:
    """Make a folder and those above it that are missing, on the disk; those that were made, the innermost first.

    Raises InputError where it is an address.
    """
    require_here(folder)
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for made in missing:
        sync(made.parent, inside=False)
    return missing


def sync(path: Path, *, inside: bool = True) -> None:
    """Have a file on the disk when this returns, or a folder, with all that is `inside`, or as its list of names."""
    is_folder = path.is_dir()
    if is_folder and inside:
        for one in path.iterdir():
            sync(one)
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    except OSError as error:
        if not (is_folder and error.errno in (errno.EINVAL, errno.ENOTSUP, errno.EBADF)):  # some mounts cannot
            raise
    finally:
        os.close(opened)


def tidy(folder: Path, name: str = "") -> None:
    """Clear what processes that died left half-done, of the one file or folder of that `name`; without it, all.

    A folder that was put aside goes back to its place where nothing has taken it. Without a name the caller holds the
    folder's lock, so that whoever began anything there is dead.
    """
    for path in list(folder.iterdir()) if folder.is_dir() else ():
        match = LEFT.fullmatch(path.name)
        if match is None or (name and (match["name"] != name or _is_alive(int(match["pid"])))):
            continue
        with suppress(FileNotFoundError):  # another did it meanwhile
            if match["kind"] == "old" and not path.with_name(match["name"]).exists():
                path.rename(path.with_name(match["name"]))
            elif path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True


def others(folder: Path) -> list[str]:
    """The names in a folder of what is neither half-done nor kept there by accord for itself."""
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    return [name for name in names if OWN.fullmatch(name) is None and LEFT.fullmatch(name) is None]


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file."""
    digest, buffer = hashlib.sha256(), memoryview(bytearray(1 << 20))
    with path.open("rb", buffering=0) as file:
        while size := file.readinto(buffer):
            digest.update(buffer[:size])
    return digest.hexdigest()


SUMS = "SHA256SUMS"
"""The file of a folder that has the SHA-256 of the others, as `sha256sum --check` reads it."""


def write_sums(folder: Path, *patterns: str) -> None:
    """Write the digests of the files that are directly in a folder, or of those whose names are like the patterns."""
    files = sorted({file for pattern in patterns or ("*",) for file in folder.glob(pattern) if file.is_file()})
    write_text(folder / SUMS, "".join(f"{sha256_of(file)}  {file.name}\n" for file in files if file.name != SUMS))


def changed(folder: Path, some: Collection[str] | None = None) -> str | None:
    """The first file of a folder, or of `some` of its files, that is not as its `SUMS` say, or is gone; None where all
    are, or there are none."""
    for name, digest in read_sums(folder).items():
        file = folder / name
        if (some is None or name in some) and (not file.is_file() or sha256_of(file) != digest):
            return name
    return None


def read_sums(folder: Path) -> dict[str, str]:
    """The digests that a folder's `SUMS` have, by file; of itself one that cannot be, where it is damaged."""
    sums = folder / SUMS
    found: dict[str, str] = {}
    for line in sums.read_bytes().splitlines() if sums.is_file() else ():
        match = re.fullmatch(rb"([0-9a-f]{64})  ([^/]+)", line)
        found |= {os.fsdecode(match[2]): match[1].decode()} if match else {SUMS: ""}
    return found


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write `text` to `path`, whole or not at all."""
    with replacing(path) as file:
        file.write(text)


def write_rows(path: str | os.PathLike[str], rows: Iterable[Row | Mapping[str, Any]]) -> None:
    """Write records or JSON objects to `path`, one a line, whole or not at all; `load_data` reads them back."""
    with replacing(path) as file:
        file.writelines(map(line_of, rows))


def line_of(row: Row | Mapping[str, Any], *, allow_nan: bool = False) -> str:
    """A record or a JSON object as a line.

    Half of a surrogate pair, which files of UTF-8 cannot hold, is written as JSON escapes it, and so read back.
    """
    columns = row if isinstance(row, Mapping) else row_to_json(row)
    line = json.dumps(columns, ensure_ascii=False, allow_nan=allow_nan)
    try:
        line.encode()
    except UnicodeEncodeError:
        line = json.dumps(columns, allow_nan=allow_nan)
    return line + "\n"
