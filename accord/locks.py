"""One process at a time: a lock on a folder or a file, and who holds it.

The lock is the operating system's (flock), so that it ends with its process, however that ends. The file that is locked
says for people who holds it, and goes with the lock; what a dead process left there is no lock.
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
except ImportError:  # not on POSIX: nothing is locked
    fcntl = None  # type: ignore[assignment]

OTHER = "choose another --out"
TRIES = 100
"""How often a lock's folder is made anew that others take away."""


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Within it this process alone works in the folder, which is made; what was made goes where it stays empty.

    Raises InputError where another process does, saying who, or nothing can be written there.
    """
    with _made(folder, OTHER), locked(folder / ".lock", str(folder), f"wait for it to end, or {OTHER}"):
        yield


@contextmanager
def alone_with(file: Path, what: str = "", other: str = OTHER) -> Iterator[None]:
    """The same of one file, which is called `what` in messages: the lock lies beside it."""
    lock, called = file.with_name(f".{file.name}.lock"), f"{what} {file}".strip()
    with _made(file.parent, other), locked(lock, called, f"wait for it to end, or {other}"):
        yield


@contextmanager
def _made(folder: Path, other: str) -> Iterator[None]:
    """Within it the folder is there."""
    try:
        made = make_folder(folder)
    except OSError as error:
        raise InputError(f"{folder} cannot be made ({error.strerror}); {other}.") from None
    try:
        yield
    finally:
        with suppress(OSError):  # one that has something in it stays
            for one in made:
                one.rmdir()


@contextmanager
def locked(path: Path, what: str, remedy: str) -> Iterator[None]:
    """Within it this process alone holds the lock file `path`; InputError, with who holds `what` it is for, if not."""
    opened = _open(path, what)
    try:
        while not _take(opened, path, what, remedy):  # who held it until now took the file away
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
            with suppress(FileNotFoundError):  # its folder went with the process that was here
                return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            make_folder(path.parent)
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)  # no file is there that can be made, as in /proc
    except OSError as error:
        raise InputError(f"{what} cannot be written ({error.strerror}).") from None


def _take(opened: int, path: Path, what: str, remedy: str) -> bool:
    """Whether the open file is locked now, and still the one that is there."""
    try:
        if fcntl is not None:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InputError(f"{what} is in use by {_holder(opened)}; {remedy}.") from None
    except OSError as error:
        status(f"{what} cannot be locked here ({error.strerror}): see to it that no other process writes there.")
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(opened), os.stat(path))
    return False


def _holder(opened: int) -> str:
    for _ in range(20):  # it may have taken the lock only just now
        if said := os.pread(opened, 400, 0).decode(errors="replace").strip():
            return said
        time.sleep(0.01)
    return "another process"
