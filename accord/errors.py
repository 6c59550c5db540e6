"""The two ways accord stops (the user's input is at fault, or a run goes wrong), and the rows that it leaves out."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import NoReturn
from urllib.parse import urlsplit

DEBUG = "ACCORD_DEBUG"
"""The environment variable that turns tracebacks on."""


class InputError(ValueError):
    """The user's input cannot be used; the message is one sentence that says what is wrong and what to do.

    The command line prints the message alone, without a traceback, and exits with status 2.
    """


class UsersFault(InputError):
    """A function given by the user failed; its own exception is the cause, whose traceback is shown."""


@contextmanager
def users_code(what: str) -> Iterator[None]:
    """Raise UsersFault, naming `what`, where the user's code in the block raises anything or exits the process.

    An InputError, and the user's Ctrl-C, pass through. A process that the code forked ends with the block, or it would
    write the same files as this one.
    """
    pid, leave = os.getpid(), os._exit

    def exits(status: int) -> NoReturn:
        if os.getpid() != pid:
            leave(status)
        raise SystemExit(status)

    os._exit = exits
    try:
        yield
    except (InputError, KeyboardInterrupt):
        raise
    except BaseException as error:
        raised, message = type(error).__name__, _message(error)
        raise UsersFault(f"{what} raised {raised}{f' ({message})' if message else ''}; fix it") from error
    finally:
        os._exit = leave
        if os.getpid() != pid:
            leave(1)


MOST_SAID = 500
"""The longest message quoted from an exception in the user's code, in characters."""


def _message(error: BaseException) -> str:
    """The exception's message, cut to MOST_SAID characters; empty where its own __str__ fails."""
    try:
        message = str(error)
    except Exception:  # of its own __str__
        return ""
    return message if len(message) <= MOST_SAID else f"{message[:MOST_SAID]}..."


def require_address(url: str, called: str) -> None:
    """Raise InputError, naming the URL as `called`, where its host or port cannot be read."""
    try:
        parts = urlsplit(url)
        known = bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        known = False
    if not known:
        raise InputError(f"{called} is not a server's URL; give one like http://127.0.0.1:8000/path")


_OUT_OF_MEMORY = ("DefaultCPUAllocator", "CUBLAS_STATUS_ALLOC_FAILED", "CUDA error: out of memory")
"""What messages of torch's other errors say where memory ran out: of the host, or of a GPU outside torch's own pool."""


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory of the host or of a GPU ran out."""
    if isinstance(error, MemoryError):
        return True
    is_named = type(error).__name__ == "OutOfMemoryError" or any(part in str(error) for part in _OUT_OF_MEMORY)
    return isinstance(error, RuntimeError) and is_named


class TrainingStopped(RuntimeError):
    """A run stopped itself (for example on a loss that is not finite); the last good checkpoint is kept.

    The command line prints the message alone, without a traceback, and exits with status 3.
    """


class LostRanks(TrainingStopped):
    """This rank cannot continue because other ranks have ended or hang; `how` says which of the two."""

    def __init__(self, message: str, how: str) -> None:
        super().__init__(message)
        self.how = how


def nearest(name: str, names: Iterable[str], question: str = "; did you mean {}?") -> str:
    """`question` with the known name most like `name`, to be added to an error message; empty where none is close."""
    known = list(names)
    same = [one for one in known if one.casefold() == name.strip().casefold() != ""]
    near = same or get_close_matches(name, known, 1, 0.5)
    return question.format(near[0]) if near else ""


@contextmanager
def located(where: str) -> Iterator[None]:
    """Prefix the message of an InputError raised in the block with `where`, the place of the fault."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{where}{error}") from None


class RowNumber(int):
    """A row's number (from 1) or index (from 0), with `called`, its name in messages: "12", or "12 of b.jsonl"."""

    called: str

    def __new__(cls, number: int, called: str) -> RowNumber:
        self = super().__new__(cls, number)
        self.called = called
        return self

    def __getnewargs__(self) -> tuple[int, str]:  # type: ignore[override]  # as __new__ takes them
        return int(self), self.called

    def __str__(self) -> str:
        return self.called


