"""Python functions as rewards and judges, called with trl's arguments (lists, one element per sample); and as users."""

from __future__ import annotations

import asyncio
import inspect
import os
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence, Set, Sized
from contextlib import contextmanager, redirect_stdout
from itertools import islice
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from accord.errors import InputError, UsersFault, users_code
from accord.feedback.imports import signature_of
from accord.feedback.reward import describe, excerpt_of, finite, lacking, number, unsampled
from accord.limits import OutOfTime, within
from accord.records import Comparison, Prompt, Sample, Text, Verdict, text_to_json

DEFAULT_TIMEOUT = 600.0
"""The default time limit of a call, in seconds."""

RESERVED = (
    "prompt", "prompts", "completion", "completions", "completion_ids", "firsts", "seconds", "trainer_state",
    "log_metric", "log_extra",
)  # fmt: skip
"""Argument names that never refer to columns."""


class _Function:
    """A user's function of lists, one element per sample; it gets the arguments it names, or all with `**kwargs`.

    Raises InputError if it has positional-only arguments, or names an argument that is neither provided nor a column.
    """

    kind: str
    provided: tuple[str, ...]
    """The arguments that accord passes besides columns."""

    def __init__(self, function: Callable[..., Any], name: str = "") -> None:
        self.function = function
        self.timeout = DEFAULT_TIMEOUT
        self.name = name or getattr(function, "__name__", type(function).__name__)
        parameters = signature_of(function, str(self)).values()
        self.takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
        named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        self.names = {p.name for p in named}
        self.needs = [p.name for p in named if p.default is p.empty and p.name not in self.provided]
        if any(p.kind is p.POSITIONAL_ONLY for p in parameters):
            raise InputError(
                f"{self} has positional-only arguments; let it take {', '.join(self.provided)} and columns by name"
            )

    def __str__(self) -> str:
        return f"the {self.kind} {self.name}"

    @contextmanager
    def _guarded(self, what: str) -> Iterator[None]:
        """Run the user's function in the block: faults become UsersFault, time is limited, process state is restored.

        Its standard output goes to standard error, since a program may read ours.
        """
        with restored_state(), users_code(what), redirect_stdout(sys.stderr), within(self.timeout):
            yield

    def check(self, prompt: Prompt, row: int) -> None:
        """Raise InputError if the row lacks a column that the function requires."""
        for name in self.needs:
            if name in RESERVED or name not in prompt.columns:
                raise lacking(str(self), name, (c for c in prompt.columns if c not in RESERVED), row)

    def call(self, samples: Sequence[Sample], **arguments: Any) -> list[Any]:
        """Call the function on the samples' prompts and columns, and `arguments`; its list of values."""
        if not samples:
            return []
        for sample in samples:
            self.check(sample.prompt, sample.row)
        every = columns_of(samples) | {"prompts": prompts_of(samples)} | arguments
        known = {name: v for name, v in every.items() if self.takes_all or name in self.names}
        what = f"{self}, for {describe(samples, 0)}{' and others' * (len(samples) > 1)},"
        with explain_timeout(what, self.timeout), self._guarded(what):
            result = self.function(**known)
            if inspect.iscoroutine(result):
                result = run_coroutine(result, self.timeout)
            values = _as_list(result, len(samples))
        if values is None:
            raise InputError(
                f"{self} returned {excerpt_of(result)}; let it return a list of one value for each completion"
            )
        return values


@contextmanager
def restored_state() -> Iterator[None]:
    """Restore the working folder and torch's gradient mode, default dtype and thread count after the block."""
    folder, threads = os.getcwd(), torch.get_num_threads()
    has_gradients, dtype = torch.is_grad_enabled(), torch.get_default_dtype()
    try:
        yield
    finally:
        os.chdir(folder)
        torch.set_grad_enabled(has_gradients)
        torch.set_default_dtype(dtype)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)


