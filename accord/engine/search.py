"""Search for good completions instead of sampling: beam search by likelihood, and search guided by a score.

Beam search keeps the W likeliest prefixes and extends each by every token; transformers does it. Guided search samples:
every block of tokens it extends each of the W prefixes by M continuations, and keeps the W that score highest. With W =
1 that is the blockwise best of M of Mudgal et al. (2023, Controlled Decoding, arXiv:2310.17022, section 3.2), with W >
1 the beam search over a verifier of Snell et al. (2024, arXiv:2408.03314, section 5.1); a block as long as the whole
completion makes it best of W M. The score must therefore be meaningful for a prefix: a value, the expected outcome of
completions that start so, not whether the text is correct as it stands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import inf
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig

from accord.arrays import Doubles, Ints, LogProbs, Tokens
from accord.engine.generate import evaluating, generate
from accord.engine.inside import plain_attention
from accord.engine.models import Policy, quiet
from accord.engine.sampling import Sampling
from accord.engine.trees import Branch, Tree, Trees
from accord.errors import InputError
from accord.records import Completion, EncodedPrompt, Sample

Progress = Callable[[int], None]
Score = Callable[[Sequence[Sample]], Tensor]
"""From samples, complete or cut, to numbers (C,), higher is better; NaN ranks below all."""

NEVER = -1e8
"""transformers' sum of log-probabilities is below this where there was no such completion."""


@torch.no_grad()
def beam_search(
    policy: Policy,
    prompts: Sequence[EncodedPrompt],
    n: int,
    sampling: Sampling,
    *,
    beams: int,
    length_penalty: float = 1.0,
    progress: Progress | None = None,
) -> list[Sample]:
    """The n completions of each prompt that beam search finds best, best first, prompt after prompt.

    Best is the highest sum of log pi(token) over a completion's tokens, including the end, divided by their number to
    the power of `length_penalty`: 0 is the likelihood, which favors short ones; 1 the mean. Uses transformers'
    `generate`, one prompt at a time, with its attention and stopping rule (`early_stopping=False`). Of `sampling` only
    `max_new_tokens` and `min_new_tokens` apply. The log-probabilities returned are the model's.

    Raises InputError where n exceeds the beams, or the number of possible completions.
    """
    if not 1 <= n <= beams:
        raise InputError(f"beam search with {beams} beams finds at most as many completions of a prompt, not {n}")
    samples = []
    settings = _settings(policy, n, sampling, beams, length_penalty)
    with evaluating(policy.network), plain_attention(policy.network), _blank_settings(policy.network), quiet():
        for prompt in prompts:
            ids = torch.tensor([prompt.tokens], device=policy.device)
            with policy.autocast():
                out = policy.network.generate(ids, attention_mask=torch.ones_like(ids), generation_config=settings)  # type: ignore[operator]
            scores = getattr(out, "sequences_scores", None)  # absent with one beam, which is greedy
            if scores is not None and float(scores.min()) * sampling.max_new_tokens**length_penalty < NEVER:
                raise InputError(f"there are fewer than {n} completions of at most {sampling.max_new_tokens} tokens")
            rows = out.sequences[:, len(prompt.tokens) :].tolist()
            samples.append((prompt, [_until(row, policy.ends) for row in rows]))
            if progress:
                progress(n)
    return [sample for prompt, rows in samples for sample in _likely(policy, prompt, rows)]


def _settings(policy: Policy, n: int, sampling: Sampling, beams: int, length_penalty: float) -> GenerationConfig:
    unused = list(range(policy.vocabulary, policy.network.get_output_embeddings().weight.shape[0]))  # type: ignore[union-attr]
    return GenerationConfig(
        num_beams=beams,
        num_return_sequences=n,
        length_penalty=length_penalty,
        early_stopping=False,
        do_sample=False,
        max_new_tokens=sampling.max_new_tokens,
        min_new_tokens=sampling.min_new_tokens or None,
        eos_token_id=list(policy.ends),
        pad_token_id=policy.end,
        suppress_tokens=unused or None,
        return_dict_in_generate=True,
        output_scores=True,
    )


@contextmanager
def _blank_settings(network: Any) -> Iterator[None]:
    """Within the context the network has no generation settings of its own, such as a repetition penalty."""
    own = network.generation_config
    network.generation_config = GenerationConfig()
    try:
        yield
    finally:
        network.generation_config = own


