"""Sampling: the same completions in any company, with the log-probabilities that scoring finds; true frequencies."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from math import exp

import pytest
import torch
from torch import nn
from transformers import LlamaConfig

from accord.arrays import Doubles, Ints
from accord.engine import generate as module
from accord.engine.decoding import Mixture, Recompute
from accord.engine.forward import log_probabilities, prepare
from accord.engine.generate import _batches, generate
from accord.engine.precision import autocast
from accord.engine.sampling import Sampling
from accord.engine.trees import Branch, Tree, Trees
from accord.objectives.segments import segment_sum
from accord.records import Completion
from examples.worlds.enumerable import END as WORLD_END
from examples.worlds.enumerable import Enumerable
from tests.engine.tiny import CONFIGS, END, SIZES, VOCABULARY, random_model, randomize

PROMPTS = [(3, 1, 4, 1, 5), (2,), (7, 1, 8, 2, 8, 1, 8), (3, 1), (2,), (9, 9, 9), (5, 7, 7, 2)]
SAMPLING = Sampling(max_new_tokens=7, temperature=1.3, top_k=11, top_p=0.97)


def network(name: str = "llama") -> nn.Module:
    return prepare(random_model(CONFIGS[name]()))


def assert_same(got: Sequence[Sequence[Completion]], expected: Sequence[Sequence[Completion]]) -> None:
    assert [[(c.tokens, c.stop) for c in g] for g in got] == [[(c.tokens, c.stop) for c in g] for g in expected]
    for a, b in zip(chain(*got), chain(*expected), strict=True):
        assert a.logprobs == pytest.approx(b.logprobs, abs=1e-6)
        assert (type(a.tokens), type(a.logprobs)) == (Ints, Doubles)


@pytest.mark.parametrize("name", ["llama", "gemma2", "mistral", "gpt2", "deepseek_v3", "mamba"])
def test_samples_are_the_same_whatever_the_company(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, ends = network(name), (END, 5)
    expected = generate(model, PROMPTS, 3, SAMPLING, end=ends)
    stops = {c.stop for group in expected for c in group}
    assert stops == {"end", "length"}
    for capacity in (1, 4, 10):
        assert_same(generate(model, PROMPTS, 3, SAMPLING, end=ends, capacity=capacity), expected)
    order = [6, 1, 0, 3, 4, 5, 2]  # the two equal prompts, 1 and 4, keep their order, as their samples are numbered on
    permuted = generate(model, [PROMPTS[i] for i in order], 3, SAMPLING, end=ends)
    assert_same(permuted, [expected[i] for i in order])
    assert_same(generate(model, PROMPTS[2:3], 3, SAMPLING, end=ends), expected[2:3])
    monkeypatch.setattr(module, "decoder", Recompute)
    assert_same(generate(model, PROMPTS, 3, SAMPLING, end=ends), expected)


def test_under_longrope_too_samples_are_the_same_whatever_the_company() -> None:
    scaled = {"short_factor": [1.0, 1.0], "long_factor": [1.0, 3.0], "original_max_position_embeddings": 12}
    rope = {"rope_type": "longrope", "rope_theta": 100.0, **scaled}
    config = LlamaConfig(**SIZES, vocab_size=VOCABULARY, max_position_embeddings=64, rope_parameters=rope)
    model = prepare(random_model(config))
    lengths = (4, 20, 10, 3, 11, 16)  # with 7 tokens more, two stay within 12, two are beyond, and two cross it
    prompts = [tuple((5 * i + k) % VOCABULARY for k in range(length)) for i, length in enumerate(lengths)]
    assert _batches(model, prompts, 7) == [[0, 3], [1, 5], [2], [4]]
    expected = [generate(model, [prompt], 2, SAMPLING, end=END)[0] for prompt in prompts]
    assert_same(generate(model, prompts, 2, SAMPLING, end=END), expected)
    mixture = Mixture(network(), model, 0.5)
    assert _batches(mixture, prompts, 7) == _batches(model, prompts, 7) and _batches(network(), prompts, 7) == [
        [0, 1, 2, 3, 4, 5]
    ]


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(max_new_tokens=7),
        Sampling(max_new_tokens=7, temperature=0.6),
        Sampling(max_new_tokens=7, temperature=1.5, top_k=4),
        Sampling(max_new_tokens=7, top_p=0.6),
        SAMPLING,
    ],
)
def test_sampled_log_probabilities_equal_scored_ones_under_the_same_truncation(sampling: Sampling) -> None:
    model = network("gemma2")
    completions = generate(model, PROMPTS, 4, sampling, end=END)
    trees = [
        Tree(prompt, tuple(Branch(c.tokens, logprobs=c.logprobs) for c in group))
        for prompt, group in zip(PROMPTS, completions, strict=True)
    ]
    packed = Trees.of(trees)
    with torch.no_grad():
        scored, _ = log_probabilities(model, packed, sampling.temperature, top_k=sampling.top_k, top_p=sampling.top_p)
    torch.testing.assert_close(scored, packed.logprobs, rtol=0, atol=1e-6)


def test_in_bfloat16_too_sampled_log_probabilities_are_near_scored_ones() -> None:
    # Of logits that reach 3, bfloat16 keeps all but 3 * 2^-8; sampling and scoring round in different places.
    model = prepare(random_model(CONFIGS["llama"](), dtype=torch.float32))
    with torch.no_grad(), autocast(torch.bfloat16):
        [completions] = generate(model, PROMPTS[:1], 20, Sampling(max_new_tokens=7), end=END)
        packed = Trees.of([Tree(PROMPTS[0], tuple(Branch(c.tokens, logprobs=c.logprobs) for c in completions))])
        scored, _ = log_probabilities(model, packed)
    torch.testing.assert_close(scored.double(), packed.logprobs, rtol=0, atol=0.05)


def test_the_end_token_stops_and_nothing_else_does() -> None:
    for group in generate(network(), PROMPTS, 5, SAMPLING, end=END):
        for c in group:
            assert END not in c.tokens[:-1]
            assert c.stop == ("end" if c.tokens[-1] == END else "length")
            assert c.stop == "end" or len(c.tokens) == SAMPLING.max_new_tokens
    for group in generate(network(), PROMPTS, 5, SAMPLING, end=[END, 5]):
        for c in group:
            assert not {END, 5} & set(c.tokens[:-1])
            assert c.stop == ("end" if c.tokens[-1] in (END, 5) else "length")


def test_a_repeated_prompt_gets_new_samples() -> None:
    four = generate(network(), [(3, 1)], 4, SAMPLING, end=END)[0]
    twice = generate(network(), [(3, 1), (3, 1)], 2, SAMPLING, end=END)
    assert [c.tokens for c in twice[0] + twice[1]] == [c.tokens for c in four]
    assert len({c.tokens for c in four}) == 4


def test_temperature_zero_takes_the_most_likely_token_each_time() -> None:
    model = network()
    [[greedy, again]] = generate(model, [(3, 1, 4)], 2, Sampling(max_new_tokens=5, temperature=0), end=VOCABULARY)
    tokens = [3, 1, 4]
    for _ in range(5):
        tokens.append(int(model(input_ids=torch.tensor([tokens])).logits[0, -1].argmax()))
    assert greedy.tokens == again.tokens == tuple(tokens[3:])
    assert greedy.logprobs == (0.0,) * 5 and greedy.stop == "length"


def test_new_weights_are_sampled_from_at_once() -> None:
    model = network()
    generate(model, PROMPTS, 2, SAMPLING, end=END)
    randomize(model, seed=2)
    new = prepare(random_model(CONFIGS["llama"](), seed=2))
    assert_same(generate(model, PROMPTS, 2, SAMPLING, end=END), generate(new, PROMPTS, 2, SAMPLING, end=END))


@pytest.mark.parametrize(
    "sampling",
    [Sampling(max_new_tokens=2), Sampling(max_new_tokens=2, temperature=1.7), Sampling(max_new_tokens=2, top_p=0.75)],
)
def test_frequencies_are_the_exact_probabilities(sampling: Sampling) -> None:
    # Pearson's chi-square over the 7 sequences of the world has at most 6 degrees of freedom: above 22.5 once in 1,000.
    world, n = Enumerable(vocabulary=3, length=2), 20_000
    model = prepare(world.new_model(seed=4))
    [samples] = generate(model, [world.prompt], n, sampling, end=WORLD_END, capacity=n)
    counts = torch.zeros(len(world.sequences), dtype=torch.float64)
    for sample in samples:
        counts[world.sequences.index(sample.tokens)] += 1
    trees = Trees.of([Tree(world.prompt, tuple(map(Branch, world.sequences)))])
    with torch.no_grad():
        logp, _ = log_probabilities(model, trees, sampling.temperature, top_k=sampling.top_k, top_p=sampling.top_p)
    p = segment_sum(logp, trees.owner, trees.branches).exp()
    assert float(p.sum()) == pytest.approx(1, abs=1e-6)
    possible = p > 0
    assert counts[~possible].sum() == 0
    assert float(((counts - n * p) ** 2 / (n * p))[possible].sum()) < 22.5
    assert exp(samples[0].logprobs[0]) <= 1


def test_progress_counts_every_sample_once() -> None:
    finished: list[int] = []
    generate(network(), PROMPTS, 3, SAMPLING, end=END, capacity=6, progress=finished.append)
    assert sum(finished) == 3 * len(PROMPTS)


@pytest.mark.parametrize(
    ("live", "left", "n", "capacity", "joining"),
    [
        (0, 9, 1, 8, 8),  # an empty batch is filled
        (7, 5, 1, 8, 0),  # room for 1, less than a quarter of 8: later, more at once
        (6, 5, 1, 8, 2),
        (7, 1, 1, 8, 1),  # the last has no more to wait for
        (5, 0, 1, 8, 0),
        (0, 3, 4, 2, 1),  # a prompt's samples are never split, so 4 may exceed room for 2
        (4, 2, 4, 2, 0),
    ],
)
def test_prompts_join_by_hand(live: int, left: int, n: int, capacity: int, joining: int) -> None:
    assert module._joining(live, left, n, capacity) == joining


def test_what_cannot_be_sampled_is_refused() -> None:
    with pytest.raises(ValueError, match="prompt 1 has no tokens"):
        generate(network(), [(1,), ()], 1, SAMPLING, end=END)
    with pytest.raises(ValueError, match="at least one sample, not 0"):
        generate(network(), [(1,)], 0, SAMPLING, end=END)
