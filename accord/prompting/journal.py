"""A journal of replies, so that no request is paid for twice, however the work ends.

A journal is a text file that is only appended to. Its first line says which model and settings it is for; every other
line is a reply, written when it arrives and synced every second, so that a power cut loses no more than that. A line
cut short by a kill is removed when the work continues. Replies are found by a digest of the request and of everything
else that decides them, so their order does not matter. The first line also has the date on which the journal was begun,
which chat templates go on writing when the work continues on another day.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import IO, Any

from accord.console import status
from accord.dates import as_date, fixed, today
from accord.errors import InputError
from accord.files import sync
from accord.locks import alone_with
from accord.parsing import read_content
from accord.prompting.requests import Prompted, Reply, Request
from accord.records import text_to_json

MARK = "accord journal"
"""The key of the format's version in the first line of a journal."""
VERSION = 1
SECONDS = 1.0
"""Seconds between two syncs to the disk."""


class Journal:
    """A model whose replies are kept in a file; it is asked only for replies that the file lacks.

    Equal requests are asked once. Failed replies (without text) are recorded, and asked for again next time. `settings`
    are the caller's own, recorded with the model's. The file is locked while requests are made.

    Raises InputError where the file is not a journal, has other settings, is in use, or cannot be read or written.
    """

    def __init__(
        self, inner: Prompted, path: str | os.PathLike[str], settings: Mapping[str, Any] | None = None
    ) -> None:
        self.inner, self.path, self._own = inner, Path(path), dict(settings or {})
        self.name, self.made_of = inner.name, (inner,)
        self.replies: dict[str, Reply] = {}
        self.counts: Counter[str] = Counter()
        self._file: IO[bytes] | None = None
        self._size = -1  # of the file when last read or written
        self._synced = -SECONDS
        self.begun: date | None = None  # on which chats go on being dated

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The settings that the journal's first line records: the model's, and the caller's own."""
        given = {**self._model, **self._own}
        return dict(json.loads(json.dumps(given)))

    @cached_property
    def _model(self) -> dict[str, Any]:
        return {"model": self.name, **getattr(self.inner, "settings", {})}

    def key(self, request: Request) -> str:
        """A digest of everything that decides the reply to a request."""
        asked = {f.name: getattr(request, f.name) for f in fields(request)} | {"prompt": text_to_json(request.prompt)}
        return hashlib.sha256(json.dumps([self._model, asked], sort_keys=True).encode()).hexdigest()[:32]

    def __call__(
        self, requests: Sequence[Request], on_reply: Callable[[int, Reply], None] | None = None
    ) -> list[Reply]:
        """A reply for each request, in order; raises as the model does, with the number of replies kept."""
        with self._opened(), fixed(self.begun):
            return self._replies(requests, on_reply or (lambda place, reply: None))

    def look(self) -> None:
        """Raise InputError where the file cannot serve as this journal; to be called before other output is written."""
        with self._opened():
            pass

    def _replies(self, requests: Sequence[Request], tell: Callable[[int, Reply], None]) -> list[Reply]:
        replies: dict[int, Reply] = {}
        places: dict[str, list[int]] = {}
        for i, request in enumerate(requests):
            key = self.key(request)
            if key in self.replies:
                replies[i] = self.replies[key]
                tell(i, replies[i])
            else:
                places.setdefault(key, []).append(i)
        self.counts["kept before"] += len(replies)
        keys = list(places)

        def keep(index: int, reply: Reply) -> None:
            self._write(keys[index], reply)
            for i in places[keys[index]]:
                replies[i] = reply
                tell(i, reply)

        try:
            if keys:
                self.inner([requests[places[key][0]] for key in keys], keep)
        except InputError as error:
            raise InputError(f"{str(error).rstrip('.')}; {self._left(replies, len(requests))}.") from None
        except KeyboardInterrupt:
            status(self._left(replies, len(requests)))
            raise
        return [replies[i] for i in range(len(requests))]

    def _left(self, replies: Mapping[int, Reply], total: int) -> str:
        done = sum(reply.text is not None for reply in replies.values())
        return (
            f"{done:,} of {total:,} requests are answered, and kept in {self.path}: the same command goes on with the "
            f"{total - done:,} that are left"
        )

    def _write(self, key: str, reply: Reply) -> None:
        """Append a reply to the file, in one write, and remember it."""
        line = {"key": key} | {f.name: v for f in fields(reply) if (v := getattr(reply, f.name)) != f.default}
        self._append(_line({**line, "text": reply.text}))
        self.counts["asked" if reply.text is not None else "failed"] += 1
        if reply.text is not None:
            self.replies[key] = reply

    @contextmanager
    def _opened(self) -> Iterator[None]:
        """Lock and open the file for the block; read it where its size has changed."""
        with alone_with(self.path, "the journal", "name another with --journal"):
            try:
                if self.path.exists():
                    self._open()
                    self._read()
                yield
            finally:
                if self._file is not None:
                    self._size = self._file.tell()
                    with suppress(OSError):  # the replies are in memory, and the first failure is the one to report
                        os.fsync(self._file.fileno())
                    with suppress(OSError):  # as above: all was flushed when it was written, or could not be
                        self._file.close()
                    self._file = None

    def _open(self) -> None:
        try:
            if self.path.exists() and not self.path.is_file():
                raise InputError(f"the journal {self.path} is not a regular file; name another with --journal.")
            self._file = self.path.open("ab")
        except OSError as error:
            raise InputError(f"the journal {self.path} cannot be written ({error.strerror}).") from None

    @property
    def _head(self) -> bytes:
        return _line({MARK: VERSION, "of": self.settings, "date": today().isoformat()})

    def _append(self, line: bytes) -> None:
        try:
            if self._file is None:
                self._open()
                sync(self.path.parent, inside=False)
                line, self.begun = self._head + line, today()
            assert self._file is not None
            self._file.write(line)
            self._file.flush()
            if time.monotonic() - self._synced >= SECONDS:
                os.fsync(self._file.fileno())
                self._synced = time.monotonic()
        except OSError as error:
            raise InputError(f"the journal {self.path} cannot be written ({error.strerror}).") from None

    def _read(self) -> None:
        """Read the replies in the file, without a last line that was cut short."""
        content = read_content(self.path)
        if len(content) == self._size:
            return
        whole, _, torn = content.rpartition(b"\n")
        lines = [_parsed(line) for line in whole.split(b"\n")] if whole else []
        head = self._head[: self._head.rindex(b', "date"')]  # the same on every day
        if lines or not head.startswith(torn[: len(head)].rstrip(b"\0")):  # NUL: left of a write by a power cut
            self._check(lines[0] if lines else None)
        os.truncate(self.path, len(content) - len(torn))
        for name in ("failed before", "unreadable"):
            del self.counts[name]
        for line in lines[1:]:
            self._take(line)
        if not lines:
            self.begun = today()
            self._append(self._head)
        if self.counts["unreadable"]:
            status(f"{self.path}: {self.counts['unreadable']} lines cannot be read, and are left out")

    def _take(self, line: Any) -> None:
        """Remember a recorded reply; the first one to a request counts."""
        try:
            reply = Reply(**{name: value for name, value in line.items() if name != "key"})
            if reply.text is None:
                self.counts["failed before"] += 1
            else:
                self.replies.setdefault(line["key"], reply)
        except (AttributeError, KeyError, TypeError):
            self.counts["unreadable"] += 1

    def _check(self, head: Any) -> None:
        if not isinstance(head, dict) or head.get(MARK) != VERSION or not isinstance(head.get("of"), dict):
            raise InputError(f"{self.path} is not a journal of replies; name another file with --journal.")
        was, settings = head["of"], self.settings
        for name in sorted({*was, *settings}):
            if was.get(name) != settings.get(name):
                there, here = (_shown(each.get(name)) for each in (was, settings))
                raise InputError(
                    f"the journal {self.path} has other settings ({name}: {there}, and here {here}); name another "
                    "with --journal, or remove it."
                )
        if "date" in head:
            self.begun = as_date(head["date"], f"the date in the first line of {self.path}")


def _line(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content).encode() + b"\n"


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None


def _shown(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
