"""A command in a forked child whose calls to the file system are counted, and fail, kill it, or lose what is unsynced.

Seen, below one folder: `open` of builtins, io, gzip and pathlib, with every write that reaches the system and the first
read of each file; os.open, write, mkdir, rename, replace, unlink, rmdir, truncate, fsync, listdir and scandir, and so
shutil's and tempfile's; what safetensors and tokenizers, which are not Python, read and write whole.
Not seen: stat and its kin, flock, close; what sqlite, pyarrow and other compiled code does; child processes. A write is
what the system is asked for at once, which for small files is the whole of them.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
import pickle
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from tests.commands.small import accord
from tests.trust.power import OPEN, Durable, Tree

MAKES = frozenset({"create", "write", "mkdir", "rename", "truncate", "fsync"})
"""Calls for which there must be room."""
CHANGES = MAKES | {"unlink", "rmdir"}
OPENS = frozenset({"create", "open", "list"})
"""Calls that need a number for an open file."""
FAULTS = {
    errno.ENOSPC: MAKES,
    errno.EROFS: CHANGES - {"fsync"},
    errno.EMFILE: OPENS,
    errno.EIO: CHANGES | OPENS | {"read"},
}
"""Which calls can fail how."""
LASTING = {errno.ENOSPC, errno.EROFS}
"""A disk stays full, and a mount read-only; the other two pass."""
LONGEST = 120
"""Seconds after which a command is taken to hang."""


class Event(NamedTuple):
    """A call, by what it does, and the path that it is about, below the folder that is watched."""

    what: str
    path: str


@dataclass(frozen=True)
class Plan:
    """What happens at the call of a number, counted from 0: it fails with an error, or the process is killed."""

    at: int = -1
    error: int = 0
    kill: Literal["", "before", "within", "after"] = ""
    """Within a write means after its first half."""
    cut: Path | None = None
    """The folder of which is kept what would be there after a power cut at each call."""


@dataclass
class Outcome:
    """How a command ended: its exit status, less than 0 for a signal, what it said, and its calls, where it lived."""

    status: int
    said: str
    events: list[Event] = field(default_factory=list)
    cuts: list[Tree] = field(default_factory=list)


REAL: dict[str, Any] = {
    name: getattr(os, name)
    for name in (
        "open", "write", "mkdir", "rename", "replace", "unlink", "remove", "rmdir", "truncate", "ftruncate", "fsync",
        "listdir", "scandir",
    )
}  # fmt: skip


class Disk:
    """What watches the calls of this process, of which there is one; `install` begins it."""

    def __init__(self, home: Path, plan: Plan) -> None:
        self.home, self.plan = str(home), plan
        self.events: list[Event] = []
        self.cuts: list[Tree] = []
        self.failing = False
        self.inside = threading.RLock()
        self.quiet = False
        self.durable = Durable(plan.cut) if plan.cut else None

    def path_of(self, path: Any, folder: int | None = None) -> str | None:
        """Where something is, if it is below home."""
        if isinstance(path, int):
            text = os.readlink(f"/proc/self/fd/{path}")
        else:
            text = os.fsdecode(path)
            if folder is not None:
                text = os.path.join(os.readlink(f"/proc/self/fd/{folder}"), text)
            text = os.path.abspath(text)
        return text if text == self.home or text.startswith(self.home + "/") else None

    @contextmanager
    def call(self, what: str, path: str | None) -> Iterator[bool]:
        """Around one call; whether it is to be cut in half."""
        if path is None or self.quiet:
            yield False
            return
        with self.inside:
            number, plan = len(self.events), self.plan
            self.events.append(Event(what, os.path.relpath(path, self.home)))
            if self.durable:
                self.quiet = True
                self.durable.about_to(what, Path(path))
                self.quiet = False
            self._fail(number, what, path)
            if number == plan.at and plan.kill == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            try:
                yield number == plan.at and plan.kill == "within"
            finally:  # after a call that fails by itself, too
                if number == plan.at and plan.kill:
                    os.kill(os.getpid(), signal.SIGKILL)
            if self.durable:
                self.quiet = True
                self._done(what, path)
                self.quiet = False

    def _fail(self, number: int, what: str, path: str) -> None:
        error = self.plan.error
        if error and (number == self.plan.at or (self.failing and error in LASTING and what in FAULTS[error])):
            self.failing = True
            raise OSError(error, os.strerror(error), path)

    def _done(self, what: str, path: str) -> None:
        assert self.durable and self.plan.cut
        self.durable.did(what, Path(path))
        if what in CHANGES and path.startswith(f"{self.plan.cut}"):
            self.cuts += self.durable.trees()


class Raw(io.FileIO):
    """A file whose writes, and first read, are counted."""

    disk: Disk

    def __init__(self, file: Any, mode: str, path: str, **more: Any) -> None:
        self.path, self.is_read = path, False
        with self.disk.call("open" if mode == "r" else "create", path):
            super().__init__(file, mode, **more)

    def write(self, data: Any) -> int:
        with self.disk.call("write", self.path) as half:
            return super().write(memoryview(data)[: len(data) // 2] if half else data)

    def _first(self) -> str | None:
        self.is_read, was = True, self.is_read
        return None if was else self.path

    def readinto(self, buffer: Any) -> int:
        with self.disk.call("read", self._first()):
            return super().readinto(buffer)

    def read(self, size: int = -1) -> bytes:
        with self.disk.call("read", self._first()):
            return super().read(size)

    def readall(self) -> bytes:
        with self.disk.call("read", self._first()):
            return super().readall()

    def truncate(self, size: int | None = None) -> int:
        with self.disk.call("truncate", self.path):
            return super().truncate(size)


def _open(disk: Disk) -> Callable[..., Any]:
    def open(
        file: Any, mode: str = "r", buffering: int = -1, encoding: Any = None, errors: Any = None, newline: Any = None,
        closefd: bool = True, opener: Any = None,
    ) -> Any:  # fmt: skip
        path = disk.path_of(file)
        if path is None or disk.quiet:
            return OPEN(file, mode, buffering, encoding, errors, newline, closefd, opener)
        plain = mode.replace("t", "").replace("b", "")
        raw = Raw(file, plain, path, closefd=closefd, opener=opener)
        if buffering == 0:
            return raw
        kind = io.BufferedRandom if "+" in plain else io.BufferedReader if plain == "r" else io.BufferedWriter
        buffer = kind(raw)
        return buffer if "b" in mode else io.TextIOWrapper(buffer, encoding, errors, newline, buffering == 1)

    return open


def _of_os(disk: Disk) -> dict[str, Callable[..., Any]]:
    """The calls of os, watched."""

    def one(name: str, what: str) -> Callable[..., Any]:
        def called(path: Any = ".", *rest: Any, dir_fd: int | None = None, **more: Any) -> Any:
            if dir_fd is not None:
                more["dir_fd"] = dir_fd
            with disk.call(what, disk.path_of(path, dir_fd)):
                return REAL[name](path, *rest, **more)

        return called

    def opened(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        what = "create" if flags & (os.O_CREAT | os.O_TRUNC) else "open"
        with disk.call(what, disk.path_of(path, dir_fd)):
            return int(REAL["open"](path, flags, mode, dir_fd=dir_fd))

    def renamed(name: str) -> Callable[..., Any]:
        def called(source: Any, target: Any, **folders: Any) -> None:
            with disk.call("rename", disk.path_of(target, folders.get("dst_dir_fd"))):
                REAL[name](source, target, **folders)

        return called

    simple = {
        "write": "write", "mkdir": "mkdir", "unlink": "unlink", "remove": "unlink", "rmdir": "rmdir",
        "truncate": "truncate", "ftruncate": "truncate", "listdir": "list", "scandir": "list",
    }  # fmt: skip
    calls = {name: one(name, what) for name, what in simple.items()}

    def fsync(opened: int) -> None:
        with disk.call("fsync", disk.path_of(opened)):
            pass  # the disk is watched, not waited for

    return calls | {"open": opened, "fsync": fsync, "rename": renamed("rename"), "replace": renamed("replace")}


def _of_others(disk: Disk, open: Callable[..., Any]) -> None:
    """safetensors and tokenizers, which open files on their own."""
    import safetensors
    import safetensors.torch
    from tokenizers import Tokenizer

    real_open, from_file, to_str = safetensors.safe_open, Tokenizer.from_file, Tokenizer.to_str

    def serialize_file(tensors: Any, filename: Any, metadata: Any = None) -> None:
        with open(filename, "wb") as file:
            file.write(safetensors.serialize(tensors, metadata))

    def safe_open(filename: Any, *rest: Any, **more: Any) -> Any:
        with open(filename, "rb") as file:
            file.read(8)
        return real_open(filename, *rest, **more)

    def read_tokenizer(path: str) -> Any:
        with open(path, "rb") as file:
            file.read(8)
        return from_file(path)

    def save(self: Any, path: str, pretty: bool = True) -> None:
        with open(path, "w", encoding="utf-8") as file:
            file.write(to_str(self, pretty))

    safetensors.torch.serialize_file = serialize_file
    for module in list(sys.modules.values()):
        if getattr(module, "safe_open", None) is real_open:
            module.safe_open = safe_open  # type: ignore[attr-defined]
    Tokenizer.save, Tokenizer.from_file = save, staticmethod(read_tokenizer)


def install(disk: Disk) -> None:
    """Watch this process, which is to end by os._exit."""
    Raw.disk = disk
    opens = _open(disk)
    builtins.open = io.open = opens
    for name, call in _of_os(disk).items():
        setattr(os, name, call)
    _of_others(disk, opens)


def run(words: list[str], home: Path, plan: Plan | None = None, before: Callable[[], object] | None = None) -> Outcome:
    """A command in a child of this process, with the plan carried out on its calls below home."""
    _, ended = os.waitpid(start(words, home, plan, before), 0)
    return outcome(home, ended)


def start(
    words: list[str], home: Path, plan: Plan | None = None, before: Callable[[], object] | None = None, name: str = ""
) -> int:
    """Begin it; the child's number. Children at work at the same time have names."""
    notes, output = _files(home, name)
    notes.unlink(missing_ok=True)
    pid = os.fork()
    if not pid:
        _child(words, home, plan, before, notes, output)
    return pid


