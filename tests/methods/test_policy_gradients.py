"""REINFORCE, RLOO and GRPO through the real engine: their mean gradient over all groups is known exactly."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from accord.engine.forward import log_probabilities
from accord.engine.trees import Branch, Tree, Trees
from accord.errors import InputError
from accord.methods import GRPO, REINFORCE, RLOO
from accord.methods.policy_gradient import GradientLearner, PolicyGradient
from accord.methods.rollouts import Rollout
from accord.records import Completion, EncodedPrompt, Prompt, Sample
from examples.worlds.enumerable import END, Enumerable
from tests.engine.tiny import policy_of
from tests.methods.enumerated import ONE_TOKEN, TWO_TOKENS, flat, network_in, same, sequence_logps


def learner_in(world: Enumerable, method: PolicyGradient) -> GradientLearner:
    """A policy whose reference is another random model."""
    policy = policy_of(network_in(world, 1))
    learner = method.learner(policy, lambda samples: torch.zeros(len(samples)))
    assert isinstance(learner, GradientLearner)
    if learner.reference is not None:
        learner.reference.network.load_state_dict(network_in(world, 2).state_dict())
    return learner


def every_group(world: Enumerable, learner: GradientLearner, size: int) -> tuple[Rollout, Tensor]:
    """A rollout that holds every group of so many sequences once, and the probability of each group."""
    with torch.no_grad():
        logps = sequence_logps(learner.policy.network, world)
        tree = Trees.of([Tree(world.prompt, tuple(map(Branch, world.sequences)))])
        tokens, _ = log_probabilities(learner.policy.network, tree)
    split = [tuple(x.tolist()) for x in tokens.split([len(s) for s in world.sequences])]
    groups = list(product(range(len(world.sequences)), repeat=size))
    said = [Completion(s, split[i], "end" if s[-1] == END else "length") for i, s in enumerate(world.sequences)]
    prompt = EncodedPrompt(Prompt(""), world.prompt, 0)
    samples = [Sample(prompt.prompt, "", world.prompt, said[i]) for group in groups for i in group]
    rewards = [float(world.reward[i]) for group in groups for i in group]
    chance = torch.stack([logps[list(group)].sum().exp() for group in groups])
    assert float(chance.sum()) == pytest.approx(1, abs=1e-12)
    prompts = [EncodedPrompt(prompt.prompt, prompt.tokens, row) for row in range(len(groups))]
    return Rollout.of(prompts, samples, rewards), chance


def rollout_of(trees: list[Tree], ended: Sequence[bool]) -> Rollout:
    """A rollout of these trees, whose branches ended by themselves or were cut."""
    branches = [b for tree in trees for b in tree.branches]
    said = [
        Completion(b.tokens, b.logprobs or (0.0,) * len(b.tokens), "end" if end else "length")
        for b, end in zip(branches, ended, strict=True)
    ]
    return Rollout(trees, [Sample(Prompt(""), "", (), completion) for completion in said])


def mean_gradient(world: Enumerable, method: PolicyGradient, size: int) -> tuple[Tensor, GradientLearner]:
    """E over groups of the gradient of the mean loss over the group's samples, descended: the mean step's direction."""
    learner = learner_in(world, method)
    rollout, chance = every_group(world, learner, size)
    batches, _ = learner.experience(0, rollout)
    total = torch.zeros((), dtype=torch.float64)
    for trees in (t for part in batches for t in part):
        values, _ = learner.loss(trees)
        assert method.per == "branch" and len(values) == trees.branches
        rows = torch.tensor([tree.row for tree in trees.trees])[trees.group]
        total = total + (chance[rows] * values).sum() / size
    return flat(torch.autograd.grad(-total, list(learner.policy.network.parameters()))), learner


def exact_gradient(world: Enumerable, learner: GradientLearner, price: float = 0.0, *, forward: bool = True) -> Tensor:
    """The gradient of E[r] - price KL(pi, ref), or where not `forward` of E[r] - price KL(ref, pi)."""
    logp = sequence_logps(learner.policy.network, world)
    value = (logp.exp() * world.reward).sum()
    if price:
        with torch.no_grad():
            ref = sequence_logps(learner.reference.network, world)
        kl = (logp.exp() * (logp - ref)).sum() if forward else (ref.exp() * (ref - logp)).sum()
        value = value - price * kl
    return flat(torch.autograd.grad(value, list(learner.policy.network.parameters())))


def settings(**given: Any) -> dict[str, Any]:
    return {"dtype": "float32", "tokens_per_pass": 64, "max_new_tokens": 2, **given}


@pytest.mark.parametrize("price", [0.0, 0.3])
def test_reinforce_without_a_baseline_is_the_exact_gradient(price: float) -> None:
    gradient, learner = mean_gradient(TWO_TOKENS, REINFORCE(**settings(baseline="none", kl_coefficient=price)), size=1)
    same(gradient, exact_gradient(TWO_TOKENS, learner, price))


def test_a_baseline_of_the_other_samples_leaves_reinforce_unbiased() -> None:
    # Its baseline is over the step, which here is one group at a time.
    method = REINFORCE(**settings(group_size=2, kl_coefficient=0.3))
    learner = learner_in(TWO_TOKENS, method)
    rollout, chance = every_group(TWO_TOKENS, learner, 2)
    total = torch.zeros((), dtype=torch.float64)
    for tree, probability in zip(rollout.trees, chance, strict=True):
        alone = Rollout([tree], rollout.samples[:2])
        [[trees]], _ = learner.experience(0, alone)
        total = total + probability * learner.loss(trees)[0].mean()
    gradient = flat(torch.autograd.grad(-total, list(learner.policy.network.parameters())))
    same(gradient, exact_gradient(TWO_TOKENS, learner, 0.3))


@pytest.mark.parametrize(("size", "price"), [(2, 0.0), (2, 0.3), (3, 0.05)])
def test_rloo_is_the_exact_gradient(size: int, price: float) -> None:
    gradient, learner = mean_gradient(TWO_TOKENS, RLOO(**settings(group_size=size, kl_coefficient=price)), size)
    same(gradient, exact_gradient(TWO_TOKENS, learner, price))


@pytest.mark.parametrize("size", [2, 3])
def test_dr_grpo_is_a_share_of_the_exact_gradient(size: int) -> None:
    # A group's own mean holds the sample itself: (G - 1) / G of the gradient, and 1 / max_new_tokens by its constant.
    method = GRPO(**settings(group_size=size, kl_coefficient=0.0, scale=False, normalize="constant"))
    gradient, learner = mean_gradient(TWO_TOKENS, method, size)
    same(gradient, exact_gradient(TWO_TOKENS, learner) * (size - 1) / size / 2)


@pytest.mark.parametrize("size", [2, 3])
def test_dividing_by_the_deviation_turns_the_gradient(size: int) -> None:
    method = GRPO(**settings(group_size=size, kl_coefficient=0.0, normalize="constant"))
    gradient, learner = mean_gradient(TWO_TOKENS, method, size)
    exact = exact_gradient(TWO_TOKENS, learner)
    cosine = float(gradient @ exact / gradient.norm() / exact.norm())
    assert 0.8 < cosine < 0.999  # no multiple of it, as Dr. GRPO's is


def test_the_divergence_in_the_reward_is_the_regularized_gradient() -> None:
    method = GRPO(**settings(group_size=2, kl_coefficient=0.3, kl="reward", scale=False, normalize="constant"))
    gradient, learner = mean_gradient(TWO_TOKENS, method, 2)
    same(gradient, exact_gradient(TWO_TOKENS, learner, 0.3) / 2 / 2)


@pytest.mark.parametrize(("kind", "forward"), [("k2", True), ("k3", False), ("k3-corrected", True)])
def test_what_the_divergence_in_the_loss_pulls_toward(kind: str, forward: bool) -> None:
    # Of completions of one token: k2 and rho k3 have the gradient of KL(pi, ref), k3 that of KL(ref, pi).
    common = settings(group_size=2, scale=False, normalize="constant", max_new_tokens=1)
    gradient, learner = mean_gradient(ONE_TOKEN, GRPO(**common, kl_coefficient=0.3, kl=kind), 2)
    plain, _ = mean_gradient(ONE_TOKEN, GRPO(**common, kl_coefficient=0.0), 2)
    pull = exact_gradient(ONE_TOKEN, learner, 0.3, forward=forward) - exact_gradient(ONE_TOKEN, learner)
    same(gradient - plain, pull)


def test_normalizations_of_grpo() -> None:
    # Samples of 1 and 3 tokens with advantages +1 and -1 (unscaled: rewards 2 and 0), on policy: a token's loss is -A.
    two, four = Branch((END,), None, (-1.0,), 2.0), Branch((1, 2, END), None, (-1.0, -1.0, -1.0), 0.0)
    rollout = rollout_of([Tree(TWO_TOKENS.prompt, (two, four))], [True, True])
    expected = {"token": [-1.0, 1.0, 1.0, 1.0], "sequence": [-1.0, 1.0], "constant": [-0.5, 1.5]}
    for how, values in expected.items():
        method = GRPO(**settings(group_size=2, kl_coefficient=0.0, scale=False, normalize=how))
        learner = learner_in(Enumerable(3, 3), method)
        [[trees]], _ = learner.experience(0, rollout)
        assert learner.loss(trees)[0].tolist() == pytest.approx(values, abs=1e-12)


def test_truncated_samples_that_are_masked_leave_the_denominator() -> None:
    # Of the same two samples the second was cut: its tokens are not trained on, its reward still makes the baseline.
    kept, cut = Branch((END,), None, (-1.0,), 2.0), Branch((1, 2), None, (-1.0, -1.0), 0.0)
    rollout = rollout_of([Tree(TWO_TOKENS.prompt, (kept, cut))], [True, False])
    for how in ("token", "sequence", "constant"):
        method = GRPO(**settings(group_size=2, kl_coefficient=0.3, scale=False, normalize=how, mask_truncated=True))
        learner = learner_in(TWO_TOKENS, method)
        learner.reference.network.load_state_dict(learner.policy.network.state_dict())  # type: ignore[union-attr]
        [batch], _ = learner.experience(0, rollout)
        [term] = learner.terms(batch, 0, 0)
        assert term.count == 1
        assert learner.loss(batch[0])[0].tolist() == pytest.approx([-0.5 if how == "constant" else -1.0], abs=1e-12)


def test_where_every_sample_is_masked_nothing_is_learned() -> None:
    cut = Branch((1, 2), None, (-1.0, -1.0), 0.0)
    rollout = rollout_of([Tree(TWO_TOKENS.prompt, (cut, cut))], [False, False])
    learner = learner_in(TWO_TOKENS, RLOO(**settings(group_size=2, mask_truncated=True)))
    nothing: Any = None
    assert learner.learn(0, rollout, nothing) == {"flat_groups": 1.0, "kl": 0.0}


@pytest.mark.parametrize("method", [RLOO, GRPO])
def test_identical_rewards_teach_nothing(method: Any) -> None:
    third = 1 / 3  # three times of which is not exactly the mean's denominator times the mean
    branches = tuple(Branch((token, END), None, (-1.0, -1.0), third) for token in (1, 2, 1))
    rollout = rollout_of([Tree(TWO_TOKENS.prompt, branches)], [True] * 3)
    learner = learner_in(TWO_TOKENS, method(**settings(group_size=3, kl_coefficient=0.0)))
    [[trees]], row = learner.experience(0, rollout)
    assert set(trees.advantage.tolist()) == {0.0}
    assert row == {"flat_groups": 1.0}


@pytest.mark.parametrize("method", [RLOO, GRPO])
def test_a_group_of_one_is_refused(method: Any) -> None:
    with pytest.raises(InputError, match="group_size must be at least 2, as (rloo|grpo) compares the samples"):
        method(group_size=1)


@pytest.mark.parametrize("cap", [1e9, 1.25])
def test_importance_weights_are_those_of_another_sampler(cap: float) -> None:
    """By samples of mu, one token each: sum over y of mu min(c, pi / mu) r grad log pi, exact without c."""
    world = ONE_TOKEN
    learner = learner_in(world, REINFORCE(**settings(baseline="none", kl_coefficient=0.0, importance_cap=cap)))
    mu = sequence_logps(network_in(world, 3), world).detach()
    said = [Completion(s, (m,), "length") for s, m in zip(world.sequences, mu.tolist(), strict=True)]
    samples = [Sample(Prompt(""), "", world.prompt, completion) for completion in said]
    prompts = [EncodedPrompt(Prompt(""), world.prompt, row) for row in range(len(said))]
    batches, _ = learner.experience(0, Rollout.of(prompts, samples, world.reward.tolist()))
    total, weights = torch.zeros((), dtype=torch.float64), dict[int, float]()
    for trees in (t for part in batches for t in part):
        values, measures = learner.loss(trees)
        rows = [tree.row for tree in trees.trees]
        total = total + (mu.exp()[rows] * values).sum()
        weights |= zip(rows, measures["importance_weight"].tolist(), strict=True)
    found = flat(torch.autograd.grad(-total, list(learner.policy.network.parameters())))
    logp = sequence_logps(learner.policy.network, world)
    ratio = (logp.detach() - mu).exp()
    assert ratio.max() > 1.3 and ratio.min() < 1
    assert [weights[row] for row in range(len(said))] == pytest.approx(ratio.clamp(max=cap).tolist(), rel=1e-12)
    value = (mu.exp() * ratio.clamp(max=cap) * world.reward * logp).sum()
    same(found, flat(torch.autograd.grad(value, list(learner.policy.network.parameters()))))
    if cap > 10:
        same(found, exact_gradient(world, learner))
