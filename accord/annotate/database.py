"""The database of one project: its tables, opening and migration, and the durability of answers.

SQLite by default, with a write-ahead log synced at every commit, so an acknowledged answer survives a killed process
and a power failure. Writes take the lock at their beginning, so none fails half-way. PostgreSQL by its URL.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from json import JSONDecodeError
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from sqlalchemy import JSON, BigInteger, Column, Engine, Index, UniqueConstraint, inspect
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DatabaseError, IntegrityError, NoSuchModuleError, OperationalError
from sqlmodel import Field, Session, SQLModel, create_engine

from accord.annotate.sqlite import is_writable, open_sqlite, remedy
from accord.console import error_text, without_secrets
from accord.errors import InputError

LAST = 2**63 - 1
"""The position of an item not yet put in order."""

MIGRATIONS = Path(__file__).parent / "migrations"


def _json() -> Any:
    return Column(JSON(none_as_null=True), nullable=True)


class Settings(SQLModel, table=True):
    """The project's settings, one row."""

    id: int | None = Field(default=None, primary_key=True)
    overlap: int
    """Annotators per item."""
    reserve_seconds: float
    """How long an item is reserved for an annotator."""
    seed: int
    """Seed of the order of items and of answers."""
    owner_hash: str


class Guideline(SQLModel, table=True):
    """A version of the guidelines: Markdown."""

    id: int | None = Field(default=None, primary_key=True)
    text: str
    created_at: float


class Item(SQLModel, table=True):
    """An item to annotate; `gold` is the correct answer.

    `position` is its place in the project's order; `weight` is proportional to its probability of being drawn next, and
    `chosen_by` names the source of the weight. Once drawn, `probability` is the probability it was drawn with, `among`
    that many undrawn items; an unbiased estimate needs both (`accord.annotate.order`).
    """

    id: int | None = Field(default=None, primary_key=True)
    key: str = Field(unique=True)
    task: str
    content: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))
    gold: dict[str, Any] | None = Field(default=None, sa_column=_json())
    position: int = Field(sa_column=Column(BigInteger, nullable=False, index=True))
    weight: float = 1.0
    chosen_by: str = "random"
    probability: float | None = None
    among: int | None = None


class Annotator(SQLModel, table=True):
    """An annotator, by pseudonym; of the link only a hash is kept. `keys` has their changed keys, by action."""

    id: int | None = Field(default=None, primary_key=True)
    name: str = Field(unique=True)
    token_hash: str = Field(unique=True)
    keys: dict[str, str] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))
    created_at: float
    revoked_at: float | None = None
    withdrawn_at: float | None = None


class Slot(SQLModel, table=True):
    """A place for one annotator's answer to an item, and its holder.

    `shown` is the order in which this annotator sees the answers (indices into the item's), `draft` the partly filled
    form. `position` is the item's, for an index on the next slot.
    """

    __table_args__ = (
        UniqueConstraint("item_id", "number"),
        UniqueConstraint("item_id", "annotator_id"),
        Index("ix_slot_next", "done", "position", "number"),
    )

    id: int | None = Field(default=None, primary_key=True)
    item_id: int = Field(foreign_key="item.id")
    number: int
    position: int = Field(sa_column=Column(BigInteger, nullable=False))
    annotator_id: int | None = Field(default=None, foreign_key="annotator.id", index=True)
    reserved_at: float | None = None
    expires_at: float | None = None
    shown: list[int] = Field(default_factory=list, sa_column=Column(JSON, nullable=False))
    guideline_id: int | None = Field(default=None, foreign_key="guideline.id")
    draft: dict[str, Any] | None = Field(default=None, sa_column=_json())
    done: bool = False


class Skip(SQLModel, table=True):
    """An item that an annotator skipped, not to be shown again."""

    __table_args__ = (UniqueConstraint("item_id", "annotator_id"),)

    id: int | None = Field(default=None, primary_key=True)
    item_id: int = Field(foreign_key="item.id")
    annotator_id: int = Field(foreign_key="annotator.id")


class Answer(SQLModel, table=True):
    """An answer, or a retraction (`content` is null). The current one has no `replaced_by`.

    Rows are only added; only `replaced_by` is written later, and withdrawn answers lose their content.
    """

    id: int | None = Field(default=None, primary_key=True)
    slot_id: int = Field(foreign_key="slot.id", index=True)
    annotator_id: int = Field(foreign_key="annotator.id", index=True)
    content: dict[str, Any] | None = Field(default=None, sa_column=_json())
    shown: list[int] = Field(default_factory=list, sa_column=Column(JSON, nullable=False))
    guideline_id: int | None = Field(default=None, foreign_key="guideline.id")
    seconds: float
    created_at: float
    replaced_by: int | None = Field(default=None, foreign_key="answer.id")


class Curve(SQLModel, table=True):
    """The latest learning curve of a task's labels, as read by `accord.results`."""

    task: str = Field(primary_key=True)
    content: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))


