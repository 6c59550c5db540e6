"""What models answer: best of n, a divergence of exactly nothing from oneself, and tokens as texts."""

from __future__ import annotations

from collections.abc import Sequence
from math import log

import pytest
import torch

from accord.engine.models import Policy
from accord.engine.sampling import Sampling
from accord.engine.trees import Branch, Tree
from accord.evaluate.answers import Answers, best_of, sampled, token_divergences, traced
from accord.evaluate.models import table
from accord.records import Completion, EncodedPrompt, Prompt, Sample
from tests.data.conftest import word_tokenizer
from tests.engine.tiny import CONFIGS, plain_log_probabilities, policy_of, random_model

PROMPTS = [EncodedPrompt(Prompt("hi"), (6,), 0), EncodedPrompt(Prompt("good day"), (8, 10), 1)]
SAMPLING = Sampling(5, 0.7, seed=3)


def answers(name: str, *texts: str) -> Answers:
    """One answer to a prompt a text; its tokens are its letters, and it ends unless it says so."""
    made = []
    for i, text in enumerate(texts):
        stop = "length" if text.endswith("...") else "end"
        tokens = tuple(range(len(text)))
        made.append(Sample(Prompt(f"p{i}"), text, (1,), Completion(tokens, (0.0,) * len(tokens), stop)))
    return Answers(name, made)


def policy_at(seed: int = 1) -> Policy:
    policy = policy_of(random_model(CONFIGS["gpt2"](), seed))
    policy.tokenizer = word_tokenizer()
    return policy


def test_best_of_takes_the_highest_proxy() -> None:
    best = best_of(answers("m", *"abcdef"), 3, torch.tensor([0.1, 0.9, 0.5, -1.0, -3.0, -2.0]))
    assert [s.text for s in best.samples] == ["b", "d"]
    assert (best.name, best.kl) == ("m best of 3", pytest.approx(log(3) - 2 / 3))


def test_a_model_does_not_diverge_from_itself() -> None:
    policy = policy_at()
    own = sampled(policy, PROMPTS, 4, SAMPLING)
    assert [float(ratio.sum()) for ratio in token_divergences(own, policy, policy, 0.7)] == [0.0] * 8


def test_divergence_is_the_difference_of_two_plain_log_probabilities() -> None:
    policy, reference, plain = policy_at(1), policy_at(2), Sampling(5, seed=3)
    own = sampled(policy, PROMPTS, 3, plain)
    assert [s.prompt.prompt for s in own] == ["hi"] * 3 + ["good day"] * 3
    expected = []
    for s in own:
        tree = [Tree(s.prompt_tokens, (Branch(s.completion.tokens),))]
        with torch.no_grad():
            pi, ref = (plain_log_probabilities(random_model(CONFIGS["gpt2"](), seed), tree) for seed in (1, 2))
        expected.append(float((pi - ref).sum()))
        assert sum(s.completion.logprobs) == pytest.approx(float(pi.sum()), abs=1e-9)
    divergences = [float(ratio.sum()) for ratio in token_divergences(own, policy, reference)]
    assert divergences == pytest.approx(expected, abs=1e-9)


def test_tokens_as_texts_make_up_the_answer() -> None:
    # The small tokenizer has a token a word, and shows the space between two of them only where they stand together.
    policy, tokens = policy_at(), (8, 10, 2)
    found = traced(policy, tokens, (0.5, -0.25, 0.0))
    assert "".join(text for text, _ in found) == policy.tokenizer.decode(list(tokens))
    assert [ratio for _, ratio in found] == [0.5, -0.25, 0.0]
    assert found[0][0] == "good" and found[1][0] == " day" and policy.tokenizer.eos_token in found[2][0]


def test_the_table_by_hand() -> None:
    def length(samples: Sequence[Sample]) -> torch.Tensor:
        return torch.tensor([float(len(s.text)) for s in samples])

    base, tuned = answers("base", "a", "bb..."), answers("tuned", "aaa", "bbbbbbb")
    tuned = Answers("tuned", tuned.samples, kl=torch.tensor([1.0, 2.0]))
    bounded = Answers("base best of 2", base.samples, kl=0.25)
    for model in (base, tuned, bounded):
        model.scores["length"] = length(model.samples)
    first, second, third = table([base, tuned, bounded], [])
    assert [r.name for r in (first, second, third)] == ["base", "tuned", "base best of 2"]
    assert first.kl is None
    assert [r.scores["length"].estimate for r in (first, second)] == [3.0, 5.0]  # (1 + 5) / 2, (3 + 7) / 2
    assert second.kl is not None and (second.kl.estimate, second.kl.bound) == (1.5, False)
    assert third.kl is not None and (third.kl.estimate, third.kl.bound) == (0.25, True)
    assert [(r.length, r.ended) for r in (first, second)] == [(3.0, 0.5), (5.0, 1.0)]
