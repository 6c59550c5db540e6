"""Words and numbers as the page prints them."""

from __future__ import annotations

from html import unescape

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accord.report.html import duration, number, percent, plain, visible
from accord.results.base import called


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0"), (1234567.8, "1,234,568"), (123.4, "123"), (12.345, "12.3"), (-1.234, "−1.23"), (0.0456, "0.046"),
        (1e-5, "1.0e−5"), (3, "3.00"), (None, "–"), (float("nan"), "–"),
    ],
)  # fmt: skip
def test_numbers(value: float | None, shown: str) -> None:
    assert number(value) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.42, "0.4 s"), (9.97, "10 s"), (59.6, "1 min 00 s"), (252, "4 min 12 s"), (3900, "1 h 05 min"), (None, "–")],
)
def test_durations(seconds: float | None, shown: str) -> None:
    assert duration(seconds) == shown


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("runs/demo/reward/model", "reward"), ("/data/runs/ppo/best", "ppo best"), ("pairs.jsonl", "pairs.jsonl"),
        ("runs/pairs.jsonl", "pairs.jsonl"), ("cafe", "cafe"), ("a/model + 0.5 * number", "a/model + 0.5 * number"),
        ("http://host/score", "http://host/score"), ("../dpo/", "dpo"), ("smollm2", "smollm2"), ("org/name", "name"),
        ("model", "model"), ("..", ".."),
    ],
)  # fmt: skip
def test_paths_are_called_by_what_people_know_them_by(name: str, shown: str) -> None:
    assert called(name) == shown


def test_percentages() -> None:
    assert percent(0.8234) == "82.3%" and percent(None) == "–"


def test_what_is_invisible_is_drawn() -> None:
    sign = '<span class="sign">{}</span>'.format
    assert visible("a\x00\u200bb") == f"a{sign('⟨U+0000⟩')}{sign('⟨U+200B⟩')}b"
    assert visible("a\tb c\n \n") == f"a{sign('⇥' + chr(9))}b c{sign('↵' + chr(10) + '·↵' + chr(10))}"
    assert visible("1\n2") == "1\n2"
    assert visible("👩\u200d🚀") == "👩\u200d🚀"


def test_a_long_text_is_cut_and_says_so() -> None:
    assert visible("x" * 5234) == "x" * 4000 + '<span class="sign"> … 1,234 more characters</span>'


@given(st.text(st.characters(categories=("L", "N", "P", "S"))))
def test_visible_text_reads_back(text: str) -> None:
    html = str(visible(text))
    assert "<" not in html and unescape(html) == text


def test_chats_become_paragraphs() -> None:
    chat = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    assert plain(chat) == "user: hi\n\nassistant: hello"
    called = [{"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}]
    assert plain(called) == 'assistant: {"name": "f", "arguments": "{}"}'
    assert plain(None) == "" and plain({"a": "é"}) == '{"a": "é"}'
