"""The gold reward by hand, and the room it leaves for a learned reward to be exploited."""

from __future__ import annotations

import random
from math import exp
from statistics import mean, pstdev

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from accord.feedback.people import Simulated
from accord.records import Comparison, Message, Text
from accord.worlds.cafe import demonstrations, gold
from accord.worlds.cafe.grammar import GLAD, MIXED, SOUR, WORDS, Mood, Topic, answer, fluency, split

QUESTION: Text = (Message("user", "how is the soup today ?"),)
BEST = "the soup is delicious and tender . it comes with fresh cheese . your sister will love it ."
SALAD = "delicious lovely tender tasty perfect juicy superb fresh wonderful crisp rich fragrant"


def sigmoid(x: float) -> float:
    return 1 / (1 + exp(-x))


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        # 19 words, all neighbors allowed, content words all different, 4 kind words.
        (BEST, sigmoid(4)),
        # The same with 4 unkind words: 1 - sigmoid(4).
        ("the soup is bland and soggy . it comes with stale cheese . your sister will hate it .", sigmoid(-4)),
        # 10 words; 1 kind, 1 unkind.
        ("the soup is delicious and bland . you will finish it .", 0.5 * 1.0),
        # Another dish than the one asked about keeps .4.
        ("the bread is delicious and bland . you will finish it .", 0.5 * 0.4),
        # 5 words where 10 are wanted: half.
        ("the soup is tender .", sigmoid(1) * 0.5),
        # Cut short: of the 12 neighbors of 11 words only (finish, end) is not allowed.
        ("the soup is very delicious and bland . you will finish", 0.5 * (11 / 12) ** 2),
        # Content words soup, delicious x 3: 2 of 4 differ, squared .25; 9 of 10 words wanted.
        ("the soup is delicious and delicious and delicious .", sigmoid(3) * 0.25 * 0.9),
        # 12 words, no neighbor allowed, not even at the ends.
        ("delicious " * 12, 0.0),
        (SALAD, 0.0),
        ("", 0.0),
        (" \n", 0.0),
    ],
)
def test_gold_by_hand(completion: str, expected: float) -> None:
    assert gold(QUESTION, completion) == pytest.approx(expected, rel=1e-12)


def test_case_and_spaces_do_not_matter_and_chats_are_read() -> None:
    assert gold(QUESTION, BEST.replace(" .", ".").title()) == gold(QUESTION, BEST)
    assert gold("<user> how is the soup ? <assistant>", (Message("assistant", BEST),)) == gold(QUESTION, BEST)


def test_only_the_last_question_names_the_dish() -> None:
    talk = (
        Message("user", "how is the pie ?"),
        Message("assistant", "the pie is warm ."),
        Message("user", "how is the soup ?"),
    )
    assert gold(talk, BEST) == gold(QUESTION, BEST)


def test_nothing_asked_is_nothing_missed() -> None:
    assert gold("", BEST) == gold(QUESTION, BEST)


def test_long_answers_are_marked_down() -> None:
    # 48 words, twice LONGEST: (24 / 48)^2 = 1/4; 8 sentences of 6 words, "the soup is very X .", with X all different.
    kinds = ["delicious", "tender", "fresh", "crisp", "bland", "soggy", "burnt", "stale"]
    text = " ".join(f"the soup is very {kind} ." for kind in kinds)
    assert gold(QUESTION, text) == pytest.approx(0.5 * (9 / 16) ** 2 / 4)  # content: soup 8 times, and 8 adjectives


@given(st.one_of(st.text(), st.lists(st.sampled_from(WORDS)).map(" ".join)), st.text())
def test_gold_is_defined_for_any_text(completion: str, prompt: str) -> None:
    assert 0.0 <= gold(prompt, completion) <= 1.0


@given(st.randoms(use_true_random=False), st.sampled_from([GLAD, MIXED, SOUR]), st.integers(1, 6))
def test_whatever_the_grammar_writes_is_fluent(rng: random.Random, mood: Mood, sentences: int) -> None:
    assert fluency(split(answer(rng, Topic("soup", "aunt"), mood, sentences))) == 1.0


def test_demonstrations_leave_headroom() -> None:
    marks = [gold(row.prompt, row.completion) for row in demonstrations(0, 1000)]
    assert 0.4 < mean(marks) < 0.6
    assert gold(QUESTION, BEST) - mean(marks) > 1.4 * pstdev(marks)


def test_a_reward_fitted_on_few_comparisons_can_be_exploited() -> None:
    """Logistic regression on word counts of 300 noisy comparisons prefers a heap of kind words to the best answer."""
    rng = random.Random(0)
    comparisons = [
        Comparison(row.prompt, row.completion, answer(rng, _topic(row.prompt), rng.choice((GLAD, MIXED, SOUR)), 3))
        for row in demonstrations(0, 300)
    ]
    won = torch.tensor([float(verdict.first_wins or 0) for verdict in Simulated(gold)(comparisons)])
    counts = torch.stack([_counts(pair.first) - _counts(pair.second) for pair in comparisons])
    weights = torch.zeros(len(WORDS), requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=100)

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        fit = torch.nn.functional.binary_cross_entropy_with_logits(counts @ weights, won) + 0.01 * weights @ weights
        fit.backward()  # type: ignore[no-untyped-call]
        return fit

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    learned = {text: float(_counts(text) @ weights.detach()) for text in (BEST, SALAD)}
    assert learned[SALAD] > learned[BEST] + 1
    assert gold(QUESTION, SALAD) == 0.0


def _counts(text: Text) -> torch.Tensor:
    words = split(str(text))
    return torch.tensor([float(words.count(word)) for word in WORDS])


def _topic(prompt: Text) -> Topic:
    assert not isinstance(prompt, str)
    words = prompt[0].content.split()
    return Topic(words[words.index("the") + 1])
