"""Locks on a folder or a file, so that one process at a time works there, and messages that say which one.

The lock is the operating system's (flock), so it ends with its process, however that ends. The lock file names its
holder for people to read, and is removed with the lock; one left by a dead process locks nothing.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from accord.console import status
from accord.errors import InputError
from accord.files import make_folder

try:
    import fcntl
except ImportError:  # not POSIX: nothing is locked
    fcntl = None  # type: ignore[assignment]

OTHER = "choose another --out"
TRIES = 100
"""How often to make a lock's folder again when other processes keep removing it."""


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold a folder, which is made if missing, for this process alone; a new folder left empty is removed.

    Raises InputError where another process holds it, naming that process, or the folder cannot be written.
    """
    with _made_folder(folder, OTHER), locked(folder / ".lock", str(folder), f"wait for it to end, or {OTHER}"):
        yield


@contextmanager
def alone_with(file: Path, what: str = "", other: str = OTHER) -> Iterator[None]:
    """Hold one file, called `what` in messages, for this process alone; the lock file lies in its folder."""
    lock, called = file.with_name(f".{file.name}.lock"), f"{what} {file}".strip()
    with _made_folder(file.parent, other), locked(lock, called, f"wait for it to end, or {other}"):
        yield


@contextmanager
def _made_folder(folder: Path, other: str) -> Iterator[None]:
    """Make a folder for the block; afterwards remove what was made and is still empty."""
    try:
        made = make_folder(folder)
    except OSError as error:
        raise InputError(f"{folder} cannot be made ({error.strerror}); {other}.") from None
    try:
        yield
    finally:
        with suppress(OSError):  # a folder that is not empty stays
            for one in made:
                one.rmdir()


@contextmanager
def locked(path: Path, what: str, remedy: str) -> Iterator[None]:
    """Hold the lock file `path` for this process alone; InputError, naming the holder of `what`, where it is taken."""
    opened = _open(path, what)
    try:
        while not _take(opened, path, what, remedy):  # the former holder has removed the file
            os.close(opened)
            opened = _open(path, what)
        os.truncate(opened, 0)
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        os.write(opened, f"process {os.getpid()} on {socket.gethostname()} since {now}\n".encode())
        try:
            yield
        finally:
            with suppress(OSError):
                path.unlink()
    finally:
        os.close(opened)


def _open(path: Path, what: str) -> int:
    try:
        for _ in range(TRIES):
            with suppress(FileNotFoundError):  # the former holder has removed its folder
                return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            make_folder(path.parent)
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)  # no file can ever be made here, as in /proc
    except OSError as error:
        raise InputError(f"{what} cannot be written ({error.strerror}).") from None


def _take(opened: int, path: Path, what: str, remedy: str) -> bool:
    """Whether the open file is now locked and still the file at `path`."""
    try:
        if fcntl is not None:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InputError(f"{what} is in use by {_holder(opened)}; {remedy}.") from None
    except OSError as error:
        status(f"{what} cannot be locked here ({error.strerror}): make sure that no other process writes there.")
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(opened), os.stat(path))
    return False


def _holder(opened: int) -> str:
    for _ in range(20):  # the holder may have taken the lock a moment ago, and not written its name yet
        if record := os.pread(opened, 400, 0).decode(errors="replace").strip():
            return record
        time.sleep(0.01)
    return "another process"
