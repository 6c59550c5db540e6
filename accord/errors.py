"""The two ways accord stops: the user's input is at fault, or a run has gone wrong; rows that are left out meanwhile.

And what messages share.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import NoReturn
from urllib.parse import urlsplit

DEBUG = "ACCORD_DEBUG"
"""The environment variable that asks for tracebacks."""


class InputError(ValueError):
    """The user's input cannot be used; the message is one sentence that says what is wrong and what to do.

    The command line prints the message alone, without a traceback, and exits with status 2.
    """


class UsersFault(InputError):
    """A function that the user gave has failed; its own exception is the cause, whose traceback people want to see."""


@contextmanager
def users_code(what: str) -> Iterator[None]:
    """Raise UsersFault, which names `what`, where the user's code in the block raises anything, or leaves by an exit.

    An InputError, and the user's Ctrl-C, are passed on. A process that the code forked ends with the block: it would
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
"""Characters of what an exception of the user's code says."""


def _message(error: BaseException) -> str:
    """What an exception says, cut where that is long; nothing where it cannot."""
    try:
        message = str(error)
    except Exception:  # of its own __str__
        return ""
    return message if len(message) <= MOST_SAID else f"{message[:MOST_SAID]}..."


def require_address(url: str, called: str) -> None:
    """Raise InputError where a URL, `called` so in messages, is none: its host or port cannot be read."""
    try:
        parts = urlsplit(url)
        known = bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        known = False
    if not known:
        raise InputError(f"{called} is no URL of a server: it is to be like http://127.0.0.1:8000/path")


class TrainingStopped(RuntimeError):
    """A run stopped itself (a loss that is not finite, say); the last good checkpoint is kept.

    The command line prints the message alone, without a traceback, and exits with status 3.
    """


class LostRanks(TrainingStopped):
    """A rank cannot go on, as others have ended or hang; `how` says which of the two, of those that are not there."""

    def __init__(self, message: str, how: str) -> None:
        super().__init__(message)
        self.how = how


def nearest(name: str, names: Iterable[str], question: str = "; did you mean {}?") -> str:
    """A question to add to a message where a name looks like one of those there are; else nothing."""
    known = list(names)
    same = [one for one in known if one.casefold() == name.strip().casefold() != ""]
    near = same or get_close_matches(name, known, 1, 0.5)
    return question.format(near[0]) if near else ""


@contextmanager
def located(where: str) -> Iterator[None]:
    """Begin the message of an `InputError` that the block raises with where the fault is."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{where}{error}") from None


class RowNumber(int):
    """A number that stands for a row, and `called`, what messages say in its place: "12", "12 of b.jsonl".

    It is the row's number in the data, from 1, or its index among those that are there, from 0.
    """

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
    """What messages call a row by its index, from 0: its number, from 1, or what it is `called`."""
    return f"row {index if isinstance(index, RowNumber) else index + 1}"


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a row, by its number in the data from 1, is left out, and whether it counts as one that is bad."""

    row: int
    why: str
    kind: str
    is_bad: bool
    where: str


@dataclass(frozen=True, slots=True)
class Taken:
    """A source of data: its name, its weight in a mix, how many rows are taken of how many, and its last row's number.

    Numbers of rows go on from source to source, so that by the last ones it is known where a row is from.
    """

    name: str
    weight: float | None
    rows: int
    of: int
    last: int


@dataclass
class LeftOut:
    """What is left out of some data.

    `numbers` are those, in the data, of the rows that are still there; without them rows are numbered from 1. Where it
    is strict, a row that cannot be used ends the reading. `taken` has a line for each file of a mix,
    `sources` what was read of each source, in order.
    """

    strict: bool = False
    numbers: Sequence[int] = ()
    taken: list[str] = field(default_factory=list)
    sources: list[Taken] = field(default_factory=list)
    reasons: list[Reason] = field(default_factory=list)

    def add(
        self, row: int, why: str, *, kind: str = "", is_bad: bool = True, is_asked: bool = False, where: str = ""
    ) -> None:
        """Leave a row out, counted from 0 among those that are there; of one `kind` one line tells of all.

        What is too long is not bad, and what an option asks to leave out `is_asked`. Raises InputError, naming the row,
        where this is strict and nobody asked.
        """
        number = self.numbers[row] if self.numbers else row + 1
        if self.strict and not is_asked:
            raise InputError(f"row {number}: {why}")
        self.reasons.append(Reason(number, why, kind or why, is_bad and not is_asked, where or f"row {number}"))

    def index(self, row: int) -> RowNumber:
        """The index of a row that is there, which knows what messages call it."""
        return RowNumber(row, str(self.numbers[row] if self.numbers else row + 1))

    def part(self, rows: Iterable[int]) -> LeftOut:
        """The same for some of the rows that are there, in another order perhaps, or several times."""
        numbers = [self.numbers[row] if self.numbers else row + 1 for row in rows]
        return LeftOut(self.strict, numbers, reasons=self.reasons)

    def lines(self) -> list[str]:
        """A line for every kind of reason: how many rows, and the first five."""
        kinds: dict[str, list[int]] = {}
        for reason in self.reasons:
            kinds.setdefault(reason.kind, []).append(reason.row)
        return [_line(kind, list(dict.fromkeys(rows))) for kind, rows in kinds.items()]

    def require_few(self, share: float) -> None:
        """Raise InputError where more than this share of all rows are bad."""
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
