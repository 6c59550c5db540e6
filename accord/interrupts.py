"""How work ends early: by Ctrl-C, or by SIGTERM and SIGHUP, which schedulers, spot machines and closed terminals send.

Ctrl-C and the signals raise Interrupted (`interruptible`), or are noted and obeyed after the current step (`requests`).
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import FrameType
from typing import TypeAlias

Handler: TypeAlias = Callable[[int, FrameType | None], None]
ENDS = ("SIGINT", "SIGTERM", "SIGHUP")
"""The signals that ask a process to end, where the system has them."""


class Interrupted(KeyboardInterrupt):
    """A signal asked the work to end; `when` says how far it was, if that is known."""

    def __init__(self, number: int, when: str = "") -> None:
        by = "" if number == signal.SIGINT else f" by {signal.Signals(number).name}"
        super().__init__(f"stopped{by}{when}")
        self.status = 128 + number


@contextmanager
def interruptible(*, is_shared: bool = False) -> Iterator[None]:
    """Raise Interrupted in the block on SIGTERM and SIGHUP, as Ctrl-C raises KeyboardInterrupt.

    Where several processes share the work (`is_shared`), a signal is ignored while an error is being handled, since
    torchrun sends SIGTERM to all once one has failed, and the error would be lost. After an error has ended the block,
    these signals and Ctrl-C are ignored, so that the process can report it.
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
    """Whether a signal asked the work to end after the current step.

    For work shared by several processes, `is_whole` says whether all of them are still alive: otherwise no step ends.
    """

    def __init__(self, is_whole: Callable[[], bool] | None = None) -> None:
        self.number, self.is_whole = 0, is_whole

    def __bool__(self) -> bool:
        return self.number > 0

    def note(self, number: int, _: FrameType | None) -> None:
        """Record the first signal as a request; a second one ends the work at once.

        In shared work only a second Ctrl-C does, since a scheduler and torchrun may both send SIGTERM for one request.
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
    """Turn Ctrl-C, SIGTERM and SIGHUP in the block into requests, recorded by the Request that is yielded."""
    request = Request(is_whole)
    with _handled(request.note, *ENDS):
        yield request


def ended_by_signals() -> AbstractContextManager[None]:
    """Context in which Ctrl-C, SIGTERM and SIGHUP end the process at once: for calls that wait in C++, where no handler
    would run until they return."""
    return _handled(signal.SIG_DFL, *ENDS)


@contextmanager
def _handled(handler: Handler | signal.Handlers, *names: str) -> Iterator[None]:
    """Handle these signals by `handler` in the block, except those that are ignored (as by `nohup`) or become so.

    Does nothing outside the main thread, which alone receives signals.
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
