"""Samples: temperature, weights, and seeds."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from accord.engine import samplers
from accord.engine.fit import Optimizer
from accord.engine.sampling import Sampling, uniform_numbers
from accord.engine.trees import Trees
from accord.methods import GRPO, IPOMD, PPO, RAFT, REINFORCE, RLOO, Distill, NashMD, OnlineDPO
from accord.methods.rollouts import Rollout
from accord.objectives.segments import segment_sum
from tests.data.conftest import EOS
from tests.known_faults.learners import at_work, settings
from tests.methods.learners import PROMPTS, Counting, policy_at


@pytest.mark.parametrize("kind", [REINFORCE, RLOO, GRPO, PPO, NashMD, Distill])
def test_temperature_divides_the_logits_in_sampling_and_in_scoring_alike(kind: Any) -> None:
    method = kind(**settings(temperature=0.5))
    learner, _ = at_work(method)
    row = learner.step(0, PROMPTS, Optimizer(learner.networks, method, 1)).numbers
    assert row["sampler_drift"] < 1e-12
    assert abs(row.get("kl", row.get("teacher_kl", 1.0))) < 1e-12  # the policy is still its own reference and teacher


@pytest.mark.parametrize("kind", [OnlineDPO, IPOMD])
def test_temperature_divides_the_logits_of_pairs_too(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    heard, loss = [], kind.loss

    def hearing(self: Any, policy: Tensor, reference: Tensor, pairs: Trees) -> Tensor:
        said = segment_sum(pairs.logprobs, pairs.owner, pairs.branches)
        heard.extend([policy.detach() - (said[0::2] - said[1::2]), reference - (said[0::2] - said[1::2])])
        result: Tensor = loss(self, policy, reference, pairs)
        return result

    monkeypatch.setattr(kind, "loss", hearing)
    learner, _ = at_work(kind(**settings(temperature=0.5, **({"mixture": 0.0} if kind is IPOMD else {}))))
    learner.step(0, PROMPTS, Optimizer(learner.networks, learner.method, 1))
    assert len(heard) == 2 and all(float(gap.abs().max()) < 1e-12 for gap in heard)


def test_temperature_divides_the_logits_of_imitated_samples_too() -> None:
    method = RAFT(**settings(temperature=0.5, keep=2, keep_truncated=True))
    learner, _ = at_work(method)
    result = learner.step(0, PROMPTS, Optimizer(learner.networks, method, 1))
    trees = Rollout.of(PROMPTS, list(result.samples), list(result.rewards)).trees
    kept = [x for tree in trees for branch in method.best(tree, (EOS,)) for x in branch.logprobs or ()]
    assert result.numbers["loss"] == pytest.approx(-sum(kept) / len(kept), abs=1e-12)


@pytest.mark.parametrize(("dtype", "rounding"), [("float32", 1e-5), ("bfloat16", 0.1)])
@pytest.mark.parametrize("kind", ["llama", "gpt2"])  # an output layer of its own, and one shared with the embedding
def test_after_an_update_samples_come_from_the_new_weights(kind: str, dtype: Any, rounding: float) -> None:
    method = RLOO(**settings(dtype=dtype, learning_rate=0.05))
    learner, policy = at_work(method, kind, torch.float32)
    optimizer = Optimizer(learner.networks, method, 2)
    drifts = [learner.step(step, PROMPTS, optimizer).numbers["sampler_drift"] for step in range(2)]
    assert max(drifts) < rounding
    fresh, start = (policy_at(kind, torch.float32).in_dtype(dtype) for _ in range(2))
    fresh.network.load_state_dict(policy.network.state_dict())
    said, same, other = (p.sample(PROMPTS, method.group_size, method.sampling(2)) for p in (policy, fresh, start))
    assert said == same and said != other


def test_one_seed_does_not_repeat_from_step_to_step_nor_between_players(monkeypatch: pytest.MonkeyPatch) -> None:
    # Every token is drawn by a number of 53 random bits: two equal ones among hundreds are a fault, not chance.
    seeds, generate = [], samplers.generate

    def noting(network: Any, prompts: Any, n: int, sampling: Sampling, **more: Any) -> Any:
        seeds.append(sampling.seed)
        return generate(network, prompts, n, sampling, **more)

    monkeypatch.setattr(samplers, "generate", noting)
    learner, _ = at_work(NashMD(**settings(opponents=2)))
    for step in range(3):
        learner.step(step, PROMPTS, Counting())
    assert len(seeds) == 6
    drawn = [uniform_numbers([p.tokens for p in PROMPTS], 2, Sampling(5, seed=seed)).ravel().tolist() for seed in seeds]
    assert len({x for numbers in drawn for x in numbers}) == 6 * 3 * 2 * 5