class Database:
    """An open, migrated database.

    `source` is an SQLite file, created if missing, or a postgresql:// URL. A file that cannot be written `only_reads`.
    Raises InputError where it cannot be opened, is something else, was written by a newer accord, or was written by an
    older one and cannot be migrated.
    """

    def __init__(self, source: str | Path) -> None:
        self.name, file = without_secrets(str(source)), None if "://" in str(source) else Path(source)
        self.only_reads = file is not None and not is_writable(file)
        self.engine = self._remote(str(source)) if file is None else open_sqlite(file, only_reads=self.only_reads)
        self.is_sqlite = self.engine.dialect.name == "sqlite"
        self._reads = self.engine.execution_options(only_reads=True)
        self._one_writer = threading.Lock()
        try:
            self._migrate()
        except (DatabaseError, UnicodeError) as error:
            reason = error_text(_cause(error))
            to_do = "" if file is None else remedy(file, reason, only_reads=self.only_reads)
            raise InputError(f"the database {self.name} cannot be opened ({reason}){to_do}.") from None

    def _remote(self, url: str) -> Engine:
        """The engine of a PostgreSQL server's database."""
        if not url.startswith(("postgresql://", "postgresql+psycopg://")):
            raise InputError(f"a database is a file of SQLite or a postgresql:// URL, not {self.name}.")
        try:
            return create_engine(make_url(url).set(drivername="postgresql+psycopg"), pool_size=20, max_overflow=30)
        except (ArgumentError, NoSuchModuleError, ImportError, ValueError) as error:
            raise InputError(f"{self.name} cannot be used as a database ({error_text(error)}).") from None

    def _migrate(self) -> None:
        """Migrate the tables, all or nothing."""
        from alembic import command
        from alembic.config import Config
        from alembic.runtime.migration import MigrationContext
        from alembic.script import ScriptDirectory
        from alembic.util import CommandError

        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
        versions = ScriptDirectory.from_config(config)
        with self.engine.begin() as connection:
            version = MigrationContext.configure(connection).get_current_revision()
            if version is None and inspect(connection).get_table_names():
                raise InputError(f"{self.name} is a database of something else; name another, and it is made.")
            try:
                if version is not None:
                    versions.get_revision(version)
            except (CommandError, AssertionError):
                raise InputError(f"{self.name} was written by a newer accord (version {version}): use that.") from None
            if version == versions.get_current_head():
                return
            self.require_writable()
            config.attributes["connection"] = connection
            command.upgrade(config, "head")

    def require_writable(self) -> None:
        """Raise InputError where the database can only be read."""
        if self.only_reads:
            raise InputError(
                f"the database {self.name} can only be read, since the file or its folder cannot be written: copy it "
                "to a folder that can, and name the copy."
            )

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A read-only session that waits for no lock. Raises as `writing` does."""
        with self._translated_errors(), Session(self._reads, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """A session whose writes are committed together at the end of the block, or not at all.

        Raises `NotStored` where they cannot be committed, InputError where the database is damaged or `only_reads`.
        """
        self.require_writable()
        # SQLite has one writer at a time; a lock queues threads, while SQLite's own waiting sleeps.
        alone = self._one_writer if self.is_sqlite else nullcontext()
        with self._translated_errors(), alone, Session(self.engine, expire_on_commit=False) as session, session.begin():
            yield session

    @contextmanager
    def _translated_errors(self) -> Iterator[None]:
        """Translates database errors, except violated constraints, which callers handle."""
        try:
            yield
        except IntegrityError:
            raise
        except DatabaseError as error:
            raise fault_of(error, self.name) from error
        except (JSONDecodeError, ValidationError) as error:  # ValidationError: of items' contents and answers
            raise InputError(
                f"the database {self.name} holds what accord did not write ({error_text(error)}): restore it from a "
                "copy."
            ) from error

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()


class NotStored(InputError):
    """A write failed: the database is full (`status` 507), or busy or unreachable (503); `why` omits its name."""

    def __init__(self, status: int, name: str, why: str) -> None:
        super().__init__(f"the database {name} took nothing: {why[:1].lower()}{why[1:]}")
        self.status, self.why = status, why


def fault_of(error: DatabaseError, name: str) -> InputError:
    """The meaning of a database error: full, busy, unreachable, read-only, or damaged."""
    cause = _cause(error)
    reason = error_text(cause)
    full = getattr(cause, "sqlite_errorname", "") == "SQLITE_FULL" or getattr(cause, "sqlstate", "") == "53100"
    if full or "disk is full" in reason:
        return NotStored(507, name, "The disk is full.")
    if "readonly" in reason or "unable to open" in reason:
        return NotStored(503, name, f"It cannot be written ({reason}).")
    if isinstance(error, OperationalError) and not reason.startswith("no such"):  # table or column
        return NotStored(503, name, "The database is busy or away.")
    return InputError(f"the database {name} is damaged, or was changed by others ({reason}): restore it from a copy.")


def _cause(error: BaseException) -> BaseException:
    return getattr(error, "orig", None) or error
