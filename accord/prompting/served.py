"""A model on a server that answers requests: many at a time, with repeated attempts where the server fails.

An attempt has `timeout` seconds in all, so that a reply that trickles in is too slow as well. The kinds of failure, and
the waits between attempts, are in `accord.prompting.faults`.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from textwrap import shorten
from typing import TYPE_CHECKING, Any

from accord.console import without_halves
from accord.errors import InputError
from accord.prompting.faults import BROKEN, BUSY, REFUSED, SLOW, UNREACHED, UNREADABLE, Fault, fault_of, wait_for
from accord.prompting.limits import RateLimit, Spending
from accord.prompting.requests import Reply, Request, without_reasoning
from accord.prompting.server import Server, run_async
from accord.records import show, text_to_json

if TYPE_CHECKING:
    import openai
    from tenacity import RetryCallState

    from accord.prompting.options import LimitOptions

SECRET = 8
"""The least length of a secret, in characters, that is masked in a reply's text."""
FUTILE = (UNREACHED, BROKEN, UNREADABLE, SLOW)
"""Kinds of failure that may mean that the address is not a language model's server at all."""
FEW = 2
"""The most further attempts after such a failure, as long as the server has answered nothing."""
ROUNDING = 1e-3
"""How far above 0 a log-probability may be, from servers that compute in few bits."""
SHOWN = 200
"""Characters of an unreadable reply that are shown."""
MOST_TOKENS = 10**9
"""The most tokens that a server may report for one reply."""


@dataclass
class _Call:
    """The state of one call: whether it is stopped, and whether failed requests are being asked for the last time."""

    client: openai.AsyncOpenAI
    stopped: InputError | None = None
    is_last: bool = False


