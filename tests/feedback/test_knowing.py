"""Grades of answers by hand, the truthful reward and when it pays to answer, and the rule of not knowing on labels."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from accord.errors import InputError
from accord.feedback.knowing import OPENING, does_not_know, grade
from accord.feedback.verifiers import truthful, verifier_named
from accord.records import Prompt
from tests.feedback.samples import sample

LABELED = yaml.safe_load((Path(__file__).parent / "not_knowing.yaml").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("text", "right", "wrong", "found"),
    [
        ("It is Canberra.", "Canberra.", ["Sydney"], "correct"),
        ("CANBERRA, of course", "canberra", [], "correct"),
        ("It is Sydney.", "Canberra", ["Sydney"], "incorrect"),
        ("Canberra or Sydney.", "Canberra", ["Sydney"], "incorrect"),  # who names both does not say which
        ("Melbourne.", "Canberra", ["Sydney"], "incorrect"),  # wrong, though nobody listed it
        ("I do not know.", "Canberra", ["Sydney"], "not attempted"),
        ("", "Canberra", ["Sydney"], "not attempted"),
        (" ... ", "Canberra", [], "not attempted"),
        ("I don't know, perhaps Canberra.", "Canberra", ["Sydney"], "correct"),
        ("I don't know, perhaps Sydney.", "Canberra", ["Sydney"], "incorrect"),
        ("It is in New York.", "New York", ["York"], "correct"),  # the right answer's own words are no wrong answer
        ("It is in York.", "New York", ["York"], "incorrect"),
        ("Icebergs.", "ice", [], "incorrect"),  # a part of another word
        ("I do not know.", None, ["basel"], "not attempted"),
        ("i do not know , basel .", None, ["basel"], "incorrect"),
        ("basel .", None, ["basel"], "incorrect"),
        ("Something else.", None, [], "incorrect"),
    ],
)
def test_grades_by_hand(text: str, right: str | None, wrong: list[str], found: str) -> None:
    assert grade(text, right, wrong) == found


def test_the_truthful_reward_by_hand() -> None:
    texts = ["basel .", "Basel", " BASEL.\n", "bern .", "basel bern .", "i do not know .", "", ".", "no , basel ."]
    rewards = truthful()([sample(text, answer="basel .") for text in texts])
    assert rewards.tolist() == [1, 1, 1, -1, -1, 0, -1, -1, -1]  # nothing said is not said to be unknown
    said = ["basel", "basel", "basel", "bern", "basel bern", None, None, None, "no basel"]
    assert [truthful().answer(text) for text in texts] == said
    # Where the right thing to say is that one does not know, that is the answer.
    unknown = truthful()([sample(text, answer="I do not know.") for text in ("i do not know .", "I can't tell.", "x")])
    assert unknown.tolist() == [1, 0, -1]
    assert truthful()([sample("18", answer=18)]).tolist() == [1]


@given(st.integers(1, 12), st.data())
def test_answering_pays_where_it_is_right_more_often_than_not(n: int, data: st.DataObject) -> None:
    # A guess of which `right` of n equally likely answers are right, against saying that one does not know.
    right = data.draw(st.integers(0, n))
    rewards = truthful()([sample("a", answer="a" if i < right else "b") for i in range(n)]).tolist()
    unsure = truthful()([sample("I do not know.", answer="a" if i < right else "b") for i in range(n)]).tolist()
    p = Fraction(right, n)
    assert Fraction(sum(map(int, rewards)), n) == 2 * p - 1 and set(unsure) == {0.0}
    assert (sum(rewards) > sum(unsure)) == (p > Fraction(1, 2))


def test_a_row_without_an_answer_is_refused() -> None:
    verifier = verifier_named("truthful@town")
    with pytest.raises(InputError, match="row 1 has no column 'town', which the verifier truthful reads"):
        verifier.check(Prompt("Where?", columns={"answer": "basel"}), 0)
    with pytest.raises(InputError, match="row 2, for the verifier truthful: there is no answer in 'town'"):
        verifier.check(Prompt("Where?", columns={"town": " ... "}), 1)
    with pytest.raises(InputError, match="'town' must be text or a number, not of type list"):
        verifier.check(Prompt("Where?", columns={"town": ["basel"]}), 1)


@pytest.mark.parametrize(("part", "n", "missed", "false"), [("fitted", 30, 0, 1), ("held_out", 10, 5, 3)])
def test_the_error_of_the_rule_on_labeled_answers(part: str, n: int, missed: int, false: int) -> None:
    labeled = LABELED[part]
    assert (len(labeled["unknown"]), len(labeled["answered"])) == (n, n)
    assert sum(not does_not_know(text) for text in labeled["unknown"]) == missed
    assert sum(does_not_know(text) for text in labeled["answered"]) == false


def test_not_knowing_stands_at_the_beginning() -> None:
    assert does_not_know("I don't know.") and not does_not_know("x" * OPENING + " I don't know.")
