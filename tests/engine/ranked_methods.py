"""Runs of methods, which one process makes, or the ranks of a team: what came of them is compared in test_ranks.py."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_pre_hook
from transformers import MixtralConfig, Phi3Config

from accord.engine.models import Policy
from accord.engine.shard import gathered, local
from accord.engine.team import Team
from accord.methods import (
    FSPO,
    IPOMD,
    REINFORCE,
    RLOO,
    Distill,
    NashMD,
    OnlineDPO,
    PersonalReward,
    Pretrain,
    SelfConsistency,
    STaR,
)
from accord.records import Demonstration, Preference, Prompt
from accord.train.learner import StepResult
from accord.train.options import SamplingOptions
from tests import conftest
from tests.data.conftest import word_tokenizer
from tests.engine.tiny import CONFIGS, END, SIZES, VOCABULARY, policy_of, random_model

LONG = 16
"""The tokens of a text beyond which all of its positions are scaled otherwise."""
ARCHITECTURES: dict[str, Callable[[], Any]] = {
    **CONFIGS,
    "mixtral": lambda: MixtralConfig(
        **SIZES, vocab_size=VOCABULARY, num_local_experts=4, num_experts_per_tok=2, bos_token_id=None,
        eos_token_id=END, pad_token_id=None, router_aux_loss_coef=0.1, attn_implementation="eager",
        experts_implementation="eager",  # as float64 has no other
    ),
    "longrope": lambda: Phi3Config(
        **SIZES, vocab_size=VOCABULARY, eos_token_id=END, pad_token_id=None, attn_implementation="eager",
        original_max_position_embeddings=LONG, rope_parameters={
            "rope_type": "longrope", "rope_theta": 100.0, "original_max_position_embeddings": LONG,
            "short_factor": [1.0, 1.0], "long_factor": [1.0, 3.0],
        },
    ),
}  # fmt: skip


def asked_once() -> None:
    """Raise where a rank that does not lead asks what need not answer twice alike."""
    if not Team.here().leads:
        raise RuntimeError("only the rank that leads asks")


def vowels(completions: Sequence[str]) -> list[float]:
    """A reward."""
    asked_once()
    return [sum(text.count(letter) for letter in "aeo") - 0.1 * len(text) for text in completions]


def right(completions: Sequence[str]) -> list[float]:
    """A verifier, which is seldom content."""
    asked_once()
    return [float("good" in text or "day" in text) for text in completions]


def verdicts(firsts: Sequence[str], seconds: Sequence[str]) -> list[float | None]:
    """A judge that has ties, doubts, and no verdict on what is the same; and favors what stands first."""
    asked_once()
    gaps = [len(first) - 2 * first.count("d") - len(second) for first, second in zip(firsts, seconds, strict=True)]
    return [
        None if first == second else 0.5 if not gap else 1 / (1 + 2.0**-gap)
        for first, second, gap in zip(firsts, seconds, gaps, strict=True)
    ]


WORDS = ("hi", "bye", "good day", "hi")
ANSWERS = ("good", "day", "bad", "bye")
PROMPTS = tuple(Prompt(text, {"answer": answer}) for text, answer in zip(WORDS, ANSWERS, strict=True))
TEXTS = [Demonstration("", "hi hello good day bye hello " * (i % 3 + 1)) for i in range(9)]
CHOICES = [
    Preference(asked, *(("good", "bad") if user % 2 else ("bad day", "good")), user=f"u{user}")
    for user in range(5)
    for asked in ("hi", "bye", "hello")
]
SETTINGS: dict[str, Any] = {
    "batch_size": 4, "max_steps": 3, "learning_rate": 1e-3, "dtype": "float32", "tokens_per_pass": 32,
}  # fmt: skip
SAMPLED: dict[str, Any] = {**SETTINGS, "group_size": 3, "max_new_tokens": 4}
PAIRED: dict[str, Any] = {**SAMPLED, "group_size": 4}
REWARD, JUDGE, VERIFIER = {"reward": vowels}, {"judge": verdicts}, {"verifier": right}
HELD = {"eval_split": 0.3, "eval_every": 1}
WATCHED = {"watch": vowels, "watch_data": [Prompt("hello"), Prompt("day")], "watch_every": 1, "watch_tokens": 4}


@dataclass(frozen=True)
class Run:
    """A whole run of a method, with what `fit` is given besides; after `stop` steps it is stopped, and gone on with."""

    method: Any
    given: Mapping[str, Any]
    rows: Sequence[Any] = PROMPTS
    label: str = ""
    architecture: str = "llama"
    dtype: torch.dtype = torch.float64
    stop: int = 0

    @property
    def name(self) -> str:
        return "-".join(filter(None, (self.method.command, self.label, str(self.dtype).removeprefix("torch."))))


RUNS = [
    Run(Pretrain(**SETTINGS, max_length=8), {}, TEXTS),
    Run(PersonalReward(**SETTINGS, comparisons=3, reader_layers=1), HELD, CHOICES, stop=2),
    Run(PersonalReward(**SETTINGS, comparisons=3, reader_layers=1, planes=2), {}, CHOICES, "planes"),
    Run(FSPO(**SETTINGS, given=2), HELD, CHOICES, stop=2),
    Run(REINFORCE(**SAMPLED), REWARD),
    Run(RLOO(**{**SAMPLED, "tokens_per_pass": 1}), REWARD, label="mixtral", architecture="mixtral"),
    Run(OnlineDPO(**PAIRED), JUDGE, stop=2),
    Run(NashMD(**PAIRED, opponents=2, mixture=0.3), JUDGE),
    Run(NashMD(**PAIRED, mixture=0.3, mirror=0.1, lora_rank=2), JUDGE, label="adapters"),
    Run(NashMD(**PAIRED, past=2, snapshot_every=1, mirror=0.1), JUDGE, label="past", stop=2),
    Run(IPOMD(**PAIRED, mixture=0.3), JUDGE, stop=2),
    Run(STaR(**{**PAIRED, "max_steps": 2}, rounds=2), {**VERIFIER, **WATCHED}, stop=3),
    Run(SelfConsistency(**{**PAIRED, "max_steps": 2}, rounds=2, from_base=False), {"verifier": "exact"}, stop=3),
    Run(Distill(**SAMPLED, gamma=0.5), {"teacher": "qwen3", "eval_data": [Prompt("hello")], "eval_every": 1}, stop=2),
]
"""A prompt stands twice among those that are sampled for."""
EVERY = os.environ.get("ACCORD_RANKS") == "all"
"""Whether three ranks and float32 do all of it, which takes minutes more."""
NEAR = (PersonalReward, FSPO, OnlineDPO, NashMD, IPOMD, STaR, SelfConsistency, Distill)
if EVERY:
    RUNS += [
        replace(case, dtype=torch.float32, stop=0) for case in RUNS if isinstance(case.method, NEAR) and not case.label
    ]


def policy_for(architecture: str, dtype: torch.dtype, seed: int = 1) -> Policy:
    """A random policy that reads a few words."""
    policy = policy_of(random_model(ARCHITECTURES[architecture](), seed, dtype))
    policy.tokenizer = word_tokenizer()
    return policy


def run(case: Run, out: Path, *, stopped: bool = False) -> dict[str, Tensor]:
    """The whole run in its folder, stopped on its way or not; the gradients of its first update, as AdamW has them."""
    gradients: dict[str, Tensor] = {}
    given = dict(case.given)
    if "teacher" in given:
        given["teacher"] = policy_for(given["teacher"], case.dtype, seed=2)

    def note(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        if not gradients:
            weights = [p for group in optimizer.param_groups for p in group["params"]]
            gradients.update({str(i): gathered(p.grad).clone() for i, p in enumerate(weights) if p.grad is not None})

    def stop(step: int, _: StepResult) -> None:
        if step == case.stop:
            raise StopIteration

    hook = register_optimizer_step_pre_hook(note)
    given |= {"out": out, "track": "none"}
    if issubclass(case.method.options, SamplingOptions):
        given["sample_every"] = 1
    with patch("accord.report.refresh_report", conftest.blank):
        if stopped and case.stop:
            given["save_every"] = 1
            with suppress(StopIteration):
                case.method.fit(policy_for(case.architecture, case.dtype), case.rows, **given, on_step=stop)
            given["resume"] = True
        case.method.fit(policy_for(case.architecture, case.dtype), case.rows, **given)
    hook.remove()
    return gradients


def held() -> dict[str, Tensor]:
    """What share of networks that are only read this rank holds, and of the weights that rounds begin with."""
    nash = NashMD(**SETTINGS, past=2).learner(policy_for("llama", torch.float64), verdicts)
    taught = Distill(**SETTINGS).learner(policy_for("llama", torch.float64), policy_for("qwen3", torch.float64))
    rounds = STaR(**SETTINGS).learner(policy_for("llama", torch.float64), right).learn_from(PROMPTS, None)
    networks = {"reference": nash.reference, "teacher": taught.teacher, **dict(zip("ab", nash.past.kept, strict=True))}
    weights = {name: list(model.network.parameters()) for name, model in networks.items()}
    weights["base"] = list(rounds.base.values())
    shares = {
        name: sum(local(p).numel() for p in each) / sum(p.numel() for p in each) for name, each in weights.items()
    }
    return {name: torch.tensor(share) for name, share in shares.items()}


def runs_of(size: int) -> list[Run]:
    """Those that so many ranks make."""
    few = ("nash-md-past-float64", "rloo-mixtral-float64")
    return [case for case in RUNS if size == 2 or (case.dtype == torch.float64 if EVERY else case.name in few)]
