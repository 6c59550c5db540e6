"""Scores of written answers: exact match, the final number, and ROUGE by hand."""

from __future__ import annotations

import sys

import pytest

from accord.data.tasks import METRICS
from accord.errors import InputError
from accord.evaluate import task_scores
from accord.evaluate.task_scores import exact, metric_named, number, spoken, voted


def test_every_metric_of_a_tasks_file_is_there() -> None:
    for name in METRICS:
        if name != "options":
            assert metric_named(name)("the 3 soups", ["the 3 soups"]) == 1.0
            assert metric_named(name)("", ["the 3 soups"]) == 0.0


def test_any_right_answer_will_do() -> None:
    assert exact("The soup.", ["stew", "the soup"]) == 1.0
    assert exact("soup", ["stew", "the soup"]) == 0.0
    assert number("so it is 12, or 1,200.", ["#### 1200"]) == 1.0
    assert number("twelve", ["12"]) == 0.0
    assert number("12", ["twelve"]) == 0.0  # no number equals no number


@pytest.mark.parametrize(
    ("kind", "answer", "score"),
    [
        # The right answer is "the cat sat on the mat", 6 words, 5 pairs.
        # the, cat, the, mat match of 5 words ("the" twice): P = 4/5, R = 4/6, F = 2 * 4 / (5 + 6).
        ("rouge-1", "The cat and the mat.", 8 / 11),
        # Pairs: the cat, cat and, and the, the mat; 2 of 4 are right: F = 2 * 2 / (4 + 5).
        ("rouge-2", "The cat and the mat.", 4 / 9),
        # The longest common subsequence is the cat the mat: 4 words.
        ("rouge-l", "The cat and the mat.", 8 / 11),
        # All words in another order: the same words; in order only "the cat" or "the mat" with "on": on the mat = 3.
        ("rouge-1", "on the mat the cat sat", 1.0),
        ("rouge-l", "on the mat the cat sat", 2 * 3 / 12),
        ("rouge-l", "dog", 0.0),
        ("rouge-l", "", 0.0),
    ],
)
def test_rouge_by_hand(kind: str, answer: str, score: float) -> None:
    assert metric_named(kind)(answer, ["the cat sat on the mat"]) == pytest.approx(score, abs=1e-12)
    assert metric_named(kind)(answer, ["nothing", "the cat sat on the mat"]) == pytest.approx(score, abs=1e-12)


def test_words_are_not_stemmed() -> None:
    assert metric_named("rouge-1")("cats", ["cat"]) == 0.0


def test_the_extra_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    task_scores._scorer.cache_clear()
    monkeypatch.setitem(sys.modules, "rouge_score.rouge_scorer", None)
    with pytest.raises(InputError, match="ROUGE needs the tasks extra: pip install rouge-score"):
        metric_named("rouge-l")
    task_scores._scorer.cache_clear()


def test_what_is_read_out_of_a_text_is_an_answer_of_its_kind() -> None:
    assert spoken("exact", "The Soup.", ()) == ("The Soup.", "the soup")
    assert spoken("number", "it is 1,200 coins", ()) == ("it is 1,200 coins", "1200")
    assert spoken("number", "twelve", ()) is None
    assert spoken("options", "Yes.", ["yes", "no"]) == ("yes", "yes")
    assert spoken("options", "perhaps", ["yes", "no"]) is None
    assert spoken("options", "(b) fiber", ["(A)", "(B)"]) == ("(B)", "(B)")
    assert spoken("options", "no, not that", ["no", "no, not"]) == ("no, not", "no, not")
    assert spoken("options", "nobody", ["yes", "no"]) is None
    assert spoken("options", "it is no", ["yes", "no"]) is None


def test_the_majority_answers() -> None:
    def of(*answers: str | None) -> list[tuple[str, str] | None]:
        return [None if answer is None else spoken("exact", answer, ()) for answer in answers]

    assert voted(of("stew", "Soup.", "soup"), exact, ["soup"]) == ("Soup.", 1.0)
    assert voted(of("stew", "stew", "soup"), exact, ["soup"]) == ("stew", 0.0)
    # What cannot be read does not vote; of several that lead one is drawn by lot, so that half of the lots are right.
    assert voted(of(None, None, "soup"), exact, ["soup"]) == ("soup", 1.0)
    assert voted(of("stew", "soup", None), exact, ["soup"]) == ("stew", 0.5)
    assert voted(of(None, None), exact, ["soup"]) == (None, 0.0)
    assert voted([("12.0 coins", "12"), ("12", "12"), ("3", "3")], number, ["12"]) == ("12.0 coins", 1.0)
