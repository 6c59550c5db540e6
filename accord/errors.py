"""The two ways accord stops: the user's input is at fault, or a run has gone wrong."""

from __future__ import annotations


class InputError(ValueError):
    """The user's input cannot be used; the message is one sentence that says what is wrong and what to do.

    The command line prints the message alone, without a traceback, and exits with status 2.
    """


class TrainingStopped(RuntimeError):
    """A run stopped itself (a loss that is not finite, say); the last good checkpoint is kept.

    The command line prints the message alone, without a traceback, and exits with status 3.
    """
