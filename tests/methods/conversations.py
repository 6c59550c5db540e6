"""A world of 21 conversations, small enough that the policy's gradient over all of them is exact.

An answer is one token a of five, 0 is an answer to which the user says no more, and to any other the user says the two
tokens a + 1 (mod 5) and 0, after which there is one more answer.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import torch
from torch import Tensor
from transformers import GPT2Config

from accord.engine.forward import log_probabilities
from accord.engine.trees import Branch, Tree, Trees
from accord.methods.policy_gradient import GradientLearner, PolicyGradient
from accord.objectives.segments import segment_sum
from accord.records import Completion, EncodedPrompt, Message, Prompt, Sample
from tests.engine.tiny import plain_log_probabilities, policy_of, random_model

TOKENS, START = 5, (3, 1)

ASKED = EncodedPrompt(Prompt((Message("user", "?"),)), START, 0)

ANSWERS = [(0,), *product(range(1, TOKENS), range(TOKENS))]
"""The answers of every conversation."""

REWARD = torch.rand(len(ANSWERS), generator=torch.Generator().manual_seed(3), dtype=torch.float64)

SIZES = {"n_positions": 16, "n_embd": 16, "n_layer": 2, "n_head": 2, "attn_implementation": "eager"}


def network(seed: int) -> Any:
    return random_model(GPT2Config(vocab_size=TOKENS, bos_token_id=None, eos_token_id=0, **SIZES), seed)


def branch(answers: tuple[int, ...]) -> Branch:
    """The conversation by hand."""
    if len(answers) == 1:
        return Branch(answers)
    first, second = answers
    return Branch((first, (first + 1) % TOKENS, 0, second), (True, False, False, True))


EVERY = Tree(START, tuple(map(branch, ANSWERS)))


def talks_by(model: Any) -> list[list[Sample]]:
    """Every conversation as a sampler gives it: a sample a turn, with its log-probability."""
    with torch.no_grad():
        logps = iter(log_probabilities(model, Trees.of([EVERY]))[0].tolist())
    talks = []
    for answers in ANSWERS:
        tokens, talk = START, []
        for i, answer in enumerate(answers):
            talk.append(Sample(ASKED.prompt, "", tokens, Completion((answer,), (next(logps),), "end"), 0))
            tokens = (*tokens, answer, (answers[0] + 1) % TOKENS, 0) if not i else tokens
        talks.append(talk)
    return talks


def learner_of(method: PolicyGradient) -> GradientLearner:
    """A policy whose reference is another random model."""
    learner = method.learner(policy_of(network(1)), lambda samples: torch.zeros(len(samples)))
    assert isinstance(learner, GradientLearner)
    if learner.reference is not None:
        learner.reference.network.load_state_dict(network(2).state_dict())
    return learner


def conversation_logps(model: Any) -> Tensor:
    """log pi of the answers of every conversation, by plain transformers, (21,)."""
    owner = torch.tensor([i for i, answers in enumerate(ANSWERS) for _ in answers])
    return segment_sum(plain_log_probabilities(model, [EVERY]), owner, len(ANSWERS))


def scripted(*rewards: float) -> Any:
    """A reward of so much for a conversation's first answer, its second ..., NaN for none."""

    def reward(samples: list[Sample]) -> Tensor:
        turns = [sum(m.role == "assistant" for m in s.prompt.prompt) for s in samples]  # type: ignore[union-attr]
        return torch.tensor([rewards[turn] for turn in turns])

    reward.abstains = True  # type: ignore[attr-defined]
    return reward