def _until(tokens: Sequence[int], ends: Sequence[int]) -> Ints:
    """The tokens up to and including the first that ends a turn."""
    last = next((i for i, token in enumerate(tokens) if token in ends), len(tokens) - 1)
    return Ints(tokens[: last + 1])


def _likely(policy: Policy, prompt: EncodedPrompt, rows: Sequence[Tokens]) -> list[Sample]:
    """Samples of these completions, with the model's log-probabilities."""
    trees = Trees.of([Tree(prompt.tokens, tuple(map(Branch, rows)))], policy.device)
    logps = policy.log_probs(trees).split([len(row) for row in rows])
    return [_sample(policy, prompt, row, Doubles(logp.tolist())) for row, logp in zip(rows, logps, strict=True)]


def _sample(policy: Policy, prompt: EncodedPrompt, tokens: Tokens, logps: LogProbs) -> Sample:
    completion = Completion(tokens, logps, "end" if tokens[-1] in policy.ends else "length")
    before = prompt.tokens if isinstance(prompt.prompt.prompt, str) else ()
    return Sample(prompt.prompt, policy.text(tokens, before), prompt.tokens, completion, prompt.row)


@dataclass(frozen=True)
class _Scored:
    """A sample, possibly unfinished, and its score."""

    sample: Sample
    score: float

    @property
    def goes_on(self) -> bool:
        return self.sample.completion.stop == "length"


@torch.no_grad()
def guided_search(
    policy: Policy,
    prompts: Sequence[EncodedPrompt],
    n: int,
    sampling: Sampling,
    *,
    score: Score,
    beams: int,
    branch: int,
    block: int,
    progress: Progress | None = None,
) -> list[Sample]:
    """The n best completions of each prompt that a search guided by a score finds, best first.

    First `beams * branch` continuations of `block` tokens are drawn of every prompt, and the `beams` of highest score
    kept; then `branch` continuations of each unfinished one, and so on, until all kept ones have ended or have
    `max_new_tokens`. Finished ones compete by their scores. Of equals the earlier stays. The log-probabilities returned
    are those of the distribution drawn from, not of the search.

    Raises InputError where n exceeds the beams, or `sampling` has texts to stop at, which may lie across blocks.
    """
    if not 1 <= n <= beams:
        raise InputError(f"a search with {beams} beams finds at most as many completions of a prompt, not {n}")
    if sampling.stop:
        raise InputError("a guided search ends completions only at the end of a turn; leave out the texts to stop at")
    kept: list[list[_Scored]] = [[] for _ in prompts]
    open_still, most = len(prompts), sampling.max_new_tokens
    for done in range(0, most, block):
        drawing = _next_block(sampling, done, block)
        heads = [(i, each.sample.completion) for i, some in enumerate(kept) for each in some if each.goes_on]
        if not done:
            heads = [(i, Completion((), (), "length")) for i in range(len(prompts))]
        if not heads:
            break
        new = _continued(policy, prompts, heads, drawing, branch if done else beams * branch)
        scores = score([sample for _, sample in new]).double().nan_to_num(nan=-inf).tolist()
        pool = [[each for each in some if not each.goes_on] for some in kept]
        for (i, sample), value in zip(new, scores, strict=True):
            pool[i].append(_Scored(sample, value))
        kept = [sorted(some, key=lambda each: -each.score)[:beams] for some in pool]
        still = sum(any(each.goes_on for each in some) for some in kept) if done + block < most else 0
        if progress and still < open_still:
            progress(n * (open_still - still))
        open_still = still
    return [each.sample for some in kept for each in some[:n]]


def _next_block(sampling: Sampling, done: int, block: int) -> Sampling:
    """The sampling settings of the next block, after `done` tokens."""
    size = min(block, sampling.max_new_tokens - done)
    return replace(sampling, max_new_tokens=size, min_new_tokens=min(size, max(0, sampling.min_new_tokens - done)))


def _continued(
    policy: Policy,
    prompts: Sequence[EncodedPrompt],
    heads: Sequence[tuple[int, Completion]],
    drawing: Sampling,
    branch: int,
) -> list[tuple[int, Sample]]:
    """`branch` continuations of every head, which is a prompt's index and what was drawn after it, as whole samples."""
    with policy.autocast():
        before = [prompts[i].tokens + head.tokens for i, head in heads]
        groups = generate(policy.network, before, branch, drawing, **policy.limits)
    return [
        (i, _sample(policy, prompts[i], head.tokens + more.tokens, head.logprobs + more.logprobs))
        for (i, head), group in zip(heads, groups, strict=True)
        for more in group
    ]
