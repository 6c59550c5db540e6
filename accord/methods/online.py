"""The driver of every method that learns from its own samples: prompts in, completions out, scored, learnt from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from accord.data import Order, load_data
from accord.data.load import Source
from accord.data.prompts import EncodedPrompt, encode_prompts
from accord.engine import checkpoint
from accord.engine.fit import Optimiser, Training, named_rows
from accord.engine.generate import generate
from accord.engine.models import Policy, load_model, load_scorer
from accord.engine.precision import compute_dtype, computing
from accord.engine.sampling import Sampling
from accord.engine.trees import Branch, Tree
from accord.errors import InputError, TrainingStopped
from accord.feedback.judge import Reward
from accord.feedback.learned import LearnedReward
from accord.methods.offline import Result, describe, finish, require_positive, restore
from accord.records import Sample, text_to_json
from accord.run import Run

SHOWN = 4
"""Samples written to the run's folder each time."""


@dataclass(frozen=True)
class Rollout:
    """What the policy said to a batch of prompts: a tree a prompt, whose branches carry log-probabilities and rewards.

    `samples` and `ended` (whether the end-of-turn token came) follow the branches' order.
    """

    trees: list[Tree]
    samples: list[Sample]
    ended: Tensor

    @property
    def rewards(self) -> Tensor:
        """(C,) the reward of every sample."""
        return torch.tensor([b.reward for t in self.trees for b in t.branches], dtype=torch.float64)


class Learner(ABC):
    """A method at work: the networks it trains and how it learns from a rollout."""

    networks: Mapping[str, nn.Module]

    @abstractmethod
    def learn(self, step: int, rollout: Rollout, optimiser: Optimiser) -> dict[str, float]:
        """Update the networks; the numbers to log."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """What must survive a restart besides weights and optimiser."""

    @abstractmethod
    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` returned; nothing, in a run that begins."""


