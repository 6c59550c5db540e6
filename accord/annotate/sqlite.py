"""An SQLite file as a database: opened to be written, or only to be read where it cannot be written.

SQLite keeps a log beside the file, `-wal`, as long as anybody has the database open; to read it, it needs a file of its
own there, `-shm`. Where the folder cannot be written, a database without a log is read as a file that nobody changes,
and one with a log by the `-shm` of whoever has it open.
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Engine, event
from sqlmodel import create_engine

from accord.errors import InputError
from accord.files import real

HEAD, SMALLEST = b"SQLite format 3\0", 512
"""The beginning of an SQLite file, and its minimum size in bytes."""

LOGS = ("-wal", "-journal")
"""Endings of the files beside a database that hold what is not in it yet."""


def is_writable(path: Path) -> bool:
    """Whether a file and its folder can be written, which SQLite needs to write to a database."""
    file, by_effective = real(path), os.access in os.supports_effective_ids
    there = [file.parent, *([file] if file.exists() else [])]
    return all(os.access(one, os.W_OK, effective_ids=by_effective) for one in there)


def open_sqlite(path: Path, *, only_reads: bool) -> Engine:
    """The engine of a database file, made if missing unless `only_reads`.

    Raises InputError where the file is something else, or cannot be made.
    """
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise InputError(f"the database {path} must be a file in a folder that is there.")
    if only_reads and not path.exists():
        raise InputError(f"the database {path} cannot be made, since its folder cannot be written: name another place.")
    _require_whole(path)
    database, query = str(path), dict[str, str]()
    if only_reads:
        file = real(path)
        is_logged = any(file.with_name(file.name + end).exists() for end in LOGS)
        database = file.as_uri()
        query = {"uri": "true", "mode": "ro", **({} if is_logged else {"immutable": "1"})}
    engine = create_engine(
        URL.create("sqlite", database=database, query=query), connect_args={"timeout": 10}, pool_size=20,
        max_overflow=30, execution_options={"only_reads": only_reads},
    )  # fmt: skip
    event.listen(engine, "connect", _prepare_to_read if only_reads else _prepare)
    event.listen(engine, "begin", _begin)
    return engine


def remedy(path: Path, reason: str, *, only_reads: bool) -> str:
    """What to do about a database that cannot be opened, as the end of a sentence."""
    if only_reads:
        beside = "".join(f" and {path.name}{end}" for end in LOGS if path.with_name(path.name + end).exists())
        return f": copy {path.name}{beside} to a folder that can be written, and name the copy"
    if "locked" in reason:
        return ": another process is writing it, so try again"
    if "unable to open" in reason or "readonly" in reason:
        return f": it and the files {path.name}-wal and {path.name}-shm beside it must be yours to read and write"
    return ": name another, or restore it from a copy"


def _require_whole(path: Path) -> None:
    """Raise InputError where an existing file is not a database; SQLite accepts a very short file as a new one."""
    if path.is_file() and (size := path.stat().st_size):
        with path.open("rb") as file:
            head = file.read(len(HEAD))
        if head != HEAD or size < SMALLEST:
            reason = "file is not a database"
            raise InputError(
                f"the database {path} cannot be opened ({reason}){remedy(path, reason, only_reads=False)}."
            )


def _prepare(connection: sqlite3.Connection, _: Any) -> None:
    connection.isolation_level = None  # transactions are begun below, not by the driver
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=10000"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _prepare_to_read(connection: sqlite3.Connection, _: Any) -> None:
    connection.isolation_level = None  # as above


def _begin(connection: Any) -> None:
    only_reads = connection.get_execution_options().get("only_reads")
    connection.exec_driver_sql("BEGIN" if only_reads else "BEGIN IMMEDIATE")