def row_called(index: int) -> str:
    """The name in messages of the row at an index from 0: its number from 1, or what a RowNumber is `called`."""
    return f"row {index if isinstance(index, RowNumber) else index + 1}"


def named_rows(rows: Iterable[int]) -> str:
    """The names in messages of the rows at indices from 0, of which -1 is no row: the first eight, counted from 1."""
    known = sorted({r for r in rows if r >= 0})
    if not known:
        return "rows that came from no file"
    named = ", ".join(row_called(r).removeprefix("row ") for r in known[:8])
    return f"row{'s' if len(known) > 1 else ''} {named}{' ...' if len(known) > 8 else ''}"


@dataclass(frozen=True, slots=True)
class Reason:
    """Why one row (`row` is its number in the data, from 1) is left out, and whether it counts as bad."""

    row: int
    why: str
    kind: str
    is_bad: bool
    where: str


@dataclass(frozen=True, slots=True)
class Taken:
    """A source of data: its name, its weight in a mix, how many rows are taken (`rows`) of how many (`of`).

    Rows are numbered on from source to source; `last` is the number of this source's last row, so that a number tells
    which source it comes from.
    """

    name: str
    weight: float | None
    rows: int
    of: int
    last: int


@dataclass
class LeftOut:
    """The rows left out of some data, and why.

    `numbers` are the numbers, in the data, of the rows that remain; empty means 1, 2, 3, ... With `strict` the first
    row that cannot be used raises. `taken` has a line for each file of a mix and for what is not read, `sources` an
    entry for each source read.
    """

    strict: bool = False
    numbers: Sequence[int] = ()
    taken: list[str] = field(default_factory=list)
    sources: list[Taken] = field(default_factory=list)
    reasons: list[Reason] = field(default_factory=list)

    def add(
        self, row: int, why: str, *, kind: str = "", is_bad: bool = True, is_asked: bool = False, where: str = ""
    ) -> None:
        """Leave out a row, given by its index from 0 among those that remain; `lines` groups rows by `kind`.

        `is_bad` is False for a row that is only too long, `is_asked` True where an option asks to leave it out. Raises
        InputError, naming the row, where this is strict and the row was not asked for.
        """
        number = self.numbers[row] if self.numbers else row + 1
        if self.strict and not is_asked:
            raise InputError(f"row {number}: {why}")
        self.reasons.append(Reason(number, why, kind or why, is_bad and not is_asked, where or f"row {number}"))

    def index(self, row: int) -> RowNumber:
        """The index of a remaining row, together with its name in messages."""
        return RowNumber(row, str(self.numbers[row] if self.numbers else row + 1))

    def part(self, rows: Iterable[int]) -> LeftOut:
        """The same record for a selection of the remaining rows, in any order and with repeats."""
        numbers = [self.numbers[row] if self.numbers else row + 1 for row in rows]
        return LeftOut(self.strict, numbers, taken=self.taken, reasons=self.reasons)

    def lines(self) -> list[str]:
        """One line for each kind of reason: how many rows, and the numbers of the first five."""
        kinds: dict[str, list[int]] = {}
        for reason in self.reasons:
            kinds.setdefault(reason.kind, []).append(reason.row)
        return [_line(kind, list(dict.fromkeys(rows))) for kind, rows in kinds.items()]

    def require_few(self, share: float) -> None:
        """Raise InputError where the bad rows are more than this share of all rows."""
        faults = {reason.row: reason for reason in self.reasons if reason.is_bad}
        total = len({*self.numbers, *faults})
        if len(faults) > share * total:
            first = faults[min(faults)]
            raise InputError(
                f"{first.where}: {first.why} ({len(faults)} of {total} rows cannot be used, more than the share of "
                f"{share:g} that --max-bad allows)"
            )


def _line(kind: str, numbers: list[int]) -> str:
    rows = "row" if len(numbers) == 1 else "rows"
    named = ", ".join(map(str, numbers[:5])) + (f" and {len(numbers) - 5} more" if len(numbers) > 5 else "")
    return f"{len(numbers)} {rows} left out, as {kind} ({rows} {named})"
