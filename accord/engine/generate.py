"""Sampling completions: each prompt read once, its samples decoded side by side, finished ones making room for new.

`generate` gives whole completions of many prompts, `stream` one token by token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from accord.engine.cache import decoder
from accord.engine.sampling import Sampling, draw, uniform_numbers
from accord.errors import InputError
from accord.records import Completion

CAPACITY = 256
"""Samples decoded at once unless told otherwise."""


@torch.no_grad()
def generate(
    model: nn.Module,
    prompts: Sequence[tuple[int, ...]],
    n: int = 1,
    sampling: Sampling | None = None,
    *,
    end: int | Sequence[int],
    capacity: int = CAPACITY,
    progress: Callable[[int], None] | None = None,
) -> list[list[Completion]]:
    """n completions of every prompt, with the log-probability of every token under the distribution drawn from.

    A completion ends with the first end-of-turn token, or is cut after `sampling.max_new_tokens`. It depends on the
    model, the prompt and the seed alone, not on what else is in the batch (up to the rounding of the logits).

    Args:
        model: a causal language model of transformers, or a `Mixture` of two.
        prompts: token ids; none may be empty.
        end: the token or tokens that end a turn.
        capacity: samples decoded at once.
        progress: called with the number of samples finished since the last call.

    Raises:
        InputError: n < 1.
        ValueError: a prompt is empty.
    """
    sampling = sampling or Sampling()
    if n < 1:
        raise InputError(f"a prompt needs at least one sample, not {n}")
    if not all(prompts):
        raise ValueError(f"prompt {next(i for i, p in enumerate(prompts) if not p)} has no tokens")
    ends = {end} if isinstance(end, int) else set(end)
    device = next(model.parameters()).device
    uniforms = uniform_numbers(prompts, n, sampling).reshape(-1, sampling.max_new_tokens)
    written: list[list[tuple[int, float]]] = [[] for _ in uniforms]  # tokens and their log-probabilities
    live: list[int] = []  # the samples in the batch, in its order
    waiting = 0
    with evaluating(model):
        batch = decoder(model, sampling.max_new_tokens)
        while waiting < len(prompts) or live:
            logits = batch.decode(torch.tensor([written[i][-1][0] for i in live], device=device)) if live else None
            joining = _joining(len(live), len(prompts) - waiting, n, capacity)
            if joining:
                first = batch.prefill(prompts[waiting : waiting + joining], n).repeat_interleave(n, 0)
                logits = first if logits is None else torch.cat([logits, first])
                live += range(waiting * n, (waiting + joining) * n)
                waiting += joining
            assert logits is not None
            uniform = torch.from_numpy(uniforms[live, [len(written[i]) for i in live]])
            drawn, logp = draw(logits, uniform.to(device), sampling)
            for i, token in zip(live, zip(drawn.tolist(), logp.tolist(), strict=True), strict=True):
                written[i].append(token)
            going = [written[i][-1][0] not in ends and len(written[i]) < sampling.max_new_tokens for i in live]
            if not all(going):
                batch.keep(torch.tensor(going, device=device))
                live = [i for i, goes in zip(live, going, strict=True) if goes]
                if progress:
                    progress(going.count(False))
    completions = [_completion(sample, ends) for sample in written]
    return [completions[i : i + n] for i in range(0, len(completions), n)]


def _completion(sample: Sequence[tuple[int, float]], ends: set[int]) -> Completion:
    tokens, logprobs = zip(*sample, strict=True)
    return Completion(tokens, logprobs, "end" if tokens[-1] in ends else "length")


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode; its parts that were training go back to that."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _joining(live: int, left: int, n: int, capacity: int) -> int:
    """How many of the prompts left join the live samples: all there is room for, once a quarter of the room is free."""
    if not live:
        return min(max(capacity // n, 1), left)
    room = (capacity - live) // n
    return min(room, left) if room >= left or room * n >= capacity // 4 else 0


@torch.no_grad()
def stream(
    model: nn.Module, prompt: tuple[int, ...], sampling: Sampling | None = None, *, end: int | Sequence[int]
) -> Iterator[tuple[int, float]]:
    """The tokens and log-probabilities that `generate` returns as the prompt's first, each as soon as it is drawn.

    It stops after the first end-of-turn token, after `sampling.max_new_tokens`, or when it is closed. Args as for
    `generate`.

    Raises ValueError where the prompt is empty.
    """
    sampling = sampling or Sampling()
    if not prompt:
        raise ValueError("the prompt has no tokens")
    ends = {end} if isinstance(end, int) else set(end)
    device = next(model.parameters()).device
    uniforms = torch.from_numpy(uniform_numbers([prompt], 1, sampling)[0, 0]).to(device)
    drawn = None
    with evaluating(model):
        batch = decoder(model, sampling.max_new_tokens)
        for uniform in uniforms.split(1):
            logits = batch.prefill([prompt], 1) if drawn is None else batch.decode(drawn)
            drawn, logp = draw(logits, uniform, sampling)
            yield int(drawn), float(logp)
            if int(drawn) in ends:
                return


class Spelling:
    """The text of tokens that come one by one, in pieces that add up to the text of them all.

    The whole is decoded anew each time, since a token's text may depend on those before it (a space between words, the
    rest of a character). What more tokens may still change waits: half a character, which decodes to U+FFFD, and a
    beginning that a tokenizer's clean-up rewrites.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self.tokens: list[int] = []
        self.said = ""

    def add(self, token: int) -> str:
        """What is certain of the text with one more token, beyond what was certain before."""
        self.tokens.append(token)
        return self._more(waiting="\ufffd")

    def rest(self) -> str:
        """What still waits when no more tokens come."""
        return self._more(waiting="")

    def _more(self, waiting: str) -> str:
        text = str(self.tokenizer.decode(self.tokens, skip_special_tokens=True)).rstrip(waiting)
        if not text.startswith(self.said):
            return ""
        piece, self.said = text[len(self.said) :], text
        return piece
