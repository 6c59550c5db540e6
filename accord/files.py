"""Files written atomically and durably: under another name in the same folder, synced, then renamed.

Neither a kill nor a power cut leaves half a file. What a dead process had begun, `.NAME.PID.partial`, or
`.NAME.PID.old` of a folder that was being replaced, is removed by the next process that writes there.
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
"""Names of files that a killed process leaves; the last two alternatives are from versions without a process id."""

OWN = re.compile(r"(\..+)?\.lock|\.accord-(stage|wrote)")
"""Files that accord keeps in a folder for itself: locks, and records of what it wrote there."""


@contextmanager
def replacing(
    path: str | os.PathLike[str], written: Callable[[Path], None] = lambda partial: None
) -> Iterator[IO[str]]:
    """An open UTF-8 text file that becomes `path` when the block ends, and is deleted when the block raises.

    The file is on the disk when this returns. Missing folders are made; a path that ends in `.gz` is compressed; an
    existing file's permissions stay. `written` is called with the file before the renaming. Raises InputError where
    `path` exists and is not a regular file.
    """
    target = Path(path)
    if target.exists() and not target.is_file():
        raise InputError(
            f"{target} is {'a folder' if target.is_dir() else 'not a regular file'}, so no file can be written there."
        )
    partial = _beginning(target)
    opener: Any = gzip.open if target.suffix == ".gz" else open
    try:
        with no_room_named(target):
            with opener(partial, "wt", encoding="utf-8", newline="\n") as file:
                yield file
            if target.exists():
                shutil.copymode(target, partial)
            sync(partial)
            written(partial)
            os.replace(partial, target)
            sync(target.parent, inside=False)
    except BaseException:
        with suppress(OSError):  # the first failure is the one to report
            partial.unlink(missing_ok=True)
        raise


@contextmanager
def replacing_folder(
    path: str | os.PathLike[str], written: Callable[[Path], None] = lambda partial: None
) -> Iterator[Path]:
    """An empty folder that becomes `path` when the block ends, and is deleted when the block raises.

    It is on the disk when this returns; what was at `path` is removed only after that. Missing parent folders are made.
    `written` is called with the folder before the renaming.
    """
    target = Path(path)
    partial = _beginning(target)
    old = partial.with_suffix(".old")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with no_room_named(target):
            partial.mkdir()
            yield partial
            mode = partial.stat().st_mode & 0o666  # from the umask; safetensors makes files readable by the owner alone
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


NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors of the operating system where a disk, a quota, or what a file may hold is full."""


@contextmanager
def no_room_named(path: Path) -> Iterator[None]:
    """Name the path in an error that says there is no room to write: the system itself names no file in these."""
    try:
        yield
    except Exception as error:
        system = system_error(error)
        if system is None or system.errno not in NO_ROOM or system.filename is not None:
            raise
        raise OSError(system.errno, system.strerror, os.fspath(path)) from error


def system_error(error: Exception) -> OSError | None:
    """An error of the operating system, also one that a library in Rust, such as safetensors, tells in words."""
    if isinstance(error, OSError):
        return error
    match = re.search(r"\(os error (\d+)\)", str(error))
    return OSError(int(match[1]), os.strerror(int(match[1]))) if match else None


def real(path: str | os.PathLike[str]) -> Path:
    """The path with links resolved; unlike `Path.resolve` it does not raise RuntimeError on circular links."""
    return Path(os.path.realpath(path))


def partial_path(target: Path) -> Path:
    """The temporary name under which this process writes `target`."""
    return target.with_name(f".{target.name}.{os.getpid()}.partial")


def _beginning(target: Path) -> Path:
    """The temporary name, after making the folder and clearing what dead processes left of `target`."""
    make_folder(target.parent)
    tidy(target.parent, target.name)
    return partial_path(target)


def require_here(path: str | os.PathLike[str]) -> None:
    """Raise InputError where a path for results is an address such as s3://x, which would become a local folder."""
    if address := re.match(r"([a-z][a-z0-9+.-]*):/", os.fspath(path)):
        raise InputError(
            f"{path} is an address ({address[1]}), but results are written to local files; give a local path."
        )


