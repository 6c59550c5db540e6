"""Signs for what hides or acts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accord.console import legible, on_one_line


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J\x1b]0;title\x07", "⟨U+001B⟩[2J⟨U+001B⟩]0;title⟨U+0007⟩"),
        ("\x9b31m", "⟨U+009B⟩31m"),  # the one-character form of escape and bracket
        ("over\rwritten\x08", "over⟨U+000D⟩written⟨U+0008⟩"),
        ("a\u202eb\u200bc\ufeff", "a⟨U+202E⟩b⟨U+200B⟩c⟨U+FEFF⟩"),
        ("one\n  two\t", "one\n  two⇥\t"),
        ("👩\u200d🚀 \ud800", "👩\u200d🚀 ⟨U+D800⟩"),
    ],
)
def test_what_hides_or_acts_is_a_sign(text: str, shown: str) -> None:
    assert legible(text) == shown


@given(st.text(st.characters()))
def test_nothing_a_terminal_obeys_is_left(text: str) -> None:
    left = set(legible(text)) - {"\n", "\t"}
    assert all(c.isprintable() or ord(c) > 0x9F for c in left)
    legible(text).encode("utf-8")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (" the", "·the"),
        ("a b ", "a b·"),
        ("  ", "··"),
        ("", ""),
        ("\n\n", "↵↵"),
        ("\t\x00", "⇥⟨U+0000⟩"),
        (" \n ", "·↵·"),
    ],
)
def test_a_token_on_one_line(text: str, shown: str) -> None:
    assert on_one_line(text) == shown
