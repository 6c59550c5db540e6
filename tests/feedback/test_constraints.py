"""Constraints that programs check: each by a text that keeps it and one that does not, and what cannot be read."""

from __future__ import annotations

from typing import Any

import pytest

from accord.errors import InputError
from accord.feedback.constraints import CHECKS, parse, words
from accord.feedback.verifiers import verifier_named
from accord.records import Completion, Prompt, Sample

LETTER = "Dear [name],\n\nI don't mind. Do you?\n\nYours, [me]"
LIST = "Fruit:\n- an apple\n* a pear\n1. one\n2) two"

KEPT_AND_BROKEN: list[tuple[Any, str, str]] = [
    ({"words": 3}, "Good morning everyone!", "Good morning."),
    ({"words": {"at_most": 2}}, "well-known don't", "one two three"),
    ({"words": {"at_least": 2, "at_most": 3}}, " a b ", "a"),
    ({"words": {"exactly": 0}}, "...", "no"),
    ({"sentences": 2}, "It is 3.5 km. Really?", "It is here."),
    ({"sentences": 2}, 'He said "Stop!" Then he left.', "One. Two. Three."),
    ({"lines": 2}, "one\n\ntwo\n", "one"),
    ({"paragraphs": 3}, LETTER, "one\ntwo\nthree"),
    ({"bullets": 2}, LIST, "- one"),
    ({"numbered": {"at_least": 2}}, LIST, "1 one\n2 two"),
    ({"placeholders": 2}, LETTER, "[]"),
    ({"times": {"light": 2, "dark": {"at_most": 1}}}, "Light and light, dark.", "light, lights and dark"),
    ({"include": ["ladder", "next  Saturday"]}, "The Ladder, next\nSaturday.", "ladders next Saturday"),
    ({"avoid": ["big", "trunk"]}, "A bigger animal.", "It is BIG."),
    ({"without": [",", "e"]}, "No such sign.", "Here."),
    ({"case": "lower"}, "all of it, 3.", "Not all."),
    ({"case": "upper"}, "ALL OF IT, 3.", "NOt ALL"),
    ({"case": "lower"}, "it", "123"),
    ({"begins": "Dear reader"}, "  dear reader, hello", "Hello, dear reader"),
    ({"ends": "The end."}, "It was so. THE END.\n", "The end. Or not?"),
    ({"json": True}, "[1, 2]", "[1, 2"),
    ({"json": True}, '```json\n{"a": 1}\n```', 'Here: {"a": 1}'),
    ({"json": ["name", "color"]}, '{"name": "x", "color": "red", "more": 1}', '["name", "color"]'),
    ({"matches": r"(Yes|No)\."}, " Yes.\n", "Yes. Sure."),
    ({"matches": r"(a+)+b"}, "aaab", "a" * 40),
    ({"words": 2, "case": "lower"}, "good day", "Good day"),
]


@pytest.mark.parametrize(("given", "kept", "broken"), KEPT_AND_BROKEN)
def test_a_constraint_is_kept_or_not(given: Any, kept: str, broken: str) -> None:
    found = parse(given)
    assert [one.name for one in found] == list(given)
    assert all(one.holds(kept) for one in found) and not all(one.holds(broken) for one in found)


def test_every_check_has_an_example() -> None:
    assert {name for given, *_ in KEPT_AND_BROKEN for name in given} == set(CHECKS)
    assert words("I don't know, 3 well-known ones...") == ["I", "don't", "know", "3", "well-known", "ones"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "constraints are a mapping with some of words, sentences, "),
        ({}, "constraints are a mapping with some of words, sentences, "),
        ({"words": None}, "constraints are a mapping with some of words, sentences, "),
        ({"times": {"light": None}}, "times: give words, each with how often it must occur"),
        ({"word": 3}, "there is no check 'word'; did you mean words\\?; the checks are words, sentences, "),
        ({"words": "3"}, "words: give a whole number, or some of exactly, at_least, at_most with one, not '3'"),
        ({"words": True}, "words: give a whole number, or some of exactly, at_least, at_most with one, not True"),
        ({"words": {"at_leat": 3}}, "words: give a whole number, or some of exactly, at_least, at_most with one, not "),
        ({"words": -1}, "words: give a whole number"),
        ({"words": {"at_least": 3, "at_most": 2}}, "words: no number can be within {'at_least': 3, 'at_most': 2}"),
        ({"include": [True]}, r"include: give a text, or a list of texts, in quotes .* not \[True\]"),
        ({"avoid": []}, r"avoid: give a text, or a list of texts, in quotes .* not \[\]"),
        ({"times": ["light"]}, r"times: give words, each with how often it must occur, not \['light'\]"),
        ({"case": "title"}, "case: it is lower or upper, not 'title'"),
        ({"json": False}, "json: give a text, or a list of texts"),
        ({"matches": "["}, r"matches: the pattern '\[' is not a regular expression"),
    ],
)
def test_what_is_no_constraint_is_refused(given: Any, message: str) -> None:
    with pytest.raises(InputError, match=f"^{message}"):
        parse(given)


def test_a_verifier_of_all_constraints_of_a_row() -> None:
    verifier = verifier_named("constraints")
    prompt = Prompt("Say it.", columns={"constraints": {"words": 2, "case": "lower"}})
    ended = Completion((), (), "end")
    texts = ["good day", "Good day", "good"]
    assert verifier([Sample(prompt, text, (), ended, 0) for text in texts]).tolist() == [1.0, 0.0, 0.0]
    assert verifier.answer(" good day\n") == "good day" and verifier.answer(" ") is None
    wrong = Prompt("Say it.", columns={"rules": {"word": 2}})
    with pytest.raises(InputError, match="row 1, for the verifier constraints: there is no check 'word'"):
        verifier_named("constraints@rules").check(wrong, 0)
    with pytest.raises(InputError, match="row 1 has no column 'constraints', which the verifier constraints reads"):
        verifier.check(wrong, 0)