def _as_list(result: Any, count: int) -> list[Any] | None:
    """The function's result as a list; None if it is no ordered collection.

    An iterator may be endless, so at most `count` + 1 values are taken, enough to detect a wrong number.
    """
    if not isinstance(result, Iterable) or isinstance(result, Mapping | Set | str | bytes):
        return None
    return list(result if isinstance(result, Sized) else islice(result, count + 1))


@contextmanager
def explain_timeout(what: str, seconds: float) -> Iterator[None]:
    """Name the time limit and the remedy in the UsersFault of a block that ran out of time."""
    try:
        yield
    except UsersFault as fault:
        if not isinstance(fault.__cause__, OutOfTime):
            raise
        remedy = "make it faster, or give it longer by --reward-timeout"
        raise UsersFault(f"{what} takes more than {seconds:g} seconds; {remedy}") from fault.__cause__


def run_coroutine(coroutine: Coroutine[Any, Any, Any], seconds: float) -> Any:
    """Run a coroutine in its own thread, since a notebook's event loop may be running here; its result.

    Raises OutOfTime if it is late; the thread then lives on, since a coroutine that never awaits cannot be stopped.
    """
    ended: list[tuple[bool, Any]] = []

    async def limited() -> Any:
        return await asyncio.wait_for(coroutine, seconds)

    def run() -> None:
        try:
            ended.append((True, asyncio.run(limited())))
        except BaseException as error:
            ended.append((False, error))

    begun = time.monotonic()
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds + 1)
    if ended and ended[0][0]:
        return ended[0][1]
    if time.monotonic() - begun >= seconds:
        raise OutOfTime(f"it takes more than {seconds:g} seconds") from (ended[0][1] if ended else None)
    raise ended[0][1]


class FunctionReward(_Function):
    """A reward from a function `f(prompts, completions, completion_ids, **columns) -> list[float]`.

    Prompts are strings, or lists of messages `{"role", "content"}`; the completion of a chat is a list of one assistant
    message, any other a string; `completion_ids` are the sampled tokens. Every other column of the rows is an argument
    too, a list aligned with the completions, None where a row lacks it. `trainer_state.global_step` is the number of
    completed steps, `log_metric(name, value)` adds a number to the step's metrics, and `log_extra(name, values)` a
    column to the samples that a run writes. The function names the arguments it wants, may take the others as
    `**kwargs`, and may be a coroutine. None in place of a number abstains: a sum of rewards ignores it, and a sample
    for which all rewards abstain is not trained on.

    Raises InputError, naming the function and the row, if a row lacks a column the function names, or the function does
    not return one finite number, or None, per completion.
    """

    kind = "reward function"
    provided: tuple[str, ...] = ("prompts", "completions", "completion_ids", "trainer_state", "log_metric", "log_extra")
    abstains = True
    """Whether NaN among its scores means that it abstains."""

    def __init__(self, function: Callable[..., Any], name: str = "") -> None:
        super().__init__(function, name)
        self.step = 0
        """The number of completed training steps."""
        self.logged: dict[str, float] = {}
        self.extra: dict[str, list[Any]] = {}
        """The `log_extra` values of the last call, by name, one per sample."""

    def __call__(self, samples: Sequence[Sample]) -> Tensor:
        ids = [list(s.completion.tokens) for s in samples]
        self.logged, self.extra = {}, {}
        values = self.call(
            samples,
            completions=completions_of(samples),
            completion_ids=ids,
            trainer_state=SimpleNamespace(global_step=self.step),
            log_metric=lambda name, value: self.logged.update({name: float(value)}),
            log_extra=lambda name, column: self.extra.update({name: list(column)}),
        )
        for name, column in self.extra.items():
            if len(column) != len(samples):
                raise InputError(f"{self} logged {len(column)} values as {name!r} for {len(samples)} completions")
        silent = torch.tensor([value is None for value in values], dtype=torch.bool)
        scores = finite([0.0 if value is None else value for value in values], samples, str(self))
        return scores.masked_fill(silent, torch.nan)


