"""What a model wrote is read strictly: what is not in the form is nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accord.synthesis.parsing import instances, numbered, score, yes_or_no
from accord.synthesis.tasks import Instance


@pytest.mark.parametrize(
    ("text", "is_cut", "items"),
    [
        ("9. One\n10. Two\n11. Three", False, ["One", "Two", "Three"]),
        ("9. One\n10. Two\n11. Thr", True, ["One", "Two"]),  # the last was cut
        ("9. One\n\n10. Two\n\nI hope this helps!\n11. Three", False, ["One", "Two"]),  # the list has ended
        ("9. One\n10. Two\n\n", True, ["One"]),  # nothing says that it had ended
        ("9. One\n10. Two\n\nThat", True, ["One", "Two"]),
        ("9. One\n11. Three", False, ["One"]),
        ("9. One\n9. One", False, ["One"]),
        ("9. of two\n  lines\n10) Two", False, ["of two lines", "Two"]),
        ("9. Add 1.5 and\n10. 2.5 to 3", False, ["Add 1.5 and", "2.5 to 3"]),
        ("Sure! Here they are:\n9. One", False, []),
        ("1. One\n2. Two", False, []),
        ("9.\n10. Two", False, []),
        ("9.5 is a number", False, []),
        ("- One\n- Two", False, []),
        ("", False, []),
    ],
)
def test_numbered_lists(text: str, is_cut: bool, items: list[str]) -> None:
    assert numbered(text, (9,), is_cut) == items


def test_a_list_may_begin_anew_where_that_is_allowed() -> None:
    assert numbered("1. One\n2. Two", (9, 1)) == ["One", "Two"]


@pytest.mark.parametrize(
    ("text", "is_cut", "pairs"),
    [
        ("Input: a\nOutput: b", False, [("a", "b")]),
        ("Input: a\nOutput: b\n\nc\nInput: d\nOutput: e", False, [("a", "b\n\nc"), ("d", "e")]),
        ("Input: a\nOutput: b\nInput: d\nOutput: e", True, [("a", "b")]),
        ("Input: a\nOutput: b", True, []),
        ("Input: None\nOutput: b", False, [("", "b")]),
        ("Input: <no input>\nOutput: b", False, [("", "b")]),
        ("Input: None of them came\nOutput: b", False, [("None of them came", "b")]),
        ("Input:\nOutput: b", False, [("", "b")]),
        ("Output: b", False, [("", "b")]),
        ("Input: a", False, []),
        ("Input: a\nInput: b\nOutput: c", False, []),
        ("Input: Output: a\nOutput: c", False, []),
        ("Well. Input: a\nOutput: b", False, []),
        ("input: a\noutput: b", False, []),
    ],
)
def test_blocks(text: str, is_cut: bool, pairs: list[tuple[str, str]]) -> None:
    assert instances(text, is_cut=is_cut) == [Instance(*pair) for pair in pairs]


def test_blocks_with_the_output_first() -> None:
    text = "Output: good\nInput: a\nOutput: bad\nInput: b\nOutput: ugly"
    assert instances(text, ("Output", "Input")) == [Instance("a", "good"), Instance("b", "bad")]
    assert instances("Input: a\nOutput: b", ("Output", "Input")) == []


@given(st.text(st.sampled_from("19.) \nInputOutput:a"), max_size=60), st.booleans())
def test_whatever_is_written_is_read_or_left(text: str, is_cut: bool) -> None:
    assert all(item and "\n" not in item for item in numbered(text, (9, 1), is_cut))
    assert all(len(pair.input) + len(pair.output) < len(text) for pair in instances(text, is_cut=is_cut))


@pytest.mark.parametrize(
    ("text", "message"),
    [(" Yes", True), ("no.", False), ("**Yes**, it is", True), ("Yesterday", None), ("Maybe yes", None), ("", None)],
)
def test_yes_or_no(text: str, message: bool | None) -> None:
    assert yes_or_no(text) is message


@pytest.mark.parametrize(
    ("text", "message"),
    [("4", 4), ("Score: 5\nIt is", 5), (" 3/5", 3), ("4.5", None), ("10", None), ("6", None), ("good: 4", None)],
)
def test_scores(text: str, message: int | None) -> None:
    assert score(text) == message
