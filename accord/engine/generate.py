"""Sampling completions: each prompt is read once, its samples are decoded in one batch, and finished ones make room.

`generate` returns whole completions of many prompts; `stream` yields one completion token by token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import inf
from typing import TypeAlias

import torch
from torch import Tensor, nn

from accord.arrays import Doubles, Ints, Tokens
from accord.engine.decoding import Decoder, Mixture, decoder
from accord.engine.forward import rope_switch_length
from accord.engine.sampling import Sampling, draw, truncate_, uniform_numbers
from accord.engine.shard import layers_gathered, with_gathered_weights
from accord.engine.tiles import to_device
from accord.errors import InputError
from accord.records import Completion

ToText: TypeAlias = Callable[[Sequence[int]], str]
Samples: TypeAlias = dict[int, list[tuple[int, float]]]  # sample's number -> its tokens and log-probabilities so far

CAPACITY = 256
"""Default number of samples decoded at once."""


@torch.no_grad()
@with_gathered_weights
def generate(
    model: nn.Module,
    prompts: Sequence[Tokens],
    n: int = 1,
    sampling: Sampling | None = None,
    *,
    end: int | Sequence[int],
    vocabulary: int | None = None,
    to_text: ToText | None = None,
    seeds: Sequence[int] | None = None,
    only: Sequence[int] | None = None,
    capacity: int = CAPACITY,
    progress: Callable[[int], None] | None = None,
) -> list[list[Completion]]:
    """n completions of every prompt, with the log-probability of every token under the distribution drawn from.

    A completion ends with the first end-of-turn token or text of `sampling.stop`, or is cut at `max_new_tokens`. Up to
    rounding of the logits it depends only on the model, the prompt and the seed, not on the rest of the batch.

    Args:
        model: a causal language model of transformers, or a `Mixture` of two.
        prompts: token ids; none may be empty.
        end: the token or tokens that end a turn.
        vocabulary: number of tokens, where the output layer has more rows; the rows beyond are never drawn.
        to_text: decodes tokens to text, in which `sampling.stop` is searched for.
        seeds: a seed for each prompt in place of the sampling's; equal prompts of equal seeds have equal completions.
        only: indices of the prompts to complete here, with the same results as among all; default all.
        capacity: number of samples decoded at once.
        progress: called with the number of samples finished since the last call.

    Raises InputError where n < 1, and ValueError where a prompt is empty.
    """
    sampling = sampling or Sampling()
    _check(prompts, n)
    limits = _Limits(end, sampling, vocabulary, to_text)
    uniforms = torch.from_numpy(uniform_numbers(prompts, n, sampling, seeds))
    if only is not None:
        uniforms, prompts = uniforms[list(only)], [prompts[i] for i in only]
    done: dict[int, list[Completion]] = {}
    with evaluating(model), layers_gathered(model):
        for batch in _batches(model, prompts, sampling.max_new_tokens):
            written = _complete(model, [prompts[i] for i in batch], uniforms[batch], limits, capacity, progress)
            done |= zip(batch, written, strict=True)
    return [done[i] for i in range(len(prompts))]


def _batches(model: nn.Module, prompts: Sequence[Tokens], longest: int) -> list[list[int]]:
    """Indices of the prompts that may be decoded together, where samples have up to `longest` tokens.

    Under LongRoPE the longest sequence of a batch decides the positions of all, so these are the prompts whose samples
    stay on one side of `rope_switch_length`, and each that crosses it by itself.
    """
    parts = (model.policy, model.reference) if isinstance(model, Mixture) else (model,)
    limits = [limit for limit in map(rope_switch_length, parts) if limit is not None]
    batches: dict[object, list[int]] = {}
    for i, prompt in enumerate(prompts):
        ends = [(len(prompt) > limit, len(prompt) + longest > limit) for limit in limits]
        batches.setdefault(i if (False, True) in ends else tuple(ends), []).append(i)
    return list(batches.values())


def _complete(
    model: nn.Module,
    prompts: Sequence[Tokens],
    uniforms: Tensor,
    limits: _Limits,
    capacity: int,
    progress: Callable[[int], None] | None,
) -> list[list[Completion]]:
    """The completions of prompts that may be decoded together, drawn by random numbers (prompts, n, tokens)."""
    n, device = uniforms.shape[1], next(model.parameters()).device
    uniforms = uniforms.flatten(0, 1)
    live: Samples = {}  # the samples in the batch, in its order
    done: dict[int, Completion] = {}
    waiting = 0  # index of the first prompt that has not joined
    batch = decoder(model, limits.sampling.max_new_tokens)
    while waiting < len(prompts) or live:
        joining = _joining(len(live), len(prompts) - waiting, n, capacity)
        logits = _next_logits(batch, live, prompts[waiting : waiting + joining], n, device)
        live |= {i: [] for i in range(waiting * n, (waiting + joining) * n)}
        waiting += joining
        counts = [len(written) for written in live.values()]
        uniform = to_device(uniforms[list(live), counts], device)
        for written, token in zip(live.values(), limits.draw(logits, uniform, counts), strict=True):
            written.append(token)
        finished = _finish(batch, live, limits)
        done |= finished
        if progress and finished:
            progress(len(finished))
    return [[done[i + j] for j in range(n)] for i in range(0, len(done), n)]


def _check(prompts: Sequence[Tokens], n: int) -> None:
    if n < 1:
        raise InputError(f"a prompt needs at least one sample, not {n}")
    if not all(prompts):
        raise ValueError(f"prompt {next(i for i, p in enumerate(prompts) if not p)} has no tokens")


class _Limits:
    """Which tokens may be drawn, and where a completion ends."""

    def __init__(
        self, end: int | Sequence[int], sampling: Sampling, vocabulary: int | None, to_text: ToText | None
    ) -> None:
        self.ends = [end] if isinstance(end, int) else sorted(set(end))
        self.sampling, self.stop, self.vocabulary, self.to_text = sampling, sampling.stop, vocabulary, to_text
        if self.stop and to_text is None:
            raise ValueError("texts can only end a completion where tokens can be spelled")
        # last tokens to decode for the search: at most one per character of the text, and some context
        self.reach = max(map(len, self.stop), default=0) + 8

    def draw(self, logits: Tensor, uniform: Tensor, written: Sequence[int]) -> list[tuple[int, float]]:
        """Tokens and log-probabilities as from `sampling.draw`, for samples (S,) with `written` tokens so far each.

        If a row of the output layer without a token is drawn, the draw is repeated among the others. This is so rare
        that the log-probabilities stay those of the full softmax, as scoring computes them.
        """
        early = [i for i, count in enumerate(written) if count < self.sampling.min_new_tokens]
        if early:
            barred = to_device(torch.tensor(early), logits.device)
            logits = logits.clone()
            for end in self.ends:
                logits[:, end].index_fill_(0, barred, -inf)
        drawn = _read(*draw(logits, uniform, self.sampling))
        invalid = [i for i, (token, _) in enumerate(drawn) if token >= (self.vocabulary or inf)]
        if invalid:
            rows = torch.tensor(invalid, device=logits.device)
            masked = logits[rows].clone()
            masked[:, self.vocabulary :] = -inf
            again, logp = draw(masked, uniform[rows], self.sampling)
            if self.sampling.temperature:
                z = truncate_(logits[rows] / self.sampling.temperature, self.sampling.top_k, self.sampling.top_p)
                full = torch.log_softmax(z, -1).gather(1, again[:, None]).squeeze(1)
                logp = torch.where(full.isfinite(), full, logp)  # -inf where truncation kept only invalid rows
            for i, token in zip(invalid, _read(again, logp), strict=True):
                drawn[i] = token
        return drawn

    def completion(self, sample: Sequence[tuple[int, float]]) -> Completion:
        """The sample as a `Completion`."""
        tokens, logprobs = zip(*sample, strict=True)
        return Completion(Ints(tokens), Doubles(logprobs), "end" if self.ended(sample) else "length")

    def ended(self, sample: Sequence[tuple[int, float]]) -> bool:
        """Whether a sample's last token ends it."""
        if sample[-1][0] in self.ends:
            return True
        if not self.stop or self.to_text is None or len(sample) < self.sampling.min_new_tokens:
            return False
        end_text = self.to_text([token for token, _ in sample[-self.reach :]])
        return any(text in end_text for text in self.stop)