class Served:
    """A model on a server. Chats go to chat/completions, plain texts to completions.

    A request that the server refuses gets a reply without text, with the reason. One that fails on all attempts is
    asked again after all others, as the server may have been away; if it fails again it gets no text either. `faults`
    counts failed attempts by kind, `reasoning` the replies that began with a block of reasoning, which is removed.
    `spending` knows the money spent.

    A reply's `choices` come from the server's likeliest tokens at the first position that begins a choice; None where
    the server gives none, or where one choice begins with another that is a token.
    """

    def __init__(self, server: Server, model: str, limits: LimitOptions, *, logprobs: bool = True) -> None:
        self.server, self.model, self.limits, self.logprobs = server, model, limits, logprobs
        self.name = f"{model} at {server}"
        self.rate = RateLimit(limits.requests_per_minute, limits.tokens_per_minute)
        self.spending = Spending(limits.price_in or 0.0, limits.price_out or 0.0, limits.budget)
        self.faults: Counter[str] = Counter()
        self.answered = self.reasoning = self.tokens = 0
        self._missed = 0  # requests that failed in a row

    @property
    def settings(self) -> dict[str, str]:
        """What decides its replies besides the request."""
        return {"model": self.model, "server": str(self.server)}

    def __call__(
        self, requests: Sequence[Request], on_reply: Callable[[int, Reply], None] | None = None
    ) -> list[Reply]:
        """A reply for each request, in order.

        Raises InputError, after replies under way have arrived, where the server is away, wants another key, has no
        such model or stops answering, or the budget is spent.
        """
        return run_async(self._replies(requests, on_reply))

    async def _replies(self, requests: Sequence[Request], on_reply: Callable[[int, Reply], None] | None) -> list[Reply]:
        replies: dict[int, Reply] = {}
        late: list[tuple[int, Request]] = []
        self._missed = 0

        async def work(call: _Call, waiting: Iterator[tuple[int, Request]]) -> None:
            for i, request in waiting:
                try:
                    replies[i] = await self._reply(request, call)
                except InputError as error:
                    call.stopped = call.stopped or error
                    return
                if replies[i].text is None and not call.is_last and not replies[i].reason.startswith(REFUSED):
                    late.append((i, request))
                elif on_reply:
                    on_reply(i, replies[i])
                if call.stopped:
                    return

        async with self.server.asking(self.limits.timeout) as client:
            call, count = _Call(client), min(self.limits.parallel, len(requests))
            for waiting in (iter(list(enumerate(requests))), iter(late)):
                await asyncio.gather(*(work(call, waiting) for _ in range(count if call.stopped is None else 0)))
                call.is_last = True
        if call.stopped:
            raise call.stopped
        return [replies[i] for i in range(len(requests))]

    async def _reply(self, request: Request, call: _Call) -> Reply:
        """The reply, after as many attempts as it takes; InputError where no request can be answered."""
        from tenacity import AsyncRetrying, retry_if_exception

        def again(error: BaseException) -> bool:
            return isinstance(error, Fault) and error.passes and call.stopped is None

        tries = AsyncRetrying(retry=retry_if_exception(again), stop=self._is_enough, wait=wait_for, reraise=True)
        try:
            reply: Reply = await tries(self._try, request, call)
        except Fault as fault:
            if call.stopped is None:
                self._missed += fault.kind != REFUSED
                if fault.kind == UNREACHED:
                    raise InputError(fault.message) from None
                if fault.kind in FUTILE and not self.answered:
                    raise InputError(f"{self.server} has given no reply so far ({fault}); check its address.") from None
                if self._missed >= 4 * self.limits.parallel and not call.is_last:
                    raise InputError(
                        f"{self.server} answers nothing: {self._missed} requests one after another failed, the last "
                        f"as {fault}."
                    ) from None
                return Reply(text=None, reason=str(fault))
            raise call.stopped from None
        self._missed = 0
        return reply

    def _is_enough(self, state: RetryCallState) -> bool:
        fault = state.outcome.exception() if state.outcome else None
        tries = self.limits.retries
        if isinstance(fault, Fault) and fault.kind in FUTILE and not self.answered:
            tries = min(tries, 0 if fault.kind == SLOW else FEW)
        return state.attempt_number > tries

    async def _try(self, request: Request, call: _Call) -> Reply:
        """One attempt, when rate limits and budget allow it; raises Fault where it fails."""
        size = len(show(request.prompt).encode())  # a token is at least a byte, except the template's
        most = self.spending.cost(size + 64, request.max_tokens)
        guess = size / 3 + request.max_tokens
        await self.spending.promise(most)
        with self.spending.paying(most):
            await self.rate.turn(guess)
            if call.stopped:
                raise Fault(UNREACHED, "", passes=False)
            try:
                reply = await asyncio.wait_for(self._reply_of(request, call.client), self.limits.timeout)
            except Exception as error:
                fault = fault_of(error, self.server, self.model, self.limits.timeout)
                self.rate.hold(fault.wait or 0.0) if fault.kind == BUSY else None
                self.faults[fault.kind] += 1
                if fault.kind in (SLOW, BROKEN, UNREADABLE):  # the server may have worked and charge for it
                    self.spending.spent += most
                raise fault from None
            known = reply.tokens_in + reply.tokens_out
            self.spending.spent += self.spending.cost(reply.tokens_in, reply.tokens_out) if known else most
            self.rate.correct(known - guess if known else 0)
        self.answered += 1
        self.tokens += known
        return reply

    async def _reply_of(self, request: Request, client: openai.AsyncOpenAI) -> Reply:
        """The server's reply; raises whatever the client raises."""
        body: dict[str, Any] = {"model": self.model, "max_tokens": max(request.max_tokens, 1)}
        body |= {"temperature": request.temperature}
        if request.temperature:
            body |= {"top_p": request.top_p, "seed": request.seed}
        if request.stop:
            body["stop"] = list(request.stop)
        is_chat, top = not isinstance(request.prompt, str), min(max(5, 2 * len(request.choices)), 20)
        if request.choices and self.logprobs:
            body |= {"logprobs": True, "top_logprobs": top} if is_chat else {"logprobs": top}
        try:
            if is_chat:
                messages: Any = text_to_json(request.prompt)
                return self._read(await client.chat.completions.create(messages=messages, **body), request)
            return self._read(await client.completions.create(prompt=show(request.prompt), **body), request)
        except Exception as error:
            text = f"{error} {getattr(error, 'body', '')}"
            if "logprobs" not in body or "logprobs" not in text or getattr(error, "status_code", 0) not in (400, 422):
                raise
            self.logprobs = False  # the server says that it has none
            return await self._reply_of(request, client)

    def _read(self, response: Any, request: Request) -> Reply:
        """The reply in a server's response; raises Fault where it has an unexpected form."""
        try:
            choice, usage = response.choices[0], response.usage
            is_chat = not isinstance(request.prompt, str)
            raw = choice.message.content if is_chat else choice.text
            if raw is None and is_chat and choice.finish_reason in ("length", "stop"):
                raw = ""
            text = without_reasoning(raw) if is_chat else raw
            counted = [max(int(getattr(usage, f"{name}_tokens", 0) or 0), 0) for name in ("prompt", "completion")]
            if max(counted) > MOST_TOKENS:
                raise ValueError("a reply of more tokens than there can be")
            begun = _choices(choice.logprobs, len(raw) - len(text), request.choices)
            reply = Reply(
                text=without_halves(self.server.masked(text, SECRET)), is_cut=choice.finish_reason == "length",
                choices=begun, tokens_in=counted[0], tokens_out=counted[1],
            )  # fmt: skip
        except (AttributeError, TypeError, IndexError, KeyError, ValueError, OverflowError) as error:
            body = getattr(response, "error", None) or response
            body = body.model_dump(exclude_none=True, warnings=False) if hasattr(body, "model_dump") else body
            raise Fault(UNREADABLE, shorten(self.server.without_key(str(body)), SHOWN, placeholder=" ...")) from error
        self.reasoning += text != raw
        return reply


def _choices(logprobs: Any, start: int, choices: Sequence[str]) -> dict[str, float] | None:
    """The choices' probabilities at the first token, after `start` characters, that begins one of them.

    Raises ValueError where a log-probability is not valid.
    """
    at = 0
    for token, tops in _steps(logprobs):
        at += len(token)
        if at > start and any(_begun(token, choices)) and tops:
            break
    else:
        return None
    tokens = {top.strip() for top, _ in tops}
    chances = dict.fromkeys(choices, 0.0)
    for top, logp in tops:
        begun = _begun(top, choices)
        possible = begun if len(begun) < 2 else [c for c in begun if c == top.strip() and tokens.issuperset(begun)]
        if begun and not possible:
            return None
        if not logp <= ROUNDING:
            raise ValueError(f"a log-probability of {logp}")
        for choice in possible:
            chances[choice] += math.exp(min(logp, 0.0))
    return chances


def _begun(token: str, choices: Sequence[str]) -> list[str]:
    return [choice for choice in choices if token.strip() and choice.startswith(token.strip())]


def _steps(logprobs: Any) -> list[tuple[str, list[tuple[str, float]]]]:
    """Every token of a reply with the likeliest tokens at its place, from a chat's or a text's log-probabilities."""
    content = getattr(logprobs, "content", None)
    if content is not None:
        return [(step.token, [(top.token, top.logprob) for top in step.top_logprobs or ()]) for step in content]
    tokens, tops = (getattr(logprobs, name, None) or () for name in ("tokens", "top_logprobs"))
    return [(token, list((top or {}).items())) for token, top in zip(tokens, tops, strict=False)]
