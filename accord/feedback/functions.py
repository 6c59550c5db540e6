"""Python functions and servers as rewards and as judges, given lists as the field's trainers give them."""

from __future__ import annotations

import asyncio
import base64
import inspect
import json
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from http.client import HTTPException, HTTPResponse, IncompleteRead
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

import torch
from torch import Tensor

from accord.console import without_secrets
from accord.errors import InputError, UsersFault, require_address, users_code
from accord.feedback.reward import describe, excerpt, finite, lacking, number, unsampled
from accord.limits import OutOfTime, within
from accord.prompting.server import key_for, require_private
from accord.records import Comparison, Prompt, Sample, Text, Verdict, text_to_json

MOST_ANSWERED = 2**26
"""Bytes of a server's answer."""
LONGEST = 600.0
"""Seconds that a call of a function may take, unless more are given."""

_TAKEN = (
    "prompt", "prompts", "completion", "completions", "completion_ids", "firsts", "seconds", "trainer_state",
    "log_metric", "log_extra",
)  # fmt: skip
"""Names that are never columns, as arguments have them."""


class _Function:
    """A function of lists, one element a sample, which gets the arguments it names, or all where it takes `**kwargs`.

    Raises InputError where it cannot be called by names, or what it names is neither given nor a column of the rows.
    """

    kind: str
    given: tuple[str, ...]
    """The arguments that are not columns."""

    def __init__(self, function: Callable[..., Any], name: str = "") -> None:
        self.function = function
        self.timeout = LONGEST
        self.name = name or getattr(function, "__name__", type(function).__name__)
        parameters = signature_of(function, str(self)).values()
        self.takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
        named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        self.names = {p.name for p in named}
        self.needs = [p.name for p in named if p.default is p.empty and p.name not in self.given]
        if any(p.kind is p.POSITIONAL_ONLY for p in parameters):
            raise InputError(f"{self} has arguments without names; let it take {', '.join(self.given)} and columns")

    def __str__(self) -> str:
        return f"the {self.kind} {self.name}"

    def check(self, prompt: Prompt, row: int) -> None:
        """Raise InputError where the row lacks a column that the function cannot do without."""
        for name in self.needs:
            if name in _TAKEN or name not in prompt.columns:
                raise lacking(str(self), name, (c for c in prompt.columns if c not in _TAKEN), row)

    def call(self, samples: Sequence[Sample], **arguments: Any) -> list[Any]:
        """What the function returns for the samples' prompts and columns, and the arguments."""
        if not samples:
            return []
        for sample in samples:
            self.check(sample.prompt, sample.row)
        every = columns_of(samples) | {"prompts": prompts_of(samples)} | arguments
        known = {name: v for name, v in every.items() if self.takes_all or name in self.names}
        what = f"{self}, for {describe(samples, 0)}{' and others' * (len(samples) > 1)},"
        # What it prints is for the person watching: standard output may be read by a program.
        with in_time(what, self.timeout), users_code(what), redirect_stdout(sys.stderr), within(self.timeout):
            result = self.function(**known)
            if inspect.iscoroutine(result):
                result = awaited(result, self.timeout)
            values = list(result) if isinstance(result, Iterable) else None
        if values is None:
            raise InputError(
                f"{self} returned {excerpt(repr(result))}; let it return a list of one value for each completion"
            )
        return values


@contextmanager
def in_time(what: str, seconds: float) -> Iterator[None]:
    """Raise UsersFault, which says so, where the user's code in the block failed for want of time."""
    try:
        yield
    except UsersFault as fault:
        if not isinstance(fault.__cause__, OutOfTime):
            raise
        remedy = "mend it, or give it longer by --reward-timeout"
        raise UsersFault(f"{what} takes more than {seconds:g} seconds; {remedy}") from fault.__cause__