def _read(tokens: Tensor, logp: Tensor) -> list[tuple[int, float]]:
    """Copy drawn tokens and log-probabilities to the CPU in one transfer, the only synchronization per token."""
    pairs = zip(*torch.stack([tokens.double(), logp.double()]).tolist(), strict=True)
    return [(int(token), value) for token, value in pairs]


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Puts the model in evaluation mode; modules that were in training mode return to it."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _joining(live: int, left: int, n: int, capacity: int) -> int:
    """How many of the remaining prompts join the live samples: as many as there is room for, once a quarter of it is
    free."""
    if not live:
        return min(max(capacity // n, 1), left)
    room = (capacity - live) // n
    return min(room, left) if room >= left or room * n >= capacity // 4 else 0


def _finish(batch: Decoder, live: Samples, limits: _Limits) -> dict[int, Completion]:
    """Remove the samples that have ended from the batch and from `live`; returns them as completions."""
    full = limits.sampling.max_new_tokens
    going = [len(written) < full and not limits.ended(written) for written in live.values()]
    if all(going):
        return {}
    batch.keep(torch.tensor(going))
    ended = [i for i, goes in zip(live, going, strict=True) if not goes]
    return {i: limits.completion(live.pop(i)) for i in ended}


def _next_logits(batch: Decoder, live: Samples, joining: Sequence[Tokens], n: int, device: torch.device) -> Tensor:
    """Next-token logits: of every live sample, given its last token, then of the n samples of each joining prompt."""
    last = [written[-1][0] for written in live.values()]
    parts = [batch.decode(to_device(torch.tensor(last), device))] if last else []
    if joining:
        parts.append(batch.prefill(joining, n).repeat_interleave(n, 0))
    return torch.cat(parts) if len(parts) > 1 else parts[0]


@torch.no_grad()
def stream(
    model: nn.Module,
    prompt: Tokens,
    sampling: Sampling | None = None,
    *,
    end: int | Sequence[int],
    vocabulary: int | None = None,
    to_text: ToText | None = None,
) -> Iterator[tuple[int, float]]:
    """The tokens and log-probabilities of the prompt's first completion by `generate`, each as soon as it is drawn.

    Stops after the first end-of-turn token, after `sampling.max_new_tokens`, or when closed. Args as for `generate`.

    Raises ValueError where the prompt is empty.
    """
    sampling = sampling or Sampling()
    if not prompt:
        raise ValueError("the prompt has no tokens")
    limits, written = _Limits(end, sampling, vocabulary, to_text), list[tuple[int, float]]()
    device = next(model.parameters()).device
    uniforms = torch.from_numpy(uniform_numbers([prompt], 1, sampling)[0, 0]).to(device)
    with evaluating(model):
        batch = decoder(model, sampling.max_new_tokens)
        for uniform in uniforms.split(1):
            last = torch.tensor([token for token, _ in written[-1:]], device=device)
            logits = batch.decode(last) if written else batch.prefill([prompt], 1)
            written += limits.draw(logits, uniform, [len(written)])
            yield written[-1]
            if limits.ended(written):
                return
