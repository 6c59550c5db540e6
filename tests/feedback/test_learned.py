"""Reward models as rewards and judges: the order of the samples is kept, and other tokenizers are spoken to in text."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2ForSequenceClassification, PreTrainedTokenizerFast

from accord.engine.classifiers import PreferenceNetwork, Scorer
from accord.engine.models import Policy, prepare_network
from accord.engine.trees import Branch, Tree, Trees
from accord.feedback.learned import Learned, LearnedJudge, LearnedReward, Tokens, grow
from accord.feedback.named import judge_named
from accord.objectives.preference import general_preference
from accord.records import Comparison, Completion, Message, Prompt, Sample, Verdict
from tests.data.conftest import WORDS, word_tokenizer
from tests.engine.tiny import CONFIGS, policy_of, random_model, randomize, tree_lists


def network(labels: int) -> GPT2ForSequenceClassification:
    config = CONFIGS["gpt2"]()
    config.num_labels = labels
    made: GPT2ForSequenceClassification = randomize(GPT2ForSequenceClassification(config), 3).double().eval()
    return made


SCORER = Scorer(prepare_network(network(1)), word_tokenizer(), "random")
COMPARER = PreferenceNetwork(prepare_network(network(5)), word_tokenizer(), "random")


def plain(*tokens: int) -> float:
    """The score of a sequence by a forward of its own, through the trunk and the head."""
    with torch.no_grad():
        hidden = SCORER.network.base_model(torch.tensor([tokens])).last_hidden_state[0, -1]
        return float(SCORER.network.score(hidden))


def odds(first: Tokens, second: Tokens) -> float:
    """The log-odds of two sequences under the preference model, by a forward of transformers each."""
    with torch.no_grad():
        labels = [COMPARER.network(torch.tensor([tokens])).logits for tokens in (first, second)]
    return float(general_preference(*labels))


def chance(log_odds: float) -> float:
    return float(torch.tensor(log_odds, dtype=torch.float64).sigmoid())


def said(
    prompt: str, text: str, prompt_tokens: Tokens, tokens: Tokens, stop: Literal["end", "length"] = "end"
) -> Sample:
    return Sample(Prompt(prompt), text, prompt_tokens, Completion(tokens, (0.0,) * len(tokens), stop))


def won(verdicts: list[Verdict]) -> list[float]:
    """The probabilities of verdicts that are all valid."""
    return [v.first_wins for v in verdicts if v.first_wins is not None]


@given(tree_lists(), st.integers(1, 30))
def test_scores_keep_their_order_in_any_packing(trees: list[Tree], budget: int) -> None:
    expected = [plain(*tree.prompt, *branch.tokens) for tree in trees for branch in tree.branches]
    scores = LearnedReward(SCORER, tokens_per_pass=budget).of_trees(trees).squeeze(1)
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


def other_policy() -> Policy:
    """A policy whose tokenizer has the same words in another order."""
    reversed_words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(reversed(WORDS))}, unk_token="<unk>"))
    reversed_words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    policy = policy_of(random_model(CONFIGS["gpt2"]()))
    policy.tokenizer = PreTrainedTokenizerFast(tokenizer_object=reversed_words, eos_token="</s>", unk_token="<unk>")
    return policy


def test_another_tokenizer_s_samples_are_tokenized_again() -> None:
    reward = LearnedReward(SCORER, other_policy())
    assert not reward.shares_tokens
    samples = [said("hi", "good day", (5,), (3, 1, 9)), said("bye", "hello", (0,), (4, 9))]
    assert reward(samples).tolist() == pytest.approx([plain(6, 8, 10, 2), plain(11, 7, 2)], abs=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_scorer_given_keeps_its_weights_and_can_still_be_trained(dtype: str) -> None:
    start = policy_of(random_model(CONFIGS["gpt2"](), dtype=torch.float32))
    start.tokenizer = word_tokenizer()
    scorer = Scorer.on(start, seed=3).in_dtype(dtype)
    network, before = scorer.network, {k: v.clone() for k, v in scorer.network.state_dict().items()}
    tree = Tree((6,), (Branch((7, 2)), Branch((8, 10, 2))))
    scores = LearnedReward(scorer, start).of_trees([tree]).squeeze(1)
    with torch.no_grad():
        assert torch.equal(scores, scorer.rewards(Trees.of([tree])).float())
    assert scorer.network is network and all(p.requires_grad for p in network.parameters())
    assert all(torch.equal(v, before[k]) and v.dtype == torch.float32 for k, v in network.state_dict().items())


def test_one_policy_of_another_vocabulary_is_enough_to_read_texts() -> None:
    reward = LearnedReward(SCORER, SCORER)
    for policy, shares in ((SCORER, True), (other_policy(), False), (SCORER, False)):
        reward.listen(policy)
        assert reward.shares_tokens == shares


def test_a_cut_sample_is_not_scored_as_though_it_had_ended() -> None:
    # "good day" without </s> (2), whoever's tokens it comes in; what ended, and texts of no sampler, have it.
    cut, ended = said("hi", "good day", (6,), (8, 10), "length"), said("hi", "good day", (6,), (8, 10, 2))
    expected = [plain(6, 8, 10), plain(6, 8, 10, 2)]
    assert abs(expected[0] - expected[1]) > 1e-2
    for policy in (SCORER, other_policy()):
        assert LearnedReward(SCORER, policy)([cut, ended]).tolist() == pytest.approx(expected, abs=1e-6)
        (verdict,) = won(LearnedJudge(SCORER, policy).samples([cut], [ended]))
        assert verdict == pytest.approx(chance(expected[0] - expected[1]), abs=1e-6)
    # Of a cut sample whose text says nothing, the end of turn is all that can be read.
    assert LearnedReward(SCORER, other_policy())([said("hi", "", (5,), (9,), "length")]).tolist() == pytest.approx(
        [plain(6, 2)], abs=1e-6
    )


@given(tree_lists(), st.integers(1, 30), st.data())
def test_every_distinct_completion_is_computed_once(trees: list[Tree], budget: int, data: st.DataObject) -> None:
    pairs = [(tree.prompt, branch.tokens) for tree in trees for branch in tree.branches]
    asked = data.draw(st.lists(st.sampled_from(pairs), max_size=12))
    grown, place = grow(asked, budget)
    branches = [(tree.prompt, branch.tokens) for tree in grown for branch in tree.branches]
    assert [branches[i] for i in place] == asked
    assert sorted(branches) == sorted(set(asked))
    # A tree with more than one branch outgrows the budget by less than its last branch.
    assert all(tree.size - len(tree.branches[-1].tokens) < max(budget, len(tree.prompt) + 1) for tree in grown)


def test_a_prompt_is_shared_where_its_completions_stand_apart() -> None:
    trees, place = grow([((6,), (7, 2)), ((11,), (8, 2)), ((6,), (9, 2)), ((6,), (7, 2))], 100)
    assert trees == [Tree((6,), (Branch((7, 2)), Branch((9, 2)))), Tree((11,), (Branch((8, 2)),))]
    assert place == [0, 2, 1, 0]


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


def test_the_preference_judge_is_the_preference_model_of_texts_and_of_samples() -> None:
    judge = LearnedJudge(COMPARER, COMPARER)
    texts = [Comparison("hi", "good", "bad"), Comparison("bye", "day day", "good"), Comparison("hi", "bad", "good")]
    ahead, other = odds((6, 8, 2), (6, 9, 2)), odds((11, 10, 10, 2), (11, 8, 2))
    expected = [chance(ahead), chance(other), chance(-ahead)]
    assert won(judge(texts)) == pytest.approx(expected, abs=1e-6)
    # Tokens that no text gives, one of them cut.
    first = [said("hi", "x", (6,), (7, 1, 2)), said("bye", "x", (11,), (8, 2))]
    second = [said("hi", "x", (6,), (9,), "length"), said("bye", "x", (11,), (10, 2))]
    expected = [chance(odds((6, 7, 1, 2), (6, 9))), chance(odds((11, 8, 2), (11, 10, 2)))]
    assert won(judge.samples(first, second)) == pytest.approx(expected, abs=1e-6)
    assert judge([]) == judge.samples([], []) == []


@given(tree_lists(), st.integers(1, 30), st.data())
def test_a_preference_judge_s_chances_of_a_pair_sum_to_one(trees: list[Tree], budget: int, data: st.DataObject) -> None:
    answers = [said("p", "x", tree.prompt, branch.tokens) for tree in trees for branch in tree.branches]
    pairs = data.draw(st.lists(st.tuples(st.sampled_from(answers), st.sampled_from(answers)), min_size=1, max_size=6))
    first, second = map(list, zip(*pairs, strict=True))
    judge = LearnedJudge(COMPARER, COMPARER, tokens_per_pass=budget)
    chances = won(judge.samples(first + second + first, second + first + first))
    for i in range(len(pairs)):
        assert chances[i] + chances[len(pairs) + i] == pytest.approx(1, abs=1e-15)
        assert chances[2 * len(pairs) + i] == 0.5


def test_a_model_gone_wrong_gives_no_verdict() -> None:
    broken = PreferenceNetwork(prepare_network(network(3)), word_tokenizer(), "broken")
    broken.network.score.weight.data[1] = float("nan")
    (verdict,) = LearnedJudge(broken)([Comparison("hi", "good", "bad")])
    assert verdict.first_wins is None and "nan" in verdict.reason


@pytest.mark.parametrize("made", [SCORER, COMPARER])
def test_a_folder_judges_by_what_it_holds(made: Scorer | PreferenceNetwork, tmp_path: Path) -> None:
    kind = PreferenceNetwork if isinstance(made, PreferenceNetwork) else Scorer
    start = policy_of(random_model(CONFIGS["gpt2"](), dtype=torch.float32))
    start.tokenizer = word_tokenizer()
    model = PreferenceNetwork.on(start, 2) if kind is PreferenceNetwork else Scorer.on(start)
    texts = [Comparison("hi", "good", "bad"), Comparison("bye", "day day", "good")]
    judge = judge_named(str(model.save(tmp_path / "model")), start)
    assert type(judge.model) is kind and judge.shares_tokens
    assert won(judge(texts)) == won(LearnedJudge(model)(texts))
    assert not judge_named(str(tmp_path / "model"), other_policy()).shares_tokens


def test_labels_come_in_the_order_of_the_branches() -> None:
    trees = [Tree((6,), (Branch((7, 2)), Branch((8, 2)))), Tree((11, 6), (Branch((9,)),))]
    rows = Learned(COMPARER, tokens_per_pass=4).of_trees(trees)
    with torch.no_grad():
        plainly = [COMPARER.network(torch.tensor([t])).logits[0] for t in ((6, 7, 2), (6, 8, 2), (11, 6, 9))]
    assert rows.shape == (3, 5) and rows.dtype == torch.float32
    torch.testing.assert_close(rows, torch.stack(plainly).float(), rtol=0, atol=1e-6)


def test_equal_branches_get_equal_scores() -> None:
    scores = LearnedReward(SCORER).of_trees([Tree((6,), (Branch((7, 2)), Branch((8, 2)), Branch((7, 2))))])
    assert scores[0] == pytest.approx(float(scores[2]), abs=1e-9)
