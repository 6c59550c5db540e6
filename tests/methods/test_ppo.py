"""PPO through the real engine: what its first mini-batch must be, whatever the packing, and where it comes to rest."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from accord.engine.classifiers import Scorer
from accord.engine.config import TrainingConfig
from accord.engine.fit import Optimizer
from accord.engine.forward import log_probabilities
from accord.engine.models import Policy
from accord.engine.precision import autocast
from accord.engine.trees import Branch, Tree, Trees
from accord.errors import InputError, TrainingStopped
from accord.feedback.learned import LearnedReward
from accord.feedback.reward import TextReward
from accord.methods import PPO
from accord.methods.ppo import PPOLearner
from accord.methods.rollouts import Rollout, penalize, sample
from accord.objectives import advantages, kl
from accord.objectives import policy as policy_gradient
from accord.objectives.segments import segment_sum
from accord.records import Demonstration
from examples.worlds.enumerable import Enumerable, distribution, kl_regularized_optimum
from tests.commands.small import write_jsonl
from tests.engine.tiny import CONFIGS, plain_log_probabilities, policy_of, random_model, randomize
from tests.methods.enumerated import minimize
from tests.methods.learners import LENGTH, PROMPTS, Counting, policy_at
from tests.methods.test_policy_gradients import rollout_of


def settings(**given: Any) -> PPO:
    common: dict[str, Any] = {"dtype": "float32", "group_size": 2, "max_new_tokens": 5, "temperature": 0.8}
    return PPO(**{**common, **given})


def rolled(ppo: PPO, policy: Policy | None = None, reward: Any = LENGTH) -> tuple[PPOLearner, Rollout]:
    """A learner and what its policy says to the prompts; the reference is another model than the policy."""
    policy = (policy or policy_at()).in_dtype(ppo.dtype)
    learner = PPOLearner(ppo, policy, reward)
    if learner.reference is not None:
        randomize(learner.reference.network, 5)
    return learner, sample(ppo, policy, PROMPTS, reward, step=0)


def silence(learner: PPOLearner) -> None:
    """Let the value model expect 0 everywhere."""
    learner.value.network.score.weight.data.zero_()


def flat(batches: Sequence[Sequence[Trees]], name: str) -> Tensor:
    """A number of every token of every pack."""
    return torch.cat([getattr(trees, name) for part in batches for trees in part])


def by_row(batches: Sequence[Sequence[Trees]], name: str) -> dict[int, list[float]]:
    """A number of every token, for each prompt."""
    found: dict[int, list[float]] = {tree.row: [] for part in batches for trees in part for tree in trees.trees}
    for trees in (t for part in batches for t in part):
        for branch, value in zip(trees.owner.tolist(), getattr(trees, name).tolist(), strict=True):
            found[trees.trees[int(trees.group[branch])].row].append(value)
    return found


def gradient_of(learner: PPOLearner, rollout: Rollout) -> list[Tensor]:
    """The gradient of one update over the whole rollout: gradient descent of rate 1 subtracts just that."""
    training = TrainingConfig(learning_rate=1.0, schedule="constant", warmup=0.0, max_grad_norm=1e9, dtype="float32")
    optimizer = Optimizer(learner.networks, training, 1)
    optimizer.rule = torch.optim.SGD(optimizer.parameters(), lr=1.0)  # type: ignore[assignment]
    before = [p.detach().clone() for p in optimizer.parameters()]
    learner.learn(0, rollout, optimizer)
    return [a - p.detach() for a, p in zip(before, optimizer.parameters(), strict=True)]


@pytest.mark.parametrize("minibatches", [1, 3])
@pytest.mark.parametrize("budget", [8, 4096])
@pytest.mark.parametrize(
    ("kind", "weights", "dtype"),
    [("gpt2", "float64", "float32"), ("llama", "float32", "float32"), ("llama", "float32", "bfloat16")],
)
def test_before_the_first_update_every_ratio_is_exactly_one(
    kind: str, weights: str, dtype: Any, budget: int, minibatches: int
) -> None:
    ppo = settings(dtype=dtype, tokens_per_pass=budget, minibatches=minibatches)
    learner, rollout = rolled(ppo, policy_at(kind, getattr(torch, weights)))
    batches, _ = learner.experience(0, rollout)
    assert len(batches) == minibatches
    for trees in (t for part in batches for t in part):
        with autocast(getattr(torch, dtype)):
            _, measures = learner.loss(trees)
        assert set(measures["ratio"].tolist()) == {1.0}
        assert set(measures["clip_fraction"].tolist()) == set(measures["approximate_kl"].tolist()) == {0.0}


def test_a_single_update_reports_that_nothing_had_moved() -> None:
    learner, rollout = rolled(settings(inner_epochs=1))
    row = learner.learn(0, rollout, Optimizer(learner.networks, learner.method, 1))
    assert (row["ratio"], row["clip_fraction"], row["approximate_kl"]) == (1.0, 0.0, 0.0)


def test_the_first_gradient_is_the_plain_policy_gradient() -> None:
    # REINFORCE with the same advantages, through a plain forward of every sample.
    learner, rollout = rolled(settings(tokens_per_pass=8, temperature=1.0))
    plain = copy.deepcopy(random_model(CONFIGS["gpt2"]()))
    batches, _ = learner.experience(0, rollout)
    tokens = sum(len(trees.target) for trees in batches[0])
    (sum(learner.loss(trees)[0].sum() for trees in batches[0]) / tokens).backward()
    logp = torch.cat([plain_log_probabilities(plain, trees.trees) for trees in batches[0]])
    policy_gradient.reinforce(logp, flat(batches, "advantage")).mean().backward()
    for (name, a), (same, b) in zip(learner.policy.network.named_parameters(), plain.named_parameters(), strict=True):
        assert name == same
        torch.testing.assert_close(a.grad, b.grad, rtol=0, atol=1e-10)


def test_advantages_are_whitened_over_the_whole_step() -> None:
    for budget, minibatches in ((8, 1), (4096, 1), (8, 3)):
        learner, rollout = rolled(settings(tokens_per_pass=budget, minibatches=minibatches))
        whole = flat(learner.experience(0, rollout)[0], "advantage")
        assert float(whole.mean()) == pytest.approx(0, abs=1e-12)
        assert float(whole.std(correction=0)) == pytest.approx(1, abs=1e-12)


def test_packing_changes_neither_advantages_nor_gradient() -> None:
    small, large = (rolled(settings(tokens_per_pass=budget, inner_epochs=1)) for budget in (8, 4096))
    packed, whole = (learner.experience(0, rollout)[0] for learner, rollout in (small, large))
    assert (len(packed[0]), len(whole[0])) == (3, 1)  # every tree is longer than 8 tokens or fills a pack of its own
    for name in ("old", "kl", "values", "advantage", "returns"):
        a, b = by_row(packed, name), by_row(whole, name)
        assert a.keys() == b.keys() == {0, 1, 2}
        assert all(a[row] == pytest.approx(b[row], abs=1e-10) for row in a), name
    torch.testing.assert_close(gradient_of(*small), gradient_of(*large), rtol=0, atol=1e-10)


def test_the_reward_lands_on_the_last_token() -> None:
    # With gamma 0 a token's return is its own reward: the score on the last token, nothing before it.
    learner, rollout = rolled(settings(kl_coefficient=0.0, gamma=0.0, missing_end_penalty=0.0))
    batches, _ = learner.experience(0, rollout)
    for trees in (t for part in batches for t in part):
        branches = [b for tree in trees.trees for b in tree.branches]
        expected = [x for b in branches for x in [*[0.0] * (len(b.tokens) - 1), b.reward]]
        assert trees.returns.tolist() == pytest.approx(expected, abs=1e-12)
        assert len({b.reward for b in branches}) > 1


@pytest.mark.parametrize("coefficient", [0.0, 0.3])
def test_returns_are_the_score_less_the_price_of_what_is_still_to_come(coefficient: float) -> None:
    # gamma = lambda = 1, values of 0: R_t = score - beta sum over s >= t of (log pi - log ref)(s), by plain forwards.
    learner, rollout = rolled(settings(kl_coefficient=coefficient, lam=1.0, missing_end_penalty=0.0, temperature=1.0))
    silence(learner)
    batches, row = learner.experience(0, rollout)
    policy, reference = random_model(CONFIGS["gpt2"]()), randomize(random_model(CONFIGS["gpt2"]()), 5)
    total = 0.0
    for trees in (t for part in batches for t in part):
        with torch.no_grad():
            gap = plain_log_probabilities(policy, trees.trees) - plain_log_probabilities(reference, trees.trees)
        total += float(gap.sum())
        expected = torch.empty_like(gap)
        for i, owner in enumerate(trees.owner.tolist()):
            to_come = (trees.owner == owner) & (torch.arange(len(gap)) >= i)
            expected[i] = trees.rewards[owner] - coefficient * gap[to_come].sum()
        torch.testing.assert_close(trees.returns, expected, rtol=0, atol=1e-9)
    if coefficient:  # else there is no reference to measure from
        assert row["kl"] == pytest.approx(total / 6, abs=1e-9)  # nats a completion: 3 prompts with 2 samples each


def test_at_the_start_the_policy_is_its_own_reference() -> None:
    ppo = settings()
    policy = policy_at()
    learner = PPOLearner(ppo, policy, LENGTH)
    batches, row = learner.experience(0, sample(ppo, policy, PROMPTS, LENGTH, step=0))
    assert row["kl"] == 0.0
    assert set(flat(batches, "kl").tolist()) == {0.0}


@pytest.mark.parametrize(("kind", "most"), [("gpt2", 1e-12), ("llama", 1e-6)])
def test_the_sampler_and_the_scorer_agree(kind: str, most: float) -> None:
    learner, rollout = rolled(settings(), policy_at(kind))
    assert learner.learn(0, rollout, Optimizer(learner.networks, learner.method, 1))["sampler_drift"] < most


def test_a_cut_sample_loses_the_penalty() -> None:
    ppo = settings()
    ended, cut = Branch((7, 2), None, (-1.0, -1.0), 3.0), Branch((7, 8), None, (-1.0, -1.0), 3.0)
    rollout = rollout_of([Tree((6,), (ended, cut)), Tree((8,), (cut, cut))], [True, False, False, True])
    rewards = [[b.reward for b in tree.branches] for tree in penalize(rollout, 1.25)]
    assert rewards == [[3.0, 1.75], [1.75, 3.0]]
    learner, sampled = rolled(ppo)
    batches, _ = learner.experience(0, sampled)
    got = {t.row: [b.reward for b in t.branches] for part in batches for trees in part for t in trees.trees}
    for tree in sampled.trees:
        expected = [b.reward - (0.0 if b.tokens[-1] == 2 else 1.0) for b in tree.branches]
        assert got[tree.row] == pytest.approx(expected)


def test_a_reward_of_zero_is_a_reward() -> None:
    learner, rollout = rolled(
        settings(kl_coefficient=0.0, missing_end_penalty=0.0, lam=1.0), reward=TextReward(lambda prompt, text: 0.0)
    )
    silence(learner)
    batches, _ = learner.experience(0, rollout)
    assert set(flat(batches, "returns").tolist()) == set(flat(batches, "advantage").tolist()) == {0.0}
    assert rollout.rewards == [0.0] * 6


def test_a_reward_that_is_not_finite_or_missing_stops_the_run() -> None:
    policy, ppo = policy_at(), settings()
    with pytest.raises(TrainingStopped, match="step 3: the reward of a sample of rows 1, 2, 3 is not finite"):
        sample(ppo, policy, PROMPTS, lambda samples: torch.full((len(samples),), float("nan")), step=2)
    with pytest.raises(TrainingStopped, match="step 1: the reward gave 5 scores for 6 samples"):
        sample(ppo, policy, PROMPTS, lambda samples: torch.zeros(5), step=0)


def test_every_pass_goes_through_all_samples_once() -> None:
    learner, rollout = rolled(settings(inner_epochs=2, minibatches=3))
    optimizer: Any = Counting()
    row = learner.learn(0, rollout, optimizer)
    rows = [[t.row for trees in work[0].packs for t in trees.trees] for work in optimizer.work]
    assert len(rows) == 6
    assert sorted(chain(*rows[:3])) == sorted(chain(*rows[3:])) == [0, 1, 2]
    assert row["loss"] == 3.5  # the mean of 1 ... 6


@pytest.mark.parametrize(
    ("divergence", "factor"),
    [(6.0, 1.0), (6.6, 1.01), (5.4, 0.99), (60.0, 1.02), (0.0, 0.98)],  # 1 + .1 clip(kl / 6 - 1, -.2, .2)
)
def test_the_controller_of_the_kl_coefficient(divergence: float, factor: float) -> None:
    learner = PPOLearner(settings(kl_coefficient=0.5, kl_target=6.0, inner_epochs=1), policy_at(), LENGTH)
    learner.experience = lambda step, rollout: ([[]], {"kl": divergence})  # type: ignore[method-assign]
    nothing: Any = None
    optimizer: Any = Counting()
    row = learner.learn(0, nothing, optimizer)
    assert row["kl_coefficient"] == 0.5  # what this step was scored with
    assert learner.kl_coefficient == pytest.approx(0.5 * factor, abs=1e-15)
    assert learner.state() == {"kl_coefficient": learner.kl_coefficient}


def test_the_coefficient_survives_a_restart() -> None:
    others: Any = (None, None)  # the run and its optimizer, of which it needs nothing
    learner = PPOLearner(settings(kl_coefficient=0.5, kl_target=6.0), policy_at(), LENGTH)
    learner.restore({"kl_coefficient": 0.125}, *others)
    assert learner.state() == {"kl_coefficient": 0.125}
    changed = PPOLearner(settings(kl_coefficient=0.5), policy_at(), LENGTH)
    changed.restore({"kl_coefficient": 0.125}, *others)
    assert changed.state() == {"kl_coefficient": 0.5}
    learner.restore({}, *others)
    assert learner.state() == {"kl_coefficient": 0.125}


def test_the_pretraining_mix_adds_its_weighted_gradient(tmp_path: Path) -> None:
    rows = [Demonstration("hi", "hello good day"), Demonstration("bye", "bad day bye")]
    data = write_jsonl(tmp_path / "rows.jsonl", rows)
    alone = gradient_of(*rolled(settings(inner_epochs=1)))
    mixed = gradient_of(
        *rolled(settings(inner_epochs=1, pretraining_data=data, pretraining_coefficient=2.5, batch_size=2))
    )
    plain = random_model(CONFIGS["gpt2"]())
    trees = [Tree((6,), (Branch((7, 8, 10, 2)),)), Tree((11,), (Branch((9, 10, 11, 2)),))]
    likelihood = torch.autograd.grad(-2.5 * plain_log_probabilities(plain, trees).mean(), list(plain.parameters()))
    for a, b, extra in zip(alone, mixed, likelihood, strict=False):  # the policy's parameters come first
        torch.testing.assert_close(b - a, extra, rtol=0, atol=1e-10)
    torch.testing.assert_close(mixed[len(likelihood) :], alone[len(likelihood) :], rtol=0, atol=0)


def test_the_value_model_starts_from_the_reward_model() -> None:
    policy = policy_at()
    scorer = Scorer.on(policy, seed=9)
    randomize(scorer.network, 4)
    learner = PPOLearner(settings(), policy, LearnedReward(scorer, policy))
    for a, b in zip(learner.value.network.parameters(), scorer.network.parameters(), strict=True):
        assert torch.equal(a, b) and a.data_ptr() != b.data_ptr() and a.requires_grad
    # A function has no weights to start from: the policy's trunk and a new head.
    fresh = PPOLearner(settings(), policy, LENGTH).value.network
    trunk = policy.network.base_model.state_dict()
    assert all(torch.equal(value, trunk[name]) for name, value in fresh.base_model.state_dict().items())


@pytest.mark.parametrize(
    ("name", "value"),
    {
        "clip": 1.0,
        "value_clip": 0.0,
        "inner_epochs": 0,
        "minibatches": 0,
        "kl_coefficient": -0.1,
        "kl_target": 0.0,
        "gamma": 1.1,
        "lam": -0.1,
        "group_size": 0,
        "temperature": 0.0,
    }.items(),
)
def test_settings_out_of_range_are_refused(name: str, value: Any) -> None:
    with pytest.raises(InputError, match=name):
        PPO(**{name: value})


def expected_gradient(world: Enumerable, network: nn.Module, reference: Tensor, beta: float) -> Tensor:
    """The policy gradient that PPO's first update has on average: every sequence, weighted by its probability."""
    trees = Trees.of([Tree(world.prompt, tuple(map(Branch, world.sequences)))])
    logp, _ = log_probabilities(network, trees)
    reward = advantages.token_rewards(kl.k1(logp, reference), world.reward, trees.owner, coefficient=beta)
    advantage, _ = advantages.gae(reward, torch.zeros_like(reward), trees.owner, gamma=1.0, lam=1.0)
    loss = policy_gradient.clipped(logp, logp, advantage, low=0.2, high=0.2)
    chance = distribution(segment_sum(logp.detach(), trees.owner, trees.branches))
    gradient = torch.autograd.grad((chance[trees.owner] * loss).sum(), list(network.parameters()))
    return torch.cat([g.flatten() for g in gradient])


def test_the_expected_gradient_vanishes_at_the_regularized_optimum() -> None:
    # At pi = pi_ref exp(r / beta) / Z every sequence has the same r - beta log(pi / pi_ref) = beta log Z, so nothing is
    # better than anything else. At pi_ref itself there is a way to go.
    world, beta = Enumerable(vocabulary=3, length=2), 0.7
    policy = policy_of(world.new_model(seed=2))
    trees = Trees.of([Tree(world.prompt, tuple(map(Branch, world.sequences)))])
    with torch.no_grad():
        reference = log_probabilities(policy.network, trees)[0]
    optimum = kl_regularized_optimum(segment_sum(reference, trees.owner, trees.branches), world.reward, beta)
    at_first = float(expected_gradient(world, policy.network, reference, beta).norm())

    def divergence() -> Tensor:
        logp, _ = log_probabilities(policy.network, trees)
        return (optimum * (optimum.log() - segment_sum(logp, trees.owner, trees.branches))).sum()

    assert minimize(policy.network, divergence) == pytest.approx(0, abs=1e-7)
    assert float(expected_gradient(world, policy.network, reference, beta).norm()) < 1e-3 * at_first