class FunctionJudge(_Function):
    """A judge from a function `f(prompts, firsts, seconds, **columns) -> list` of P(first is better), or None.

    Arguments and errors are as in `FunctionReward`; None gives an invalid verdict.
    """

    kind = "judge"
    provided = ("prompts", "firsts", "seconds")

    def __call__(self, comparisons: Sequence[Comparison]) -> list[Verdict]:
        firsts = [_as_json(c.prompt, c.first) for c in comparisons]
        seconds = [_as_json(c.prompt, c.second) for c in comparisons]
        return self._verdicts([unsampled(c.prompt, c.first) for c in comparisons], firsts, seconds)

    def samples(self, first: Sequence[Sample], second: Sequence[Sample]) -> list[Verdict]:
        return self._verdicts(first, completions_of(first), completions_of(second))

    def _verdicts(self, samples: Sequence[Sample], firsts: list[Any], seconds: list[Any]) -> list[Verdict]:
        values = self.call(samples, firsts=firsts, seconds=seconds)
        finite([0.0 if value is None else value for value in values], samples, str(self))
        chances = [number(value) for value in values]
        for i, chance in enumerate(chances):
            if chance is not None and not 0 <= chance <= 1:
                raise InputError(
                    f"{self} returned {chance} for {describe(samples, i)}; let it return the probability that the "
                    "first is better, in [0, 1]"
                )
        return [Verdict(chance, f"{self} gave no answer" if chance is None else "") for chance in chances]


class FunctionUser(_Function):
    """A simulated user from a function `f(messages, **columns) -> str | None`, called for one conversation at a time.

    `messages` are dicts of `role` and `content`, the last one the assistant's answer. The function may name the row's
    other columns as arguments, or take all as `**kwargs`, and may be a coroutine. It returns the user's next message,
    or None to end the conversation.

    Raises InputError, naming the function and the row, if a row lacks a column the function names, or the function
    returns neither a text nor None.
    """

    kind = "simulated user"
    provided = ("messages",)

    def __init__(self, function: Callable[..., Any], name: str = "") -> None:
        super().__init__(function, name)
        if "messages" not in self.names and not self.takes_all:
            raise InputError(f"{self} does not take messages: let it take messages, and return what the user says next")

    def __call__(self, samples: Sequence[Sample]) -> list[str | None]:
        return [self._reply(samples, i) for i in range(len(samples))]

    def _reply(self, samples: Sequence[Sample], i: int) -> str | None:
        [chat], prompt = prompts_of(samples[i : i + 1]), samples[i].prompt
        self.check(prompt, samples[i].row)
        known = {name: value for name, value in prompt.columns.items() if self.takes_all or name in self.names}
        messages = [*chat, {"role": "assistant", "content": samples[i].text}]
        with self._guarded(f"{self}, for {describe(samples, i)},"):
            reply = self.function(**known | {"messages": messages})
            if inspect.iscoroutine(reply):
                reply = run_coroutine(reply, self.timeout)
        if reply is None or isinstance(reply, str):
            return reply
        what = excerpt_of(reply)
        raise InputError(f"{self} returned {what} for {describe(samples, i)}; let it return a text or None")


def prompts_of(samples: Sequence[Sample]) -> list[Any]:
    """The samples' prompts in JSON form."""
    return [text_to_json(s.prompt.prompt) for s in samples]


def completions_of(samples: Sequence[Sample]) -> list[Any]:
    """The samples' completions in JSON form, as a list of one assistant message if the prompt is a chat."""
    return [_as_json(s.prompt.prompt, s.text) for s in samples]


def columns_of(samples: Sequence[Sample]) -> dict[str, list[Any]]:
    """The rows' other columns, each a list with one element per sample, None where a row lacks it."""
    names = dict.fromkeys(name for s in samples for name in s.prompt.columns if name not in RESERVED)
    return {name: [s.prompt.columns.get(name) for s in samples] for name in names}


def _as_json(prompt: Text, completion: Text) -> str | list[dict[str, str]]:
    if isinstance(prompt, str) or not isinstance(completion, str):
        return text_to_json(completion)
    return [{"role": "assistant", "content": completion}]
