"""Reward models as rewards and judges: the order of the samples is kept, and other tokenizers are spoken to in text."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2ForSequenceClassification, PreTrainedTokenizerFast

from accord.engine.models import Scorer
from accord.engine.trees import Branch, Tree
from accord.feedback.learned import LearnedJudge, LearnedReward
from accord.records import Comparison, Completion, Message, Prompt, Sample
from tests.data.conftest import WORDS, word_tokenizer
from tests.engine.tiny import CONFIGS, policy_of, random_model, randomise, tree_lists


def scorer() -> Scorer:
    config = CONFIGS["gpt2"]()
    config.num_labels = 1
    return Scorer(randomise(GPT2ForSequenceClassification(config), 3).double().eval(), word_tokenizer(), "random")


SCORER = scorer()


def plain(*tokens: int) -> float:
    """The score of a sequence by a forward of its own, through the trunk and the head."""
    with torch.no_grad():
        hidden = SCORER.network.base_model(torch.tensor([tokens])).last_hidden_state[0, -1]
        return float(SCORER.network.score(hidden))


def said(prompt: str, text: str, prompt_tokens: tuple[int, ...], tokens: tuple[int, ...]) -> Sample:
    return Sample(Prompt(prompt), text, prompt_tokens, Completion(tokens, (0.0,) * len(tokens), "end"))


@given(tree_lists(), st.integers(1, 30))
def test_scores_keep_their_order_in_any_packing(trees: list[Tree], budget: int) -> None:
    expected = [plain(*tree.prompt, *branch.tokens) for tree in trees for branch in tree.branches]
    scores = LearnedReward(SCORER, tokens_per_pass=budget).score(trees)
    assert scores.dtype == torch.float32
    assert scores.tolist() == pytest.approx(expected, abs=1e-6)


def test_samples_are_scored_by_their_own_tokens() -> None:
    # Tokens that no text gives: the sampler's, not those of the decoded text, are what was said.
    samples = [said("hi", "x", (6,), (7, 1, 2)), said("hi", "x", (6,), (9,)), said("bye", "x", (11,), (8, 2))]
    reward = LearnedReward(SCORER, SCORER)
    assert reward.shares_tokens
    assert reward(samples).tolist() == pytest.approx([plain(6, 7, 1, 2), plain(6, 9), plain(11, 8, 2)], abs=1e-6)
    alternating = [samples[0], samples[2], samples[1]]
    assert reward(alternating).tolist() == pytest.approx([plain(6, 7, 1, 2), plain(11, 8, 2), plain(6, 9)], abs=1e-6)


def test_another_tokenizer_s_samples_are_tokenised_again() -> None:
    reversed_words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(reversed(WORDS))}, unk_token="<unk>"))
    reversed_words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    policy = policy_of(random_model(CONFIGS["gpt2"]()))
    policy.tokenizer = PreTrainedTokenizerFast(tokenizer_object=reversed_words, eos_token="</s>", unk_token="<unk>")
    reward = LearnedReward(SCORER, policy)
    assert not reward.shares_tokens
    samples = [said("hi", "good day", (5,), (3, 1, 9)), said("bye", "hello", (0,), (4, 9))]
    assert reward(samples).tolist() == pytest.approx([plain(6, 8, 10, 2), plain(11, 7, 2)], abs=1e-6)


def test_chats_are_written_by_the_scorer_s_template() -> None:
    prompt = (Message("system", "day"), Message("user", "hi"))
    # <system>day</s> <user>hi</s> <assistant> and then bye </s>
    words = ["<system>", "day", "</s>", "<user>", "hi", "</s>", "<assistant>", "bye", "</s>"]
    expected = plain(*map(WORDS.index, words))
    assert LearnedReward(SCORER).texts([(prompt, "bye")]).tolist() == pytest.approx([expected], abs=1e-6)


def test_the_judge_is_bradley_terry() -> None:
    first, second = plain(6, 8, 2), plain(6, 9, 2)
    sure, unsure, turned = LearnedJudge(SCORER)(
        [Comparison("hi", "good", "bad"), Comparison("hi", "bad", "bad"), Comparison("hi", "bad", "good")]
    )
    expected = 1 / (1 + torch.tensor(second - first).exp())
    assert sure.first_wins == pytest.approx(float(expected), abs=1e-6)
    assert unsure.first_wins == 0.5
    assert sure.first_wins is not None and turned.first_wins is not None
    assert sure.first_wins + turned.first_wins == pytest.approx(1, abs=1e-12)


def test_equal_branches_get_equal_scores() -> None:
    scores = LearnedReward(SCORER).score([Tree((6,), (Branch((7, 2)), Branch((8, 2)), Branch((7, 2))))])
    assert scores[0] == pytest.approx(float(scores[2]), abs=1e-9)
