"""People's verdicts, looked up by the prompt and both texts in either order: ties, shares, and what nobody said."""

from __future__ import annotations

from pathlib import Path

import pytest

from accord.errors import InputError
from accord.feedback.judge import judge_samples
from accord.feedback.named import judge_named, only_compares
from accord.feedback.people import Recorded
from accord.files import write_rows
from accord.records import Comparison, Demonstration, Message, Preference, Ranking, Verdict
from tests.feedback.samples import sample

ROWS = [
    Preference("q", "good", "bad"),
    Ranking("r", ("one", "two", "three"), (0, 1, 0)),
]


def asked(judge: Recorded, prompt: str, first: str, second: str) -> float | None:
    (verdict,) = judge([Comparison(prompt, first, second)])
    return verdict.first_wins


def test_either_order_is_the_same_verdict() -> None:
    judge = Recorded(ROWS)
    assert (asked(judge, "q", "good", "bad"), asked(judge, "q", "bad", "good")) == (1.0, 0.0)
    assert [asked(judge, "r", *pair) for pair in (("one", "two"), ("two", "three"), ("three", "one"))] == [1, 0, 0.5]


def test_a_pair_that_nobody_compared_is_invalid_and_equal_texts_are_a_tie() -> None:
    judge = Recorded(ROWS, "verdicts.jsonl")
    unknown = Verdict(None, "nobody compared this pair in verdicts.jsonl")
    assert judge([Comparison("q", "good", "better"), Comparison("r", "good", "bad")]) == [unknown, unknown]
    assert asked(judge, "q", "same", "same") == 0.5


def test_of_several_people_the_share_that_prefers_the_first() -> None:
    rows = [Preference("q", "a", "b"), Preference("q", "b", "a"), Preference("q", "a", "b")]
    assert asked(Recorded(rows), "q", "a", "b") == pytest.approx(2 / 3)
    tie = Ranking("q", ("b", "a"), (0, 0))
    assert asked(Recorded([*rows, tie]), "q", "b", "a") == pytest.approx((0 + 1 + 0 + 0.5) / 4)


def test_chats_and_plain_texts_are_the_same_question_and_answers() -> None:
    chat, good, bad = (Message("user", "q"),), (Message("assistant", "good"),), (Message("assistant", "bad"),)
    assert asked(Recorded([Preference(chat, good, bad)]), "q", "good", "bad") == 1.0
    samples = [sample("bad", prompt=chat)], [sample("good", prompt=chat)]
    assert judge_samples(Recorded(ROWS), *samples) == [Verdict(0.0)]


def test_a_file_of_preferences_is_a_judge_by_its_name(tmp_path: Path) -> None:
    write_rows(tmp_path / "verdicts.jsonl", ROWS[:1])
    judge = judge_named(str(tmp_path / "verdicts.jsonl"))
    assert isinstance(judge, Recorded) and only_compares(judge)
    assert judge([Comparison("q", "bad", "good")]) == [Verdict(0.0)]
    with pytest.raises(InputError, match="there is no file .*absent.jsonl"):
        judge_named(str(tmp_path / "absent.jsonl"))


def test_rows_that_compare_nothing_are_refused() -> None:
    with pytest.raises(InputError, match="x.jsonl, row 2: a verdict has the columns chosen and rejected, or"):
        Recorded([ROWS[0], Demonstration("q", "good")], "x.jsonl")
