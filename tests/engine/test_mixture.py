"""The mixture of two models: samples and log-probabilities against the exact geometric mean of their distributions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from accord.engine.decoding import Mixture
from accord.engine.forward import prepare
from accord.engine.generate import generate
from accord.engine.sampling import Sampling
from accord.errors import InputError
from examples.worlds.enumerable import END as WORLD_END
from examples.worlds.enumerable import Enumerable, distribution
from tests.engine.tiny import CONFIGS, END, random_model

PROMPTS = [(3, 1, 4, 1, 5), (2,), (7, 1, 8, 2, 8, 1, 8), (3, 1)]
SAMPLINGS = [
    Sampling(max_new_tokens=3),
    Sampling(max_new_tokens=3, temperature=0.6),
    Sampling(max_new_tokens=3, temperature=1.7, top_k=2),
]


def next_token(model: nn.Module, tokens: tuple[int, ...]) -> Tensor:
    """The model's distribution of the token after these, (V,), by a plain forward."""
    return torch.softmax(model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0, -1], -1)


def exact(mixture: Mixture, prompt: tuple[int, ...], completion: tuple[int, ...], sampling: Sampling) -> list[float]:
    """log p of each token, from pi^(1 - w) ref^w: its powers of 1 / temperature, the k largest, normalized."""
    logps = []
    for j, token in enumerate(completion):
        pi, ref = (next_token(m, prompt + completion[:j]) for m in (mixture.policy, mixture.reference))
        p = (pi ** (1 - mixture.weight) * ref**mixture.weight) ** (1 / sampling.temperature)
        if sampling.top_k:
            p = torch.where(p >= p.topk(sampling.top_k).values[-1], p, 0)
        logps.append(float((p[token] / p.sum()).log()))
    return logps


def worlds_mixture(world: Enumerable, weight: float = 0.375) -> Mixture:
    policy, reference = (prepare(world.new_model(seed)) for seed in (4, 5))
    return Mixture(policy, reference, weight)


@torch.no_grad()
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_log_probabilities_are_the_exact_mixture(sampling: Sampling) -> None:
    world = Enumerable(vocabulary=4, length=3)
    mixture = worlds_mixture(world)
    table = {sequence: exact(mixture, world.prompt, sequence, sampling) for sequence in world.sequences}
    # Token by token the mixture is a distribution over all 40 sequences, as it would not be without normalizing each.
    distribution(torch.tensor([sum(logps) for logps in table.values()], dtype=torch.float64))
    [samples] = generate(mixture, [world.prompt], 300, sampling, end=WORLD_END)
    # What has probability .05 stays away from 300 samples once in 5 million.
    assert {sequence for sequence, logps in table.items() if sum(logps) > -3} <= {sample.tokens for sample in samples}
    for sample in samples:
        assert sample.logprobs == pytest.approx(table[sample.tokens], abs=1e-10)


@torch.no_grad()
def test_frequencies_are_the_exact_probabilities() -> None:
    # Pearson's chi-square over the 7 sequences of the world has 6 degrees of freedom: above 22.5 once in 1,000.
    world, n = Enumerable(vocabulary=3, length=2), 20_000
    mixture, sampling = worlds_mixture(world), Sampling(max_new_tokens=2)
    [samples] = generate(mixture, [world.prompt], n, sampling, end=WORLD_END, capacity=n)
    drawn = [sample.tokens for sample in samples]
    chi_square = 0.0
    for sequence in world.sequences:
        expected = n * torch.tensor(exact(mixture, world.prompt, sequence, sampling)).sum().exp().item()
        chi_square += (drawn.count(sequence) - expected) ** 2 / expected
    assert chi_square < 22.5


@torch.no_grad()
@pytest.mark.parametrize("names", [("llama", "mamba"), ("mamba", "llama"), ("llama", "gemma2")])
def test_with_a_cache_and_without_one(names: tuple[str, str]) -> None:
    policy, reference = (prepare(random_model(CONFIGS[name](), seed)) for seed, name in enumerate(names))
    mixture, sampling = Mixture(policy, reference, 0.125), Sampling(max_new_tokens=5, temperature=1.3, top_k=6)
    groups = generate(mixture, PROMPTS, 3, sampling, end=END)
    assert {c.stop for group in groups for c in group} == {"end", "length"}
    for prompt, group in zip(PROMPTS, groups, strict=True):
        for c in group:
            assert c.logprobs == pytest.approx(exact(mixture, prompt, c.tokens, sampling), abs=1e-6)
    alone = generate(mixture, PROMPTS, 3, sampling, end=END, capacity=4)
    assert [[c.tokens for c in group] for group in alone] == [[c.tokens for c in group] for group in groups]


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_at_the_ends_it_is_one_of_its_models(sampling: Sampling) -> None:
    policy, reference = (prepare(random_model(CONFIGS[name]())) for name in ("llama", "mamba"))
    for weight, model in ((0.0, policy), (1.0, reference)):
        mixed = generate(Mixture(policy, reference, weight), PROMPTS, 3, sampling, end=END)
        assert mixed == generate(model, PROMPTS, 3, sampling, end=END)


def test_each_model_reads_each_prompt_once() -> None:
    policy, reference = (prepare(random_model(CONFIGS[name]())) for name in ("llama", "qwen3"))
    read = {policy: 0, reference: 0}

    def counting(model: nn.Module) -> Any:
        def count(trunk: nn.Module, args: Any, kwargs: Any) -> None:
            read[model] += kwargs["input_ids"].numel()

        return count

    for model in read:
        model.base_model.register_forward_pre_hook(counting(model), with_kwargs=True)  # type: ignore[operator, union-attr]
    groups = generate(Mixture(policy, reference, 0.5), PROMPTS, 4, Sampling(max_new_tokens=6), end=END)
    # The prompts, and of every sample all tokens but the last, after which nothing is drawn.
    written = sum(len(c.tokens) - 1 for group in groups for c in group)
    assert list(read.values()) == [sum(map(len, PROMPTS)) + written] * 2


def test_models_that_were_training_go_on_with_it_and_no_others() -> None:
    policy, reference = (prepare(random_model(CONFIGS["llama"](), seed)) for seed in (1, 2))
    mixture = Mixture(policy.train(), reference, 0.5)
    seen = []
    reference.base_model.register_forward_pre_hook(lambda *_: seen.append(policy.training))  # type: ignore[operator, union-attr]
    generate(mixture, PROMPTS, 1, SAMPLINGS[0], end=END)
    assert not any(seen) and seen
    assert all(m.training for m in policy.modules()) and not any(m.training for m in reference.modules())
    assert mixture.training


def test_what_cannot_be_mixed_is_refused() -> None:
    model = prepare(random_model(CONFIGS["llama"]()))
    for weight in (-0.1, 1.1, float("nan")):
        with pytest.raises(InputError, match="share in a mixture must lie in"):
            Mixture(model, model, weight)
    with pytest.raises(ValueError, match="models of 13 and 4 tokens cannot be mixed"):
        Mixture(model, Enumerable().new_model(0), 0.5)
