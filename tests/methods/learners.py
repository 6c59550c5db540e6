"""Prompts, a policy and a reward to learn from, and an optimizer that only counts."""

from __future__ import annotations

import torch

from accord.engine.fit import LossTerm
from accord.engine.models import Policy
from accord.feedback.reward import TextReward
from accord.records import EncodedPrompt, Prompt
from tests.data.conftest import word_tokenizer
from tests.engine.tiny import CONFIGS, policy_of, random_model

PROMPTS = [
    EncodedPrompt(Prompt(text), tokens, row)
    for row, (text, tokens) in enumerate({"hi": (6,), "hello day": (7, 10), "good bye bad": (8, 11, 9)}.items())
]

LENGTH = TextReward(lambda prompt, text: float(len(text)))


def policy_at(kind: str = "gpt2", dtype: torch.dtype = torch.float64) -> Policy:
    """GPT-2 unless told otherwise: in float64 it computes nothing in less."""
    policy = policy_of(random_model(CONFIGS[kind](), dtype=dtype))
    policy.tokenizer = word_tokenizer()
    return policy


class Counting:
    """In an optimizer's place: notes the work of every update and moves nothing."""

    def __init__(self) -> None:
        self.work: list[tuple[LossTerm, ...]] = []

    def update(self, step: int, *work: LossTerm) -> dict[str, float]:
        self.work.append(work)
        return {"loss": float(len(self.work))}
