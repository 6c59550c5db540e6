"""How work ends early: Ctrl-C, or SIGTERM and SIGHUP, which schedulers, spot machines and closed terminals send."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TypeAlias

Handler: TypeAlias = Callable[[int, FrameType | None], None]
ENDS = ("SIGINT", "SIGTERM", "SIGHUP")
"""The signals that ask work to end, where the system has them."""


class Interrupted(KeyboardInterrupt):
    """The work was asked to end, by a signal; `when` says how far it was, if that is known."""

    def __init__(self, number: int, when: str = "") -> None:
        by = "" if number == signal.SIGINT else f" by {signal.Signals(number).name}"
        super().__init__(f"stopped{by}{when}")
        self.status = 128 + number


@contextmanager
def interruptible(*, is_shared: bool = False) -> Iterator[None]:
    """SIGTERM and SIGHUP raise Interrupted in the block, as Ctrl-C raises KeyboardInterrupt.

    Of work that several processes share they do not while an error is handled, which would be lost: torchrun sends them
    where one of the processes has failed. Once an error has ended it they, and Ctrl-C, are ignored: it is to say why.
    """

    def stop(number: int, _: FrameType | None) -> None:
        if not (is_shared and sys.exc_info()[0]):
            raise Interrupted(number)

    with _handled(stop, "SIGTERM", "SIGHUP"):
        try:
            yield
        except BaseException:
            if is_shared and threading.current_thread() is threading.main_thread():
                for name in ENDS:
                    if hasattr(signal, name):
                        signal.signal(getattr(signal, name), signal.SIG_IGN)
            raise


class Request:
    """Whether the work was asked to end after the step that it is in.

    Of work that several processes share `is_whole` says whether all are there still: without them no step has an end.
    """

    def __init__(self, is_whole: Callable[[], bool] | None = None) -> None:
        self.number, self.is_whole = 0, is_whole

    def __bool__(self) -> bool:
        return self.number > 0

    def note(self, number: int, _: FrameType | None) -> None:
        """Take the first signal as a request; a second one ends the work at once.

        In shared work only a second Ctrl-C does: a scheduler and torchrun both send SIGTERM where one of them is asked.
        """
        if self.is_whole is None:
            is_last = self.number > 0
        else:
            is_last = (self.number > 0 and number == signal.SIGINT) or not (sys.exc_info()[0] or self.is_whole())
        if is_last:
            raise Interrupted(number)
        self.number = self.number or number


@contextmanager
def requests(is_whole: Callable[[], bool] | None = None) -> Iterator[Request]:
    """Ctrl-C, SIGTERM and SIGHUP are requests in the block, which the one that is given notes."""
    request = Request(is_whole)
    with _handled(request.note, *ENDS):
        yield request


@contextmanager
def _handled(handler: Handler, *names: str) -> Iterator[None]:
    """The signals of these names are handled so; but not those that are ignored, as `nohup` has it, or come to be.

    Without effect on any thread but the main one, which alone gets signals.
    """
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    is_main = threading.current_thread() is threading.main_thread()
    before = {n: signal.getsignal(n) for n in numbers if is_main and signal.getsignal(n) is not signal.SIG_IGN}
    for number in before:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, former in before.items():
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, former)