def outcome(home: Path, ended: int, name: str = "") -> Outcome:
    """How a child ended, of which os.waitpid gave `ended`."""
    notes, output = _files(home, name)
    said = output.read_text(encoding="utf-8", errors="replace")
    found = Outcome(os.waitstatus_to_exitcode(ended), said)
    if notes.exists():
        found.events, found.cuts = pickle.loads(notes.read_bytes())
    return found


def _files(home: Path, name: str) -> tuple[Path, Path]:
    """Where a child notes its calls, and what it says."""
    return home.parent / f".{home.name}{name}.notes", home.parent / f".{home.name}{name}.said"


def _child(
    words: list[str], home: Path, plan: Plan | None, before: Callable[[], object] | None, notes: Path, output: Path
) -> None:
    """Never returns."""
    status = 70
    try:
        signal.alarm(LONGEST)
        opened = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(opened, 1)
        os.dup2(opened, 2)
        sys.stdout = sys.stderr = OPEN(1, "w", encoding="utf-8", closefd=False, buffering=1)
        if before:
            before()
        disk = Disk(home, plan or Plan())
        if plan:
            install(disk)
        try:
            status = accord(*words)
        finally:
            sys.stdout.flush()
            disk.quiet = True
            with OPEN(notes, "wb") as file:
                pickle.dump((disk.events, disk.cuts), file)
    except BaseException:
        traceback.print_exc()
        sys.stdout.flush()
    finally:
        os._exit(status)
