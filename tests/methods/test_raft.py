"""RAFT: what it keeps as a distribution, and its mean gradient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from accord.engine.trees import Branch, Tree, Trees
from accord.errors import InputError
from accord.methods import RAFT
from accord.methods.rollouts import Rollout
from accord.objectives.selection import best_of_n
from accord.records import EncodedPrompt, Prompt, Sample
from examples.worlds.enumerable import END
from tests.data.conftest import word_tokenizer
from tests.engine.tiny import CONFIGS, policy_of, random_model
from tests.methods.enumerated import (
    ONE_TOKEN,
    TWO_TOKENS,
    chances,
    every_group,
    gradient,
    network_in,
    prompts_in,
    same,
    sequence_logps,
    spoken,
)
from tests.methods.games import COMMON
from tests.methods.learners import Counting

REWARDS = torch.tensor([0.0, 1.0, 2.0, 1.0, 3.0, 3.0, -1.0], dtype=torch.float64)
"""Of the sequences (0) (1 0) (2 0) (1 1) (1 2) (2 1) (2 2), two pairs of which tie."""


def kept(method: RAFT, chance: Tensor, rewards: Tensor) -> Tensor:
    """How often each sequence is what is learned from, (S,), where samples are drawn with these chances."""
    places = range(len(TWO_TOKENS.sequences))
    branches = [Branch(s, reward=r) for s, r in zip(TWO_TOKENS.sequences, rewards.tolist(), strict=True)]
    share = torch.zeros(len(places), dtype=torch.float64)
    for group in product(places, repeat=method.group_size):
        best = method.best(Tree(TWO_TOKENS.prompt, tuple(branches[i] for i in group)), (END,))
        assert len(best) <= 1
        for branch in best:
            share[branches.index(branch)] += chance[list(group)].prod()
    return share


def test_rounds_of_raft_are_best_of_k_to_the_power_of_rounds() -> None:
    p = chances(spoken(TWO_TOKENS, network_in(TWO_TOKENS, 1)))
    once = kept(RAFT(group_size=3, keep_truncated=True, **COMMON), p, REWARDS)
    torch.testing.assert_close(once, best_of_n(p, REWARDS, 3), rtol=0, atol=1e-12)
    twice = kept(RAFT(group_size=2, keep_truncated=True, **COMMON), once, REWARDS)
    torch.testing.assert_close(twice, best_of_n(p, REWARDS, 6), rtol=0, atol=1e-12)


@pytest.mark.parametrize("truncated", [False, True])
def test_a_threshold_is_the_conditional_distribution(truncated: bool) -> None:
    # A verifier says 1 or 0. The first good sample is kept: as likely as under the policy, given that it is good. Of
    # groups of 3, 1 - P(bad)^3 have one. Samples that were cut are not good unless asked for.
    p, verified = chances(spoken(TWO_TOKENS, network_in(TWO_TOKENS, 1))), (REWARDS >= 1).double()
    ended = torch.tensor([s[-1] == END or truncated for s in TWO_TOKENS.sequences])
    share = kept(RAFT(group_size=3, at_least=1.0, keep_truncated=truncated, **COMMON), p, verified)
    good = p * verified * ended
    torch.testing.assert_close(share, good / good.sum() * (1 - (1 - good.sum()) ** 3), rtol=0, atol=1e-12)


def test_which_samples_raft_learns_from() -> None:
    a, b, c, d = (Branch(t, reward=r) for t, r in (((1, 0), 2.0), ((2, 0), 2.0), ((1, 1, 0), 1.0), ((2, 1), 3.0)))
    tree = Tree((1, 2), (b, a, b, c, a, d))

    def best(**given: Any) -> list[Branch]:
        return RAFT(**{"group_size": 6, **given}).best(tree, (END,))

    assert best() == [b]  # the first of the two best that ended
    assert best(keep=2) == [b, a]
    assert best(keep=6) == [b, a, c]  # equal samples once
    assert best(keep=6, at_least=2.0) == [b, a]
    assert best(keep=2, keep_truncated=True) == [d, b]
    assert best(at_least=2.5) == []
    with pytest.raises(InputError, match=r"keep must lie between 1 and group_size \(2\), not 3"):
        RAFT(group_size=2, keep=3)


def test_rafts_mean_gradient_imitates_the_best_of_n() -> None:
    # Over all pairs of samples of one token: that of - sum over y of q(y) log pi(y), q the best of 2.
    method = RAFT(group_size=2, max_new_tokens=1, keep_truncated=True, **COMMON)
    policy = policy_of(network_in(ONE_TOKEN, 1))
    learner: Any = method.learner(policy, lambda samples: torch.zeros(len(samples)))
    samples, chance = every_group(spoken(ONE_TOKEN, policy.network), 2)
    scores = [float(ONE_TOKEN.reward[s.completion.tokens[0]]) for s in samples]  # the sequences are (0) (1) (2) (3)
    rollout = Rollout.of(prompts_in(ONE_TOKEN, len(chance)), samples, scores)
    trees = Trees.of([replace(tree, branches=tuple(method.best(tree, (END,)))) for tree in rollout.trees])
    values, _ = learner.objective(trees)
    logp = sequence_logps(policy.network, ONE_TOKEN)
    q = best_of_n(logp.detach().exp(), ONE_TOKEN.reward, 2)
    same(gradient((chance * values).sum(), policy.network), gradient(-(q * logp).sum(), policy.network))


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_a_step_of_raft_is_the_mean_over_the_tokens_it_keeps(temperature: float) -> None:
    policy = policy_of(random_model(CONFIGS["gpt2"]()))
    policy.tokenizer = word_tokenizer()
    prompts = [EncodedPrompt(Prompt("hi"), (6,), 0), EncodedPrompt(Prompt("bye"), (11, 9), 1)]
    method = RAFT(group_size=16, keep=2, max_new_tokens=8, temperature=temperature, at_least=1.0, **COMMON)

    def long(samples: Sequence[Sample]) -> Tensor:
        return torch.tensor([float(len(s.completion.tokens)) for s in samples])

    learner, optimizer = method.learner(policy, long), Counting()
    nothing: Any = optimizer
    result = learner.step(0, prompts, nothing)
    whole = [result.samples[:16], result.samples[16:]]
    [[work]], row = optimizer.work, result.numbers
    trees = [tree for pack in work.packs for tree in pack.trees]
    for tree, group in zip(sorted(trees, key=lambda tree: tree.row), whole, strict=True):
        ended = [s.completion.tokens for s in group if s.completion.tokens[-1] in policy.ends]
        assert len(tree.branches[0].tokens) == max(map(len, ended))
        assert all(b.tokens in ended for b in tree.branches)
    branches = [b for tree in trees for b in tree.branches]
    assert row["kept"] == len(branches) / 32
    assert row["kept_reward"] == sum(len(b.tokens) for b in branches) / len(branches)
    loss = sum(work.objective(pack)[0].sum() for pack in work.packs) / work.count
    logps = []
    for tree in trees:
        for branch in tree.branches:
            logits = policy.network(input_ids=torch.tensor([tree.prompt + branch.tokens])).logits[0] / temperature
            places = torch.arange(len(branch.tokens)) + len(tree.prompt) - 1
            logps.append(logits.log_softmax(-1)[places, list(branch.tokens)])
    plain = -torch.cat(logps).mean()
    assert work.count == sum(len(b.tokens) for b in branches)
    torch.testing.assert_close(loss, plain, rtol=0, atol=1e-10)
    same(gradient(loss, policy.network), gradient(plain, policy.network))
