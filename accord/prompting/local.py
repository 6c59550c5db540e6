"""A model in this process that answers requests: by samples, and by the probabilities of given choices."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch

from accord.arrays import Ints, Tokens
from accord.data.chat import encode_prompt, prompt_text
from accord.data.tokens import tokenize
from accord.dates import STRFTIME_NOW
from accord.engine.generate import evaluating, generate
from accord.engine.models import Policy
from accord.engine.sampling import Sampling
from accord.engine.templates import given_date
from accord.engine.trees import Branch, Tree, pack
from accord.engine.unread import unread
from accord.objectives.segments import segment_sum
from accord.prompting.requests import Reply, Request, without_reasoning

AT_ONCE = 32
"""Requests whose replies are sampled and reported together."""
PROBED = 16
"""How many weights of each tensor enter the fingerprint."""


@dataclass(frozen=True, slots=True)
class _EncodedRequest:
    """A request with its tokenized prompt."""

    request: Request
    tokens: Tokens

    @property
    def sampling(self) -> Sampling:
        """The sampling settings of its reply, without the seed."""
        r = self.request
        return Sampling(max(r.max_tokens, 1), r.temperature, top_p=r.top_p, stop=r.stop)


class Local:
    """A model in this process. A reply depends on its request alone, up to the rounding of the logits.

    The probability of a choice is that of its tokens after the prompt, less that of longer choices whose tokens begin
    with them (as 10 does with 1). A request for choices with `max_tokens` 0 has an empty text and costs one forward
    pass. On a CPU every such request is a pass of its own, so that its probabilities are the same to the last bit
    whatever else is asked; elsewhere passes hold `tokens_per_pass` tokens. Raises InputError for a chat where the
    tokenizer has no chat template.

    The model is not changed: where it computes in less than float32, replies come from a copy with rounded weights,
    made at the first call.
    """

    def __init__(self, model: Policy, *, tokens_per_pass: int = 2048) -> None:
        self.model, self.tokens_per_pass = model, 1 if model.device.type == "cpu" else tokens_per_pass
        self.name = model.name

    @cached_property
    def _reader(self) -> Policy:
        return self.model if self.model.dtype == torch.float32 else self.model.frozen_copy()

    @property
    def has_template(self) -> bool:
        """Whether it can be given chats."""
        return getattr(self.model.tokenizer, "chat_template", None) is not None

    @property
    def settings(self) -> dict[str, str]:
        """What decides its replies besides the request: precision, chat template, a date given for it, and a
        fingerprint of the weights."""
        template = str(getattr(self.model.tokenizer, "chat_template", None))
        date = given_date(self.model.tokenizer)
        weights, waiting = hashlib.sha256(), unread(self.model.network)
        for name, weight in self.model.network.state_dict().items():
            if waiting and weight.is_meta:
                weight = waiting.rows(name, weight)
            some = weight.detach().flatten()[:: max(weight.numel() // PROBED, 1)].cpu()
            weights.update(f"{name} {tuple(weight.shape)} {some.double().tolist()}".encode())
        return {
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "chat template": hashlib.sha256(template.encode()).hexdigest()[:16],
            "weights": weights.hexdigest()[:16],
            **({STRFTIME_NOW: date.isoformat()} if date else {}),
        }

    def __call__(
        self, requests: Sequence[Request], on_reply: Callable[[int, Reply], None] | None = None
    ) -> list[Reply]:
        """A reply for each request, in order; a request that does not fit into the context gets a reason instead."""
        places: dict[Request, list[int]] = {}
        for i, request in enumerate(requests):
            places.setdefault(request, []).append(i)
        replies: dict[int, Reply] = {}
        for request, reply in self._replies(list(places)):
            for i in places[request]:
                replies[i] = reply
                if on_reply:
                    on_reply(i, reply)
        return [replies[i] for i in range(len(requests))]

    def _replies(self, requests: Sequence[Request]) -> Iterator[tuple[Request, Reply]]:
        alike: dict[Sampling, list[_EncodedRequest]] = {}
        for request in requests:
            asked = _EncodedRequest(request, encode_prompt(self.model.tokenizer, request.prompt))
            fault = self._fault(asked)
            if fault:
                yield request, Reply(text=None, reason=fault)
            else:
                alike.setdefault(asked.sampling, []).append(asked)
        for sampling, group in alike.items():
            for start in range(0, len(group), AT_ONCE):
                yield from self._answered(group[start : start + AT_ONCE], sampling)

    def _fault(self, asked: _EncodedRequest) -> str:
        """Why a request cannot be answered; empty where it can."""
        context, choices = self.model.context, self._tokens_of_choices(asked)
        if not asked.tokens:
            return "nothing to read: the prompt is empty, and the tokenizer has no token that begins a text"
        room = max(asked.request.max_tokens, *map(len, choices), 0)
        if context is None or len(asked.tokens) + room <= context:
            return ""
        return f"too long: {len(asked.tokens)} tokens and {room} of the reply, where {self.name} reads {context}"

    def _tokens_of_choices(self, asked: _EncodedRequest) -> list[Ints]:
        """The tokens of each choice, at the start of a reply."""
        tokenizer, choices = self.model.tokenizer, asked.request.choices
        before = prompt_text(tokenizer, asked.request.prompt) if choices else ""
        return tokenize(tokenizer, choices, [before] * len(choices))

    def _answered(self, group: list[_EncodedRequest], sampling: Sampling) -> Iterator[tuple[Request, Reply]]:
        begun = self._choices([asked for asked in group if asked.request.choices])
        sampled = [asked for asked in group if asked.request.max_tokens > 0]
        replies = (
            dict(zip((a.request for a in sampled), self._sampled(sampled, sampling), strict=True)) if sampled else {}
        )
        for asked in group:
            reply = replies.get(asked.request, Reply(text="", tokens_in=len(asked.tokens)))
            yield asked.request, replace(reply, choices=begun.get(asked.request))

    @torch.no_grad()
    def _choices(self, group: list[_EncodedRequest]) -> dict[Request, dict[str, float]]:
        """For each request, the probability that the reply begins with each of its choices."""
        by_request: dict[Request, dict[str, float]] = {}
        trees = [Tree(a.tokens, tuple(map(Branch, self._tokens_of_choices(a))), row=i) for i, a in enumerate(group)]
        with evaluating(self._reader.network):
            for batch in pack(trees, self.tokens_per_pass, self.model.device):
                logp = self._reader.log_probs(batch).double()
                sums = iter(segment_sum(logp, batch.owner, batch.branches).exp().tolist())
                for tree in batch.trees:
                    request = group[tree.row].request
                    begun = {branch.tokens: next(sums) for branch in tree.branches}
                    alone = [_alone(branch.tokens, begun) for branch in tree.branches]
                    by_request[request] = dict(zip(request.choices, alone, strict=True))
        return by_request

    def _sampled(self, group: list[_EncodedRequest], sampling: Sampling) -> Iterator[Reply]:
        reader, seeds = self._reader, [asked.request.seed for asked in group]
        with reader.autocast():
            drawn = generate(reader.network, [a.tokens for a in group], 1, sampling, seeds=seeds, **reader.limits)
        for asked, [completion] in zip(group, drawn, strict=True):
            text = before(reader.text(completion.tokens), asked.request.stop)
            if not isinstance(asked.request.prompt, str):
                text = without_reasoning(text)
            is_cut, count = completion.stop == "length", len(completion.tokens)
            yield Reply(text=text, is_cut=is_cut, tokens_in=len(asked.tokens), tokens_out=count)


def _alone(tokens: Tokens, begun: Mapping[Tokens, float]) -> float:
    """P(a text begins with these tokens, but not with a longer entry of `begun`), from P(it begins with each entry)."""
    longer = [other for other in begun if len(other) > len(tokens) and other[: len(tokens)] == tokens]
    return max(begun[tokens] - sum(_alone(other, begun) for other in longer), 0.0)


def before(text: str, stop: Sequence[str]) -> str:
    """The text before the first of the stop strings."""
    return text[: min((at for at in map(text.find, stop) if at >= 0), default=None)]