@dataclass(kw_only=True)
class Online(Training, ABC):
    """A method that samples, has the samples scored, and learns from that."""

    command: ClassVar[str]

    learning_rate: float = 1e-6
    """Peak step size of AdamW."""
    batch_size: int = 32
    """Prompts in one step."""
    group_size: int = 1
    """Samples of each prompt."""
    max_new_tokens: int = 64
    """A sample is cut after so many tokens."""
    temperature: float = 1.0
    """Divides the logits, in sampling and in scoring alike."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("group_size", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, not {getattr(self, name)}.")
        if not self.temperature > 0:
            raise InputError(f"temperature must be positive, not {self.temperature}.")

    @abstractmethod
    def learner(self, policy: Policy, reward: Reward) -> Learner:
        """The method at work on a policy."""

    def fit(
        self,
        model: Policy | str | Path,
        data: Source,
        *,
        reward: Reward | str | Path,
        out: str | Path,
        split: str = "train",
        resume: bool = False,
        save_every: int = 50,
        sample_every: int = 10,
    ) -> Result:
        """Train on the rows' prompts and leave a finished run in the folder `out`.

        Args:
            model: a folder, a name on the Hugging Face Hub, or smollm2; in Python also a loaded model.
            data: a file or a name on the Hugging Face Hub, whose prompts are used; in Python also a `datasets.Dataset`
                or a list of rows.
            reward: what scores the samples: a reward model's folder; in Python also any `Reward`.
            out: the run's folder, which must be new, or that of the run to go on with.
            split: which rows, such as train, train[:100] or train[-100:].
            resume: go on from the last checkpoint in `out`; the result equals the uninterrupted run's bit for bit.
            save_every: steps between checkpoints.
            sample_every: steps between samples written to `samples.jsonl`.

        Raises:
            InputError: the data, the models or the folder cannot be used.
            TrainingStopped: a loss or a reward was not finite.
        """
        require_positive(save_every=save_every, sample_every=sample_every)
        rows = load_data(data, split=split)
        policy = model if isinstance(model, Policy) else load_model(str(model))
        settings = describe(self, model=policy.name, data=data, split=split, reward=reward)
        with Run(out, settings, resume=resume) as run:
            if run.finished:
                run.say(f"{run.folder} is finished already.")
                return finish(run, policy)
            prompts, left_out = encode_prompts(
                policy.tokenizer, rows, room=self.max_new_tokens, context=policy.context, longest=self.max_length
            )
            for line in left_out:
                run.say(line)
            dtype = compute_dtype(self.dtype, policy.device)
            if isinstance(reward, str | Path):
                reward = LearnedReward(load_scorer(str(reward)), policy, dtype=dtype)
            train(self, policy, prompts, reward, run, save_every, sample_every)
            return finish(run, policy)


def train(
    method: Online,
    policy: Policy,
    prompts: Sequence[EncodedPrompt],
    reward: Reward,
    run: Run,
    save_every: int,
    sample_every: int,
) -> None:
    """The main loop: sample, score, learn, from the last checkpoint or the beginning."""
    order = Order(len(prompts), method.batch_size, method.seed)
    total = method.max_steps or order.steps(method.epochs)
    learner = method.learner(policy, reward)
    optimiser = Optimiser(learner.networks, method, total)
    folder = run.folder / "checkpoints"
    first, state = restore(run, optimiser)
    learner.restore(state)
    run.begin(first, total)
    for step in range(first, total):
        rollout = sample(method, policy, [prompts[i] for i in order.batch(step)], reward, step)
        row = learner.learn(step, rollout, optimiser)
        run.log(step + 1, summary(rollout) | row, sum(t.size for t in rollout.trees))
        if step % sample_every == 0 or step + 1 == total:
            run.sample(step + 1, shown(rollout))
        if (step + 1) % save_every == 0 and step + 1 < total:
            checkpoint.save(folder, step + 1, optimiser, learner.state())


def sample(method: Online, policy: Policy, prompts: Sequence[EncodedPrompt], reward: Reward, step: int) -> Rollout:
    """Completions of a batch of prompts under the policy as it is, with their rewards."""
    sampling = Sampling(method.max_new_tokens, method.temperature, seed=(method.seed, step))
    with computing(compute_dtype(method.dtype, policy.device), policy.device):
        groups = generate(policy.network, [p.tokens for p in prompts], method.group_size, sampling, end=policy.end)
    samples = [
        Sample(p.prompt, policy.text(c.tokens), p.tokens, c)
        for p, group in zip(prompts, groups, strict=True)
        for c in group
    ]
    scores = reward(samples)
    g = method.group_size
    if len(scores) != len(samples):
        rows = named_rows(p.row for p in prompts)
        raise TrainingStopped(
            f"step {step + 1}: the reward gave {len(scores)} scores for {len(samples)} samples of {rows}; "
            "let it give each sample one."
        )
    if not torch.isfinite(scores).all():
        rows = named_rows(prompts[i // g].row for i in (~torch.isfinite(scores)).nonzero().flatten().tolist())
        raise TrainingStopped(f"step {step + 1}: the reward of a sample of {rows} is not finite; look at the reward.")
    branches = [
        Branch(s.completion.tokens, None, s.completion.logprobs, r)
        for s, r in zip(samples, scores.tolist(), strict=True)
    ]
    trees = [Tree(p.tokens, tuple(branches[i * g : (i + 1) * g]), row=p.row) for i, p in enumerate(prompts)]
    return Rollout(trees, samples, torch.tensor([s.completion.stop == "end" for s in samples]))


def penalise(rollout: Rollout, penalty: float) -> list[Tree]:
    """The trees with `penalty` taken off the reward of every sample that was cut before its end-of-turn token."""
    ended = iter(rollout.ended.tolist())
    return [
        replace(t, branches=tuple(b if next(ended) else replace(b, reward=b.reward - penalty) for b in t.branches))
        for t in rollout.trees
    ]


def summary(rollout: Rollout) -> dict[str, float]:
    """The rollout in numbers: mean and spread of the rewards, mean length in tokens, share that ended."""
    lengths = [len(s.completion.tokens) for s in rollout.samples]
    return {
        "reward": float(rollout.rewards.mean()),
        "reward_std": float(rollout.rewards.std(correction=0)),
        "length": sum(lengths) / len(lengths),
        "ended": float(rollout.ended.double().mean()),
    }


def shown(rollout: Rollout) -> list[dict[str, Any]]:
    """A few samples for people to read."""
    rewards = rollout.rewards.tolist()
    return [
        {"prompt": text_to_json(s.prompt.prompt), "completion": s.text, "reward": rewards[i]}
        for i, s in enumerate(rollout.samples[:SHOWN])
    ]
