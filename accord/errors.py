"""The two ways accord stops: the user's input is at fault, or a run has gone wrong; and what messages share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches


class InputError(ValueError):
    """The user's input cannot be used; the message is one sentence that says what is wrong and what to do.

    The command line prints the message alone, without a traceback, and exits with status 2.
    """


class TrainingStopped(RuntimeError):
    """A run stopped itself (a loss that is not finite, say); the last good checkpoint is kept.

    The command line prints the message alone, without a traceback, and exits with status 3.
    """


def nearest(name: str, names: Iterable[str], question: str = "; did you mean {}?") -> str:
    """A question to add to a message where a name looks like one of those there are; else nothing."""
    near = get_close_matches(name, list(names), 1, 0.5)
    return question.format(near[0]) if near else ""


@contextmanager
def located(where: str) -> Iterator[None]:
    """Begin the message of an `InputError` that the block raises with where the fault is."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{where}{error}") from None
