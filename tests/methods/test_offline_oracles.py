"""Offline methods on a world small enough to enumerate: exact minima and gradients, through the real engine."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, permutations
from math import log
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from accord.engine.classifiers import Scorer
from accord.engine.forward import hidden_states, log_probabilities
from accord.engine.models import Policy
from accord.engine.precision import autocast
from accord.engine.trees import Branch, Tree, Trees
from accord.errors import InputError
from accord.methods import DPO, SFT, RewardModel
from accord.objectives import policy as policy_gradient
from accord.objectives.advantages import leave_one_out
from accord.objectives.preference import bradley_terry
from accord.objectives.segments import segment_sum
from examples.worlds.enumerable import Enumerable, bradley_terry_preferences, distribution, kl_regularized_optimum
from tests.engine.tiny import policy_of
from tests.methods.enumerated import mean_of, minimize
from tests.worlds.sequences import sequence_logps

WORLD = Enumerable(vocabulary=3, length=2)  # sequences (0) (1 0) (2 0) (1 1) (1 2) (2 1) (2 2)
ALL = Trees.of([Tree(WORLD.prompt, tuple(map(Branch, WORLD.sequences)))])


def model(seed: int = 1) -> Policy:
    return policy_of(WORLD.new_model(seed))


def sequence_log_probabilities(network: nn.Module) -> Tensor:
    """log pi of every sequence of the world, (S,), through the engine."""
    return segment_sum(log_probabilities(network, ALL)[0], ALL.owner, ALL.branches)


def pairs(better_and_worse: Sequence[tuple[int, int]]) -> Trees:
    """A tree with the two sequences of every pair, the preferred first."""
    return Trees.of(
        [
            Tree(WORLD.prompt, (Branch(WORLD.sequences[i]), Branch(WORLD.sequences[j])), ranks=(0, 1))
            for i, j in better_and_worse
        ]
    )


def test_sft_reaches_the_empirical_conditional_frequencies() -> None:
    # 16 demonstrations, so many of each sequence. First tokens: 0 in 4, 1 in 2+3+1 = 6, 2 in 2+1+3 = 6. After 1 come
    # 0, 1, 2 in 2, 3, 1 of 6; after 2 in 2, 1, 3 of 6.
    counts = dict(zip(WORLD.sequences, (4, 2, 2, 3, 1, 1, 3), strict=True))
    trees = Trees.of([Tree(WORLD.prompt, (Branch(s),)) for s, count in counts.items() for _ in range(count)])
    policy = model()
    minimize(policy.network, mean_of(SFT().objective(policy), trees))
    with torch.no_grad():
        learned = distribution(sequence_log_probabilities(policy.network))
        first = policy.network(input_ids=torch.tensor([WORLD.prompt])).logits[0, -1].softmax(-1)
        second = [
            policy.network(input_ids=torch.tensor([[*WORLD.prompt, t]])).logits[0, -1].softmax(-1) for t in (1, 2)
        ]
    assert (learned * 16).tolist() == pytest.approx(list(counts.values()), abs=1e-3)
    assert first.tolist() == pytest.approx([4 / 16, 6 / 16, 6 / 16], abs=1e-4)
    assert second[0].tolist() == pytest.approx([2 / 6, 3 / 6, 1 / 6], abs=1e-4)
    assert second[1].tolist() == pytest.approx([2 / 6, 1 / 6, 3 / 6], abs=1e-4)


def scorer() -> Scorer:
    """A reward model on the world's model whose scores differ from 0."""
    made = Scorer.on(model())
    made.network.score.weight.data.mul_(5)
    return made


def scores_of(reward_model: Scorer, sequences: Sequence[int]) -> Tensor:
    trees = Trees.of([Tree(WORLD.prompt, tuple(Branch(WORLD.sequences[i]) for i in sequences))])
    with torch.no_grad():
        return reward_model.network.score(hidden_states(reward_model.network, trees)[trees.last]).squeeze(1)


