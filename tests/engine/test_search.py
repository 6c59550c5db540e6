"""Beam search beside every completion there is; guided search beside best of n, and beside the same by hand."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path

import pytest
import torch
from torch import Tensor

from accord.engine.load import load_model
from accord.engine.models import Policy
from accord.engine.sampling import Sampling
from accord.engine.search import beam_search, guided_search
from accord.engine.trees import Branch, Tree, Trees
from accord.errors import InputError
from accord.records import EncodedPrompt, Prompt, Sample
from tests.commands.small import save_model
from tests.data.conftest import BAD, EOS, GOOD, HI, WORDS

PROMPTS = [EncodedPrompt(Prompt("hi"), (HI,), 0), EncodedPrompt(Prompt("good hi"), (GOOD, HI), 1)]


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    return load_model(save_model(tmp_path_factory.mktemp("models") / "base"), dtype="float32")


def tokens_of(samples: Sequence[Sample]) -> list[tuple[int, ...]]:
    return [sample.completion.tokens for sample in samples]


def log_probs(policy: Policy, prompt: EncodedPrompt, rows: Sequence[tuple[int, ...]]) -> list[float]:
    with torch.no_grad():
        trees = Trees.of([Tree(prompt.tokens, tuple(map(Branch, rows)))])
        return policy.branch_log_probs(trees).tolist()


@pytest.mark.parametrize("penalty", [0.0, 1.0, 2.0])
def test_wide_beams_find_the_best_of_all_completions(policy: Policy, penalty: float) -> None:
    # Of 12 tokens and at most 3 steps: those that end early, and all others at their third token.
    others = [token for token in range(len(WORDS)) if token != EOS]
    every = [(*head, last) for k in (1, 2, 3) for head in product(others, repeat=k - 1) for last in [*others, EOS]]
    every = [row for row in every if len(row) == 3 or row[-1] == EOS]
    for prompt in PROMPTS:
        scores = [logp / len(row) ** penalty for row, logp in zip(every, log_probs(policy, prompt, every), strict=True)]
        ranked = sorted(zip(scores, every, strict=True), reverse=True)[:4]
        found = beam_search(policy, [prompt], 4, Sampling(3), beams=140, length_penalty=penalty)
        assert tokens_of(found) == [row for _, row in ranked]
        for sample, (score, row) in zip(found, ranked, strict=True):
            assert sum(sample.completion.logprobs) / len(row) ** penalty == pytest.approx(score, abs=1e-5)
            assert sample.completion.stop == ("end" if row[-1] == EOS else "length")
            assert sample.text == policy.text(row) and (sample.row, sample.prompt) == (prompt.row, prompt.prompt)


def test_one_beam_is_greedy_and_leaves_the_model_as_it_was(policy: Policy) -> None:
    greedy = policy.sample(PROMPTS, 1, Sampling(6, temperature=0.0))
    own = policy.network.generation_config
    own.repetition_penalty = 5.0  # a setting of the model's own is not mixed in
    assert tokens_of(beam_search(policy, PROMPTS, 1, Sampling(6), beams=1)) == tokens_of(greedy)
    assert policy.network.generation_config is own and own.repetition_penalty == 5.0
    own.repetition_penalty = None
    assert tokens_of(policy.sample(PROMPTS, 1, Sampling(6, temperature=0.0))) == tokens_of(greedy)


def test_beams_keep_to_the_limits(policy: Policy) -> None:
    done: list[int] = []
    found = beam_search(policy, PROMPTS, 2, Sampling(5, min_new_tokens=4), beams=3, progress=done.append)
    assert all(len(row) >= 4 and EOS not in row[:3] for row in tokens_of(found)) and done == [2, 2]
    with pytest.raises(InputError, match="with 3 beams finds at most as many completions of a prompt, not 4"):
        beam_search(policy, PROMPTS, 4, Sampling(5), beams=3)
    with pytest.raises(InputError, match="there are fewer than 14 completions of at most 1 tokens"):
        beam_search(policy, PROMPTS, 14, Sampling(1), beams=14)


def goodness(samples: Sequence[Sample]) -> Tensor:
    """How many of the tokens are good, less the bad ones; of equals the longer."""
    rows = tokens_of(samples)
    return torch.tensor([row.count(GOOD) - row.count(BAD) + 0.01 * len(row) for row in rows])


@pytest.mark.parametrize(("beams", "branch"), [(1, 6), (3, 2), (6, 1)])
def test_a_block_as_long_as_the_completion_is_best_of_n(policy: Policy, beams: int, branch: int) -> None:
    sampling = Sampling(6, seed=3)
    found = guided_search(policy, PROMPTS, 1, sampling, score=goodness, beams=beams, branch=branch, block=6)
    drawn = policy.sample(PROMPTS, 6, sampling)
    groups = [drawn[:6], drawn[6:]]
    assert found == [group[int(goodness(group).argmax())] for group in groups]


def test_one_beam_by_hand(policy: Policy) -> None:
    # Three continuations of two tokens, the best goes on, until it ends or has seven.
    sampling = Sampling(7, temperature=0.8, seed=1)
    done: list[int] = []
    found = guided_search(
        policy, PROMPTS, 1, sampling, score=goodness, beams=1, branch=3, block=2, progress=done.append
    )
    for prompt, sample in zip(PROMPTS, found, strict=True):
        tokens: tuple[int, ...] = ()
        while len(tokens) < 7 and EOS not in tokens:
            head = EncodedPrompt(prompt.prompt, prompt.tokens + tokens, prompt.row)
            more = policy.sample([head], 3, Sampling(min(2, 7 - len(tokens)), temperature=0.8, seed=1))
            rows = [tokens + row for row in tokens_of(more)]
            scores = [row.count(GOOD) - row.count(BAD) + 0.01 * len(row) for row in rows]
            tokens = rows[scores.index(max(scores))]
        assert sample.completion.tokens == tokens
        assert sample.completion.stop == ("end" if tokens[-1] == EOS else "length")
        with torch.no_grad():
            expected = policy.log_probs(Trees.of([Tree(prompt.tokens, (Branch(tokens),))]), 0.8)
        assert sample.completion.logprobs == pytest.approx(expected.tolist(), abs=1e-4)
    assert sum(done) == 2


def test_what_has_ended_keeps_its_place_by_its_score(policy: Policy) -> None:
    # Ended completions score highest, so that as soon as two have ended nothing more is drawn.
    calls: list[int] = []

    def ended(samples: Sequence[Sample]) -> Tensor:
        calls.append(len(samples))
        return torch.tensor([float(sample.completion.stop == "end") for sample in samples])

    found = guided_search(policy, PROMPTS, 2, Sampling(30), score=ended, beams=2, branch=8, block=5)
    assert [sample.completion.stop for sample in found] == ["end"] * 4
    assert calls[0] == 2 * 2 * 8 and sum(calls) < 2 * 2 * 8 * 6


def test_no_score_is_the_lowest_and_the_wrong_is_refused(policy: Policy) -> None:
    def sparing(samples: Sequence[Sample]) -> Tensor:
        return torch.tensor([float("nan")] * (len(samples) - 1) + [-5.0])

    last = policy.sample(PROMPTS[:1], 4, Sampling(3))[-1]
    assert guided_search(policy, PROMPTS[:1], 1, Sampling(3), score=sparing, beams=1, branch=4, block=3) == [last]
    with pytest.raises(InputError, match="a search with 1 beams finds at most as many"):
        guided_search(policy, PROMPTS, 2, Sampling(3), score=goodness, beams=1, branch=4, block=3)
    with pytest.raises(InputError, match="leave out the texts to stop at"):
        guided_search(policy, PROMPTS, 1, Sampling(3, stop=("x",)), score=goodness, beams=1, branch=4, block=3)


def test_models_are_found_where_they_are(tmp_path: Path) -> None:
    """Other rows of the output layer than the tokenizer has tokens are never found."""
    policy = load_model(save_model(tmp_path / "grown"), dtype="float32")
    policy.network.resize_token_embeddings(len(WORDS) + 4, mean_resizing=False)
    with torch.no_grad():
        policy.network.get_output_embeddings().weight[len(WORDS) :] = 50.0  # type: ignore[union-attr]
    found = beam_search(policy, PROMPTS, 2, Sampling(4), beams=2)
    assert all(token < len(WORDS) for row in tokens_of(found) for token in row)
