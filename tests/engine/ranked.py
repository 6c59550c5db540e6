"""Whole runs that one process does, or the ranks of a team; and all that a rank does for test_ranks.py to compare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from safetensors.torch import save_file
from torch import Tensor

from accord.engine.forward import log_probabilities
from accord.engine.load import load_model
from accord.engine.lora import adapt
from accord.engine.models import Policy
from accord.engine.shard import shard
from accord.engine.team import joined
from accord.engine.trees import Branch, Tree, Trees
from accord.methods import DPO, GRPO, KTO, PPO, RAFT, RLOO, SFT, RewardModel
from accord.records import Demonstration, Message, Preference, Prompt
from tests import conftest
from tests.data.conftest import WORDS, word_tokenizer
from tests.engine import ranked_methods, ranked_steps
from tests.engine.tiny import CONFIGS, policy_of, random_model


def vowels(completions: Sequence[str]) -> list[float]:
    """A reward."""
    return [sum(text.count(letter) for letter in "aeo") - 0.1 * len(text) for text in completions]


PROMPTS = [Prompt(text) for text in ("hi", "bye", "good day", "hi")]
SETTINGS: dict[str, Any] = {
    "batch_size": 4, "max_steps": 2, "learning_rate": 1e-3, "dtype": "float32", "tokens_per_pass": 32,
}  # fmt: skip
SAMPLED: dict[str, Any] = {**SETTINGS, "group_size": 3, "max_new_tokens": 4}


def last(completions: Sequence[Any]) -> list[float]:
    """The same of the last message."""
    return vowels([messages[-1]["content"] for messages in completions])


def prefer(firsts: Sequence[str], seconds: Sequence[str]) -> list[float | None]:
    """A judge."""
    return [1 / (1 + 2 ** (b - a)) for a, b in zip(vowels(firsts), vowels(seconds), strict=True)]


def guest(messages: Sequence[Mapping[str, str]]) -> str | None:
    """A user, who goes when the answer is a short one."""
    return "good day" if len(messages[-1]["content"]) > 4 else None


def brief(completions: Sequence[str]) -> list[float]:
    """A measure."""
    return [-float(len(text)) for text in completions]


@dataclass(frozen=True)
class Whole:
    """A method's whole run on rows, with the options of its `fit`, stopped in between where it has a step to stop at.

    `precision` is that of the model, as a share of a tensor's largest number.
    """

    name: str
    method: Any
    rows: Sequence[Any]
    options: dict[str, Any] = field(default_factory=dict)
    precision: float = 1e-10
    stops_at: int = 0
    start: str = ""
    """The model's folder, under that of what one process does."""

    def __str__(self) -> str:
        return self.name

    def __call__(self, out: Path) -> None:
        """The run, in its folder."""
        with nullcontext() if self.name in FULL else patch("accord.report.refresh_report", conftest.blank):
            if self.stops_at:
                with suppress(Stopped):
                    self.fit(out, on_step=self.stop)
            self.fit(out, resume=self.stops_at > 0)

    def fit(self, out: Path, **given: Any) -> None:
        """The run, from its beginning or its last checkpoint."""
        under = out if (out / self.start).exists() else out.parent
        policy: Any = under / self.start if self.start else written()
        given |= {"out": out / self.name, "track": "none", "save_every": 1}
        self.method.fit(policy, self.rows, **given, **self.options)

    def stop(self, step: int, _: Any) -> None:
        """End the run before what this step made is saved."""
        if step == self.stops_at:
            raise Stopped


class Stopped(Exception):
    """What ends a run on all ranks at once."""


def written() -> Policy:
    """A random model with a tokenizer."""
    policy = policy_of(random_model(CONFIGS["llama"]()))
    policy.tokenizer = word_tokenizer()
    return policy


def write_adapter(folder: Path) -> None:
    """Leave `base` in a folder, and `start`, a random adapter of it."""
    policy = load_model(str(written().save(folder / "base")))
    adapt(policy, SFT(lora_rank=3))
    generator = torch.Generator().manual_seed(5)
    for parameter in filter(lambda p: p.requires_grad, policy.network.parameters()):
        parameter.data.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    policy.save(folder / "start")


def same_shares() -> Tensor:
    """Of every weight under adapters, whether a policy and its frozen copy have one share of it."""
    policy = adapt(written(), SFT(lora_rank=2))
    copy = policy.frozen_copy()
    trees = Trees.of([Tree((1,), (Branch((2, 3)),))])
    with torch.no_grad():
        for network in (shard(copy.network), shard(policy.network)):
            log_probabilities(network, trees)
    theirs = dict(copy.network.named_parameters())
    own = {name: p for name, p in policy.network.named_parameters() if not p.requires_grad}
    return torch.tensor([p is theirs[name] for name, p in own.items()])