def awaited(coroutine: Coroutine[Any, Any, Any], seconds: float) -> Any:
    """What a coroutine returns, in a thread of its own, as a notebook's own loop may be running; OutOfTime if late.

    The thread is left behind then, as one that never awaits cannot be ended.
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


def signature_of(function: Callable[..., Any], name: str) -> Mapping[str, inspect.Parameter]:
    """The parameters of a function; InputError where it does not tell them, as some that are built in do not."""
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):
        raise InputError(f"{name} does not say which arguments it takes: call it in a function of your own") from None


class FunctionReward(_Function):
    """A reward from a function `f(prompts, completions, completion_ids, **columns) -> list[float]`.

    Prompts are strings, or lists of messages `{"role", "content"}`; a chat's completion is a list of one message by the
    assistant, any other a string; `completion_ids` are the tokens sampled. Every other column of the rows is an
    argument too, a list aligned with the completions; None stands where a row lacks it. `trainer_state.global_step` is
    the number of steps done, `log_metric(name, value)` adds a number to the step's row, and `log_extra(name, values)` a
    column to the samples that a run writes. The function may name the arguments it wants, may take the others as
    `**kwargs`, and may be a coroutine. None in place of a number abstains: in a sum of rewards the others count alone,
    and a sample of which none says anything is not trained on.

    Raises InputError, naming the function and the row, where a row lacks a column the function asks for, and where the
    function does not return one finite number, or None, for each completion.
    """

    kind = "reward function"
    given = ("prompts", "completions", "completion_ids", "trainer_state", "log_metric", "log_extra")
    abstains = True
    """Whether NaN among its scores says that it has nothing to say of a sample."""

    def __init__(self, function: Callable[..., Any], name: str = "") -> None:
        super().__init__(function, name)
        self.step = 0
        """The steps that are done, where samples are those of a training."""
        self.logged: dict[str, float] = {}
        self.extra: dict[str, list[Any]] = {}
        """What it said of the samples of its last call, by name, one value each."""

    def __call__(self, samples: Sequence[Sample]) -> Tensor:
        ids = [list(s.completion.tokens) for s in samples]
        self.logged, self.extra = {}, {}
        values = self.call(
            samples,
            completions=completions_of(samples),
            completion_ids=ids,
            trainer_state=SimpleNamespace(global_step=self.step),
            log_metric=lambda name, value: self.logged.update({name: float(value)}),
            log_extra=lambda name, said: self.extra.update({name: list(said)}),
        )
        for name, said in self.extra.items():
            if len(said) != len(samples):
                raise InputError(f"{self} logged {len(said)} values as {name!r} for {len(samples)} completions")
        silent = torch.tensor([value is None for value in values], dtype=torch.bool)
        scores = finite([0.0 if value is None else value for value in values], samples, str(self))
        return scores.masked_fill(silent, torch.nan)


class FunctionJudge(_Function):
    """A judge from a function `f(prompts, firsts, seconds, **columns) -> list`: P(the first is better), or None.

    Arguments, and what raises InputError, are as `FunctionReward` has them; None makes a verdict invalid.
    """

    kind = "judge"
    given = ("prompts", "firsts", "seconds")

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


class RemoteReward:
    """The rewards that the server at `url` gives.

    It is sent `{"prompts": [...], "completions": [...], "columns": {name: [...]}}` by POST, with the lists that
    `FunctionReward` gives a function, and answers `{"rewards": [...]}`, a number for each completion. A server that
    cannot be reached, takes longer than `timeout` seconds, or answers with a status of 5xx is asked again up to
    `retries` times, after 1, 2, 4, ... seconds. A user and a password in the URL are sent as HTTP's basic
    authentication has it, and neither they nor the query are in any message.

    Raises InputError, naming the server, where it gives no such answer, and the row where that is not a finite number.
    """

    def __init__(self, url: str, timeout: float = 60.0, retries: int = 2) -> None:
        if not url.startswith(("http://", "https://")):
            raise InputError(f"a reward's server is reached by http:// or https://, not by {without_secrets(url)}")
        require_address(url, without_secrets(url))
        if not timeout > 0 or retries < 0:
            raise InputError(f"timeout must be positive and retries not negative, not {timeout} and {retries}")
        parts = urlsplit(url)
        self.url = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
        self.timeout, self.retries = timeout, retries
        self.name = without_secrets(url)
        self.secret = ""
        """What it is sent as its authorization."""
        if "@" in parts.netloc:
            user = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
            self.secret = f"Basic {base64.b64encode(user.encode()).decode()}"

    def authorize(self, key: str | None, *, insecure: bool) -> None:
        """Send the key that an environment variable holds; InputError where it may not be sent there."""
        if key is not None:
            options = ("--reward-key", "--reward-insecure")
            self.secret = f"Bearer {key_for(self.url, key, insecure=insecure, options=options)}"
        elif self.secret:
            require_private(self.url, "the password", insecure=insecure, option="--reward-insecure")

    def __str__(self) -> str:
        return self.name

    def masked(self, text: str) -> str:
        """A text that may quote what the server was sent, without its secrets."""
        for secret in (self.secret.partition(" ")[2], urlsplit(self.url).query):
            text = text.replace(secret, "***") if secret else text
        return text

    def __call__(self, samples: Sequence[Sample]) -> Tensor:
        if not samples:
            return torch.empty(0)
        body = {"prompts": prompts_of(samples), "completions": completions_of(samples), "columns": columns_of(samples)}
        try:
            sent = json.dumps(body, ensure_ascii=False, allow_nan=False).encode()
        except (TypeError, ValueError) as error:
            raise InputError(f"a column cannot be sent to {self} as JSON ({error}); remove it") from None
        answer = self._asked(sent)
        rewards = answer.get("rewards") if isinstance(answer, dict) else None
        if not isinstance(rewards, list):
            raise InputError(f'{self} must answer {{"rewards": [...]}}, not {excerpt(self.masked(json.dumps(answer)))}')
        return finite(rewards, samples, str(self))

    def _asked(self, sent: bytes) -> Any:
        """What the server answers, as JSON has it, after as many attempts as that takes."""
        request = urllib.request.Request(self.url, sent, {"Content-Type": "application/json"}, method="POST")
        if self.secret:
            request.add_unredirected_header("Authorization", self.secret)  # for this server alone
        for attempt in range(self.retries + 1):
            if attempt:
                time.sleep(2 ** (attempt - 1))
            try:
                with urllib.request.urlopen(request, timeout=self.timeout) as response:
                    text = self._read(response)
            except urllib.error.HTTPError as error:
                fault = f"answered with the status {error.code} ({on_a_line(error.reason)})"
                if error.code < 500:
                    break
            except (OSError, HTTPException) as error:  # unreachable, too slow, or cut off
                fault = f"cannot be reached ({on_a_line(getattr(error, 'reason', None) or error)})"
            else:
                try:
                    return json.loads(text)
                except (ValueError, RecursionError):
                    raise InputError(f"{self} answered {excerpt(self.masked(repr(text)))}, which is not JSON") from None
        raise InputError(f"{self} {self.masked(fault)}; see that the server runs there and takes such requests")

    def _read(self, response: HTTPResponse) -> bytes:
        """The answer, as long as it comes in time and has an end: TimeoutError, or InputError, where not."""
        begun, parts, size = time.monotonic(), list[bytes](), 0
        while part := response.read1(2**16):
            parts.append(part)
            size += len(part)
            if size > MOST_ANSWERED:
                raise InputError(f"{self} answered more than {MOST_ANSWERED:,} bytes, which are no rewards")
            if time.monotonic() - begun > self.timeout:
                raise TimeoutError(f"the answer takes more than {self.timeout:g} seconds")
        if response.length:  # read1 does not say that what was announced is missing
            raise IncompleteRead(b"".join(parts), response.length)
        return b"".join(parts)


def on_a_line(said: object) -> str:
    """What a server says, without its line ends."""
    return " ".join(str(said).split())


def prompts_of(samples: Sequence[Sample]) -> list[Any]:
    """The samples' prompts as JSON has them."""
    return [text_to_json(s.prompt.prompt) for s in samples]


def completions_of(samples: Sequence[Sample]) -> list[Any]:
    """The samples' completions as JSON has them, an assistant's message where the prompt is a chat."""
    return [_as_json(s.prompt.prompt, s.text) for s in samples]


def columns_of(samples: Sequence[Sample]) -> dict[str, list[Any]]:
    """The rows' other columns, each a list with one element a sample; None where a row lacks it."""
    names = dict.fromkeys(name for s in samples for name in s.prompt.columns if name not in _TAKEN)
    return {name: [s.prompt.columns.get(name) for s in samples] for name in names}


def _as_json(prompt: Text, completion: Text) -> str | list[dict[str, str]]:
    if isinstance(prompt, str) or not isinstance(completion, str):
        return text_to_json(completion)
    return [{"role": "assistant", "content": completion}]
