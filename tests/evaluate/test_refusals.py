"""The rule of refusals on answers that people labeled: what it makes of them, and which it gets wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from accord.evaluate.phrases import OPENING, hedges, is_list, length, refuses

LABELED = yaml.safe_load((Path(__file__).parent / "refusals.yaml").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("part", "refused", "answered", "missed", "false"), [("fitted", 38, 38, 5, 0), ("held_out", 20, 20, 6, 1)]
)
def test_the_error_of_the_rule_on_labeled_answers(
    part: str, refused: int, answered: int, missed: int, false: int
) -> None:
    labeled = LABELED[part]
    assert (len(labeled["refused"]), len(labeled["answered"])) == (refused, answered)
    assert [sum(not refuses(text) for text in labeled["refused"])] == [missed]
    assert [sum(refuses(text) for text in labeled["answered"])] == [false]


def test_a_refusal_stands_at_the_beginning() -> None:
    assert refuses("I can't help with that.")
    assert not refuses("x" * OPENING + " I can't help with that.")
    assert not refuses("") and not refuses("   ")


@pytest.mark.parametrize(
    ("text", "n"),
    [
        ("It is blue.", 0),
        ("Perhaps it might be blue, and it usually is.", 3),
        ("It depends on the weather; I'm not entirely sure.", 2),
        ("It’s important to note that it tends to rain in May.", 3),  # May is a month, and is counted all the same
        ("Mighty seemly oftentimes.", 0),
    ],
)
def test_hedges_by_hand(text: str, n: int) -> None:
    assert hedges(text) == n


def test_lists_and_lengths_by_hand() -> None:
    assert is_list("Take:\n- one\n- two") and is_list("1. one\n2. two\n") and is_list("* a\n  * b")
    assert not is_list("- one") and not is_list("1. one") and not is_list("In 1990. We left - or not.")
    assert length("I don't know.") == 3 and length("...") == 0