SAID = WORDS[6:]
PAIRS = [Preference(f"{a} {b}", f" {a} {b}", f" {b} bye") for a in SAID[:3] for b in SAID[:4] if a != b]
SHOWN = [Demonstration(row.prompt, row.chosen) for row in PAIRS]
HELD = [Preference(f"{a} {a}", f" {b} {a}", f" {b}") for a, b in pairwise(SAID[:6])]
ADAPTED: dict[str, Any] = {**SAMPLED, "learning_rate": 0.02, "lora_rank": 2}
CHATS = [Prompt((Message("user", text),)) for text in ("hi", "bye", "good day", "hi")]
TALKING: dict[str, Any] = {**SAMPLED, "user": guest, "max_turns": 3, "reward_at": "turns-to-go", "temperature": 0.7}
REWARDED: dict[str, Any] = {"reward": vowels, "sample_every": 1}
MEASURED: dict[str, Any] = {**SETTINGS, "max_steps": 3, "learning_rate": 0.02}
FULL = {"grpo", "watched-dpo"}
"""Runs whose reports are written."""
RUNS = [
    Whole("grpo", GRPO(**SAMPLED, kl_coefficient=0.1), PROMPTS, REWARDED),
    Whole("rloo", RLOO(**SAMPLED), PROMPTS, REWARDED),
    Whole("ppo", PPO(**SAMPLED, minibatches=2, inner_epochs=2), PROMPTS, REWARDED),
    Whole("raft", RAFT(**SAMPLED, keep_truncated=True), PROMPTS, REWARDED),
    Whole("adapted-grpo", GRPO(**ADAPTED, kl_coefficient=0.1), PROMPTS, {**REWARDED, "watch": brief}, stops_at=2),
    Whole("adapted-ppo", PPO(**ADAPTED, minibatches=2), PROMPTS, {**REWARDED, "save_dtype": "bfloat16"}),
    Whole(  # it ends early, and its model is read of best/
        "adapted-dpo",
        DPO(**{**MEASURED, "max_steps": 8, "learning_rate": 0.3, "lora_rank": 2}),
        PAIRS,
        {"eval_data": HELD, "eval_every": 1, "patience": 1},
    ),
    Whole("talking-grpo", GRPO(**TALKING, kl_coefficient=0.1), CHATS, {**REWARDED, "reward": last}),
    Whole(
        "adapter-sft",
        SFT(**{**MEASURED, "learning_rate": 1e-3}, lora_rank=2),
        SHOWN,
        {"eval_data": SHOWN[:4], "eval_every": 1},
        precision=1e-6,
        start="start",
    ),
    Whole("held-sft", SFT(**MEASURED), SHOWN, {"eval_split": 0.3, "eval_every": 1, "save_dtype": "bfloat16"}),
    Whole(
        "held-reward", RewardModel(**MEASURED), PAIRS, {"eval_data": HELD, "eval_every": 2, "best_by": "eval_accuracy"}
    ),
    Whole("held-kto", KTO(**MEASURED), PAIRS, {"eval_data": HELD[:1], "eval_every": 1}, stops_at=3),
    Whole(  # it ends early, and its model is read of best/, which a model read anew is in float32
        "held-dpo",
        DPO(**{**MEASURED, "max_steps": 8, "learning_rate": 0.3}, precompute_reference=True),
        PAIRS,
        {"eval_data": HELD, "eval_every": 1, "patience": 2},
        precision=1e-6,
    ),
    Whole("watched-grpo", GRPO(**SAMPLED | {"max_steps": 3}), PROMPTS, {**REWARDED, "watch": brief}, stops_at=3),
    Whole(
        "watched-dpo",
        DPO(**MEASURED, seed=3),
        PAIRS,
        {"watch": prefer, "watch_data": PROMPTS[:2], "watch_every": 1, "watch_tokens": 6},
    ),
]
"""Methods that sample, of whose prompts one stands twice; rows held out, fewer than ranks once; and what is watched."""
FEW = {"grpo"}
"""Runs that three ranks make too."""
if not ranked_methods.EVERY:
    RUNS = [run for run in RUNS if run.name not in {"held-reward", "held-sft", "adapter-sft", "adapted-ppo", "rloo"}]


def runs_of(size: int) -> list[Whole]:
    """The runs that so many ranks make."""
    return [run for run in RUNS if size == 2 or run.name in FEW or ranked_methods.EVERY]


def main(folder: Path) -> None:
    """What a rank does, into the folder below that of what one process did."""
    with joined() as team:
        for run in runs_of(team.size):
            run(folder)
        for of in ranked_methods.runs_of(team.size):
            gradients = ranked_methods.run(of, folder / of.name, stopped=True)
            if team.leads:
                save_file(gradients, folder / f"{of.name}-gradients.safetensors")
        for case in ranked_steps.CASES:
            found = ranked_steps.outcome(case, folder)
            if team.leads:
                save_file(found, folder / f"{case.name}.safetensors")
        shares = {"same": same_shares(), **ranked_methods.held()}
        again = ranked_steps.gone_on(ranked_steps.CASES[0], folder.parent)  # from what one process saved
        if team.leads:
            save_file(again, folder / "again.safetensors")
            save_file(shares, folder / "shares.safetensors")