def make_folder(folder: Path) -> list[Path]:
    """Make a folder and its missing parents, durably; returns those that were made, innermost first.

    Raises InputError where the path is an address.
    """
    require_here(folder)
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for made in missing:
        sync(made.parent, inside=False)
    return missing


def sync(path: Path, *, inside: bool = True) -> None:
    """Flush a file to the disk; of a folder its list of names, and with `inside` all that it holds."""
    is_folder = path.is_dir()
    if is_folder and inside:
        for one in path.iterdir():
            sync(one)
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    except OSError as error:
        if not (is_folder and error.errno in (errno.EINVAL, errno.ENOTSUP, errno.EBADF)):  # not on all mounts
            raise
    finally:
        os.close(opened)


def tidy(folder: Path, name: str = "") -> None:
    """Remove what dead processes left unfinished of the file or folder called `name`, or of all where it is empty.

    A folder that was moved aside gets its name back if nothing has taken it. Without a name the caller must hold the
    folder's lock, so that any process that began something there is dead.
    """
    for path in list(folder.iterdir()) if folder.is_dir() else ():
        match = LEFT.fullmatch(path.name)
        if match is None or (name and (match["name"] != name or _is_alive(int(match["pid"])))):
            continue
        with suppress(FileNotFoundError):  # another process did it meanwhile
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
    """The names in a folder except unfinished files and accord's own."""
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
"""The file in a folder that lists the SHA-256 of the others, in the format of `sha256sum --check`."""


def write_sums(folder: Path, *patterns: str) -> None:
    """Write the digests of a folder's own files (not of subfolders), or of those that match a pattern, to `SUMS`."""
    files = sorted({file for pattern in patterns or ("*",) for file in folder.glob(pattern) if file.is_file()})
    write_text(folder / SUMS, "".join(f"{sha256_of(file)}  {file.name}\n" for file in files if file.name != SUMS))


def changed(folder: Path, some: Collection[str] | None = None) -> str | None:
    """The first file of a folder (or of `some`, names of its files) that is gone or differs from `SUMS`; None if none
    does, or the folder has no `SUMS`."""
    for name, digest in read_sums(folder).items():
        file = folder / name
        if (some is None or name in some) and (not file.is_file() or sha256_of(file) != digest):
            return name
    return None


def read_sums(folder: Path) -> dict[str, str]:
    """Digests by file name, from a folder's `SUMS`; an unreadable line gives `SUMS` itself an impossible digest."""
    sums = folder / SUMS
    digests: dict[str, str] = {}
    for line in sums.read_bytes().splitlines() if sums.is_file() else ():
        match = re.fullmatch(rb"([0-9a-f]{64})  ([^/]+)", line)
        digests |= {os.fsdecode(match[2]): match[1].decode()} if match else {SUMS: ""}
    return digests


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write `text` to `path`, whole or not at all, in place of a file that is there, whoever wrote it."""
    with replacing(path) as file:
        file.write(text)


def write_rows(path: str | os.PathLike[str], rows: Iterable[Row | Mapping[str, Any]]) -> None:
    """Write records or JSON objects to `path`, one a line, whole or not at all; `load_data` reads them back.

    A file that is there is replaced, whoever wrote it: `accord.outputs.save_rows` leaves other people's files.
    """
    with replacing(path) as file:
        file.writelines(map(line_of, rows))


def line_of(row: Row | Mapping[str, Any], *, allow_nan: bool = False) -> str:
    """A record or a JSON object as a line of JSON.

    Where it holds a lone surrogate, which UTF-8 cannot encode, all of it is written with JSON's escapes.
    """
    columns = row if isinstance(row, Mapping) else row_to_json(row)
    line = json.dumps(columns, ensure_ascii=False, allow_nan=allow_nan)
    try:
        line.encode()
    except UnicodeEncodeError:
        line = json.dumps(columns, allow_nan=allow_nan)
    return line + "\n"