def test_bradley_terry_is_logistic_regression_on_the_last_hidden_state() -> None:
    # d/dw -log sigmoid(w . (h_better - h_worse)) = -sigmoid(score_worse - score_better) (h_better - h_worse)
    reward_model, pair_list = scorer(), [(0, 3), (5, 1), (4, 6)]
    trees = pairs(pair_list)
    RewardModel().objective(reward_model)(trees)[0].sum().backward()
    hidden = hidden_states(reward_model.network, trees).detach()[trees.last]
    expected = torch.zeros(1, hidden.shape[1], dtype=torch.float64)
    for better, worse in zip(hidden[0::2], hidden[1::2], strict=True):
        difference = better - worse
        margin = (reward_model.network.score.weight.detach() @ difference).item()
        expected -= torch.sigmoid(torch.tensor(-margin)) * difference
    torch.testing.assert_close(reward_model.network.score.weight.grad, expected, rtol=0, atol=1e-6)


def test_bradley_terry_reaches_the_log_odds_of_the_labels() -> None:
    # Of 4 comparisons 1 beats 4 in 3, and 4 beats 6 in 3: gaps of log 3 each, and log 9 between 1 and 6. The least loss
    # is the entropy of (3/4, 1/4).
    reward_model = scorer()
    trees = pairs([(1, 4)] * 3 + [(4, 1)] + [(4, 6)] * 3 + [(6, 4)])
    least = minimize(reward_model.network, mean_of(RewardModel().objective(reward_model), trees))
    assert least == pytest.approx(0.75 * log(4 / 3) + 0.25 * log(4), abs=1e-8)
    first, second, third = scores_of(reward_model, [1, 4, 6]).tolist()
    assert (first - second, second - third, first - third) == pytest.approx((log(3), log(3), log(9)), abs=1e-3)


def test_centered_rewards_have_the_same_gap_and_a_zero() -> None:
    # 1 beats 4 in 3 of 4 comparisons: a gap of log 3, and where the sum of the two is drawn to 0, half of it each.
    reward_model, trees = scorer(), pairs([(1, 4)] * 3 + [(4, 1)])
    minimize(reward_model.network, mean_of(RewardModel(center_coefficient=0.01).objective(reward_model), trees))
    assert scores_of(reward_model, [1, 4]).tolist() == pytest.approx([log(3) / 2, -log(3) / 2], abs=2e-3)
    with pytest.raises(InputError, match="center_coefficient must be 0 or more, not -1"):
        RewardModel(center_coefficient=-1.0)


def test_a_cycle_of_three_leaves_all_scores_equal() -> None:
    # 1 beats 4 beats 6 beats 1: gaps that sum to 0 cost least, log 2 each, where all are 0.
    reward_model = scorer()
    least = minimize(
        reward_model.network, mean_of(RewardModel().objective(reward_model), pairs([(1, 4), (4, 6), (6, 1)]))
    )
    assert least == pytest.approx(log(2), abs=1e-9)
    scores = scores_of(reward_model, [1, 4, 6])
    assert (scores - scores.mean()).tolist() == pytest.approx([0, 0, 0], abs=1e-4)


def test_a_ranking_of_four_counts_as_one_element_the_mean_of_its_six_pairs() -> None:
    reward_model, order = scorer(), [5, 0, 3, 1]
    objective = RewardModel().objective(reward_model)
    # The branches lie in another order than the ranks: sequence order[k] has rank k.
    branches, ranks = zip(*((Branch(WORLD.sequences[order[k]]), k) for k in (2, 0, 3, 1)), strict=True)
    ranking = Tree(WORLD.prompt, branches, ranks=ranks)
    values, measures = objective(Trees.of([ranking]))
    in_pairs, _ = objective(pairs(list(combinations(order, 2))))
    assert (len(values), len(in_pairs), len(measures["accuracy"])) == (1, 6, 6)
    weights = list(reward_model.network.parameters())
    torch.testing.assert_close(values[0], in_pairs.mean(), rtol=0, atol=1e-7)
    got, wanted = (torch.autograd.grad(x, weights, allow_unused=True) for x in (values[0], in_pairs.mean()))
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)
    # Beside a pair there are two elements, whatever their sizes; ties enter no pair: of ranks 0 0 1 two pairs are left.
    tied = Tree(WORLD.prompt, tuple(Branch(WORLD.sequences[i]) for i in (2, 4, 6)), ranks=(0, 0, 1))
    values, measures = objective(Trees.of([ranking, tied]))
    assert (len(values), len(measures["accuracy"])) == (2, 8)
    a, b, c = scores_of(reward_model, [2, 4, 6])
    expected = bradley_terry(torch.stack([a, b]), torch.stack([c, c])).mean()
    torch.testing.assert_close(values[1], expected, rtol=0, atol=1e-7)


