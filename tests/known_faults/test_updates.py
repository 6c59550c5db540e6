"""What an update is made of: normalization, groups, and the divergence."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from accord.engine.trees import Branch, Tree
from accord.errors import LeftOut, TrainingStopped
from accord.methods import GRPO, RAFT, REINFORCE, RLOO, SFT, NashMD
from accord.methods.rollouts import Rollout, sample
from accord.objectives import advantages, kl
from accord.objectives.segments import segment_sum
from accord.records import Verdict
from tests.data.conftest import EOS
from tests.engine.tiny import CONFIGS, plain_log_probabilities, random_model, randomize
from tests.known_faults.learners import DEMONSTRATIONS, GRADIENTS, at_work, learned, settings
from tests.methods.learners import LENGTH, PROMPTS, Counting, policy_at


@pytest.mark.parametrize("name", GRADIENTS)
def test_a_policy_gradient_is_the_same_for_any_split_into_micro_batches(name: str) -> None:
    results, packs = [], []
    for budget in (1, 40, 4096):
        method = GRADIENTS[name](group_size=3, mask_truncated=True, tokens_per_pass=budget)
        learner, policy = at_work(method)
        randomize(learner.reference.network, 5)
        rollout = sample(method, policy, PROMPTS, LENGTH, step=0)
        assert {s.completion.stop for s in rollout.samples} == {"end", "length"}
        packs.append(len(learner.experience(0, rollout)[0][0]))
        results.append(learned(learner, rollout))
    assert packs == [3, 2, 1]
    for row, gradient in results[1:]:
        assert row == pytest.approx(results[0][0], abs=1e-10)
        torch.testing.assert_close(gradient, results[0][1], rtol=0, atol=1e-10)


@pytest.mark.parametrize("budget", [1, 4096])
def test_the_logged_loss_is_the_mean_over_the_step_however_it_is_split(budget: int, tmp_path: Path) -> None:
    # 2 + 4 + 2 tokens with their ends: the loss is their mean by plain forwards, its gradient's norm that of the mean.
    sft = SFT(batch_size=3, tokens_per_pass=budget, dtype="float32")
    [row] = sft.fit(policy_at(), DEMONSTRATIONS, out=tmp_path / "run").metrics
    plain, trees = random_model(CONFIGS["gpt2"]()), sft.encode(policy_at(), DEMONSTRATIONS, LeftOut())
    loss = -plain_log_probabilities(plain, trees).mean()
    gradient = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(plain.parameters()))])
    assert [row["loss"], row["gradient_norm"]] == pytest.approx([loss.item(), gradient.norm().item()], abs=1e-10)
    assert row["tokens"] == 3 + 6 + 3


@pytest.mark.parametrize("method", [RLOO, GRPO])
def test_a_group_is_the_samples_of_one_prompt_and_not_one_sample_of_each(method: Any) -> None:
    # A reward that the prompt alone decides leaves nothing to choose between its samples; one that is 0 for the first
    # of a prompt and 1 for the second puts them at -1 and 1 against each other, or at half of that from their mean.
    given: dict[str, Any] = settings(kl_coefficient=0.0) | ({"scale": False} if method is GRPO else {})
    learner, policy = at_work(method(**given))
    half = 0.5 if method is GRPO else 1.0
    by_prompt = lambda samples: torch.tensor([float(len(s.prompt.prompt)) for s in samples])  # noqa: E731
    by_place = lambda samples: torch.tensor([0.0, 1.0] * (len(samples) // 2))  # noqa: E731
    for reward, expected, flat in ((by_prompt, [0.0, 0.0], 1.0), (by_place, [-half, half], 0.0)):
        [[trees]], row = learner.experience(0, sample(learner.method, policy, PROMPTS, reward, step=0))
        each = [trees.advantage[trees.owner == branch].unique().tolist() for branch in range(6)]
        assert each == [[x] for x in expected * 3]
        assert row == {"flat_groups": flat}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_identical_rewards_teach_nothing_though_the_divergence_is_in_the_reward(dtype: Any) -> None:
    # Before the first update the policy is its reference; sampler and trainer differ by rounding alone.
    method = GRPO(**settings(group_size=4, kl="reward", dtype=dtype))
    learner, policy = at_work(method, "llama", torch.float32)
    rollout = sample(method, policy, PROMPTS, lambda samples: torch.ones(len(samples)), step=0)
    [[trees]], row = learner.experience(0, rollout)
    assert set(trees.advantage.tolist()) == {0.0}
    assert row == {"flat_groups": 1.0, "kl": 0.0}


@pytest.mark.parametrize("missing", [float("nan"), float("-inf")])
@pytest.mark.parametrize("method", [RLOO, GRPO])
def test_one_valid_reward_in_a_group_stops_the_run_and_names_the_rows(method: Any, missing: float) -> None:
    learner, _ = at_work(method(**settings()))
    learner.reward = lambda samples: torch.tensor([1.0, missing, 1.0, 2.0, missing, 0.0])
    optimizer = Counting()
    with pytest.raises(TrainingStopped, match="^step 1: the reward of a sample of rows 1, 3 is not finite; look at"):
        learner.step(0, PROMPTS, optimizer)
    assert optimizer.work == []


def test_one_valid_verdict_in_a_group_is_learned_from_alone() -> None:
    # Without a verdict two of the three stand at 1/2, and the third, which won, is 1 - 1/2 better than they.
    learner, _ = at_work(NashMD(**settings(group_size=3, opponents=1)))
    learner.judge = lambda comparisons: [Verdict(None), Verdict(None), Verdict(1.0)]
    optimizer = Counting()
    result = learner.step(0, PROMPTS[:1], optimizer)
    [[work]] = optimizer.work
    assert (work.count, result.numbers["invalid"], result.rewards) == (1, pytest.approx(2 / 3), [0.5, 0.5, 1.0])
    values, _ = work.objective(work.packs[0])
    assert values.tolist() == pytest.approx([-0.5 * sum(result.samples[2].completion.logprobs)], abs=1e-10)


def test_a_threshold_of_zero_is_a_threshold() -> None:
    tree = Tree((6,), (Branch((7, EOS), reward=-1.0), Branch((8, EOS), reward=0.0), Branch((9, EOS), reward=-0.5)))
    method = RAFT(**settings(group_size=3, keep=3))
    assert [b.reward for b in method.best(tree, (EOS,))] == [0.0, -0.5, -1.0]
    method.at_least = 0.0
    assert [b.reward for b in method.best(tree, (EOS,))] == [0.0]


@pytest.mark.parametrize("kind", ["reward", "k2", "k3"])
def test_the_divergence_is_in_the_reward_or_in_the_loss_and_never_in_both(kind: Any) -> None:
    # By plain forwards: A of r - .3 d(y) and a loss of -A a token, or A of r and a loss of -A + .3 k.
    learner, policy = at_work(GRPO(**settings(kl=kind, kl_coefficient=0.3, scale=False)))
    reference = randomize(random_model(CONFIGS["gpt2"]()), 5)
    learner.reference.network.load_state_dict(reference.state_dict())
    [[trees]], _ = learner.experience(0, sample(learner.method, policy, PROMPTS, LENGTH, step=0))
    with torch.no_grad():
        logp, ref = (plain_log_probabilities(n, trees.trees) for n in (random_model(CONFIGS["gpt2"]()), reference))
    price = 0.3 * segment_sum(logp - ref, trees.owner, trees.branches) if kind == "reward" else 0.0
    added = 0.3 * {"k2": kl.k2, "k3": kl.k3}[kind](logp, ref) if kind != "reward" else 0.0
    advantage = advantages.group((trees.rewards - price).view(-1, 2), scale=False).flatten()[trees.owner]
    torch.testing.assert_close(trees.advantage, advantage, rtol=0, atol=1e-10)
    torch.testing.assert_close(learner.loss(trees)[0].detach(), added - advantage, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", sorted(GRADIENTS.keys() - {"reinforce"}))  # whose baseline is over the whole step
def test_a_fully_masked_row_gives_no_nan_and_changes_nothing(name: str) -> None:
    results = []
    for count in (1, 2):
        learner, policy = at_work(GRADIENTS[name](mask_truncated=True))
        randomize(learner.reference.network, 5)
        rollout = sample(learner.method, policy, PROMPTS[:2], LENGTH, step=0)
        samples = [
            replace(s, completion=replace(s.completion, stop=stop))
            for s, stop in zip(rollout.samples, ("end", "end", "length", "length"), strict=True)
        ][: 2 * count]
        results.append(learned(learner, Rollout(rollout.trees[:count], samples)))
    (alone, gradient), (beside, same) = results
    assert [beside[n] for n in ("loss", "kl")] == pytest.approx([alone[n] for n in ("loss", "kl")], abs=1e-12)
    torch.testing.assert_close(same, gradient, rtol=0, atol=1e-12)
    assert all(bool(g.isfinite().all()) for g in same)


def test_a_sample_that_is_alone_in_its_step_is_learned_from() -> None:
    # As the last prompt of an epoch may be: without others there is no baseline, and -r log pi remains.
    learner, _ = at_work(REINFORCE(**settings(group_size=1, batch_size=2, kl_coefficient=0.0)))
    learner.reward = lambda samples: torch.tensor([2.0])
    optimizer = Counting()
    result = learner.step(0, PROMPTS[:1], optimizer)
    [[work]] = optimizer.work
    said = sum(result.samples[0].completion.logprobs)
    assert work.objective(work.packs[0])[0].tolist() == pytest.approx([-2 * said], abs=1e-10)