def test_dpo_reaches_the_optimum_of_kl_regularized_reward() -> None:
    # Every ordered pair, weighted by the exact probability that the labeler prefers its first: the minimum over all
    # policies is pi_ref exp(r / beta) / Z, where implicit rewards differ as the true ones do.
    beta, policy = 0.7, model(seed=2)
    reference = sequence_log_probabilities(policy.network).detach()
    ordered = list(permutations(range(len(WORLD.sequences)), 2))
    preferred = bradley_terry_preferences(WORLD.reward)[tuple(zip(*ordered, strict=True))]
    trees, objective = pairs(ordered), DPO(beta=beta, dtype="float32").objective(policy)
    least = minimize(policy.network, lambda: (preferred * objective(trees)[0]).sum() / len(ordered) * 2)
    entropy = torch.special.entr(preferred).sum() / len(ordered) * 2  # both orders of a pair hold its two terms
    assert least == pytest.approx(float(entropy), abs=1e-7)
    with torch.no_grad():
        learned = sequence_log_probabilities(policy.network)
        measures = objective(trees)[1]
    optimum = kl_regularized_optimum(reference, WORLD.reward, beta)
    torch.testing.assert_close(distribution(learned), optimum, rtol=0, atol=1e-3)
    true = torch.stack([WORLD.reward[i] - WORLD.reward[j] for i, j in ordered])
    torch.testing.assert_close(measures["margin"], true, rtol=0, atol=1e-2)
    assert measures["accuracy"].mean() == 0.5  # each pair is there both ways round


@pytest.mark.parametrize(("weights", "dtype"), [("float64", "float32"), ("float32", "bfloat16")])
def test_dpo_starts_from_no_margin(weights: str, dtype: Any) -> None:
    # The policy is its own reference: every loss is log 2 and every implicit reward exactly 0, in bfloat16 as well,
    # where the reference holds its weights in that type.
    policy = policy_of(WORLD.new_model(1, getattr(torch, weights)))
    objective = DPO(beta=0.3, dtype=dtype).objective(policy)
    with autocast(getattr(torch, dtype)):
        values, measures = objective(pairs([(0, 3), (5, 1)]))
    assert values.tolist() == pytest.approx([log(2)] * 2, abs=1e-6)
    assert measures["chosen_reward"].tolist() == measures["rejected_reward"].tolist() == [0, 0]


@pytest.mark.parametrize("world", [Enumerable(3, 2), Enumerable(4, 3)])
def test_reinforce_summed_over_all_sequences_is_the_exact_gradient(world: Enumerable) -> None:
    # E over y ~ pi of grad(-(R - b) log pi(y)) = -grad E[R], whatever the constant b. The left side through the engine,
    # all sequences as branches of one prompt; the right by a plain forward of each sequence.
    network = policy_of(world.new_model(seed=3)).network
    plain = world.new_model(seed=3)
    trees = Trees.of([Tree(world.prompt, tuple(map(Branch, world.sequences)))])
    probability = distribution(sequence_logps(world, plain))
    exact = torch.autograd.grad(-(probability * world.reward).sum(), list(plain.parameters()))
    logp, _ = log_probabilities(network, trees)
    for baseline in (0.0, 2.5):
        loss = policy_gradient.reinforce(logp, (world.reward - baseline)[trees.owner])
        expected = (probability.detach()[trees.owner] * loss).sum()
        got = torch.autograd.grad(expected, list(network.parameters()), retain_graph=True)
        for a, b in zip(got, exact, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


def test_leave_one_out_summed_over_all_pairs_of_samples_is_the_exact_gradient() -> None:
    # Every (y_1, y_2) with probability pi(y_1) pi(y_2); the loss is the mean of the two samples' losses.
    network = policy_of(WORLD.new_model(seed=3)).network
    logps = sequence_log_probabilities(network)
    p = distribution(logps)
    exact = torch.autograd.grad(-(p * WORLD.reward).sum(), list(network.parameters()), retain_graph=True)
    tuples = torch.cartesian_prod(*[torch.arange(len(p))] * 2)
    advantage = leave_one_out(WORLD.reward[tuples])
    weight = p.detach()[tuples].prod(1)
    losses = policy_gradient.reinforce(logps[tuples].flatten(), advantage.flatten()).view(-1, 2).mean(1)
    got = torch.autograd.grad((weight * losses).sum(), list(network.parameters()))
    for a, b in zip(got, exact, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)
