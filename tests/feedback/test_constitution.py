"""Constitutions: what a file may hold, the project's own, and principles drawn by what is judged."""

from __future__ import annotations

from collections import Counter
from itertools import combinations
from pathlib import Path

import pytest

from accord.errors import InputError
from accord.feedback.constitution import FOLDER, Principle, draw, read_constitution

FOUR = [Principle(name, f"prefer {name}", "c", "r") for name in "abcd"]


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_projects_own_constitutions_say_everything(path: Path) -> None:
    for principle in read_constitution(path.stem):
        assert principle.prefer.startswith("Prefer the answer ")
        assert principle.critique.endswith(".") and principle.revision.startswith("Rewrite the answer ")
    assert read_constitution(path.stem) == read_constitution(str(path))


def test_a_sentence_is_a_principle_that_critic_and_reviser_are_told_too(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("- Prefer the polite one.\n- {prefer: Prefer the short one., critique: Is it too long}\n")
    polite, short = read_constitution(str(file))
    assert (polite.name, polite.prefer, short.name, short.critique) == (
        "1",
        "Prefer the polite one.",
        "2",
        "Is it too long",
    )
    assert "Prefer the polite one." in polite.critique and "Prefer the polite one." in polite.revision


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no principles"),
        ("principles: []", "has no principles"),
        ("rules: [be nice]", "has no principles"),
        ("- 7", "principle 1: it is neither a sentence nor a mapping"),
        ("- be nice\n- ''", "principle 2: prefer must be a sentence, not ''"),
        ("- {critique: why}", "principle 1 lacks prefer"),
        ("- {prefer: be nice, revison: now}", "revison, which is none of .*; did you mean revision"),
        ("- {name: a, prefer: x}\n- {name: a, prefer: y}", "two principles named a"),
        ("- [", "is not valid YAML"),
    ],
)
def test_what_is_no_constitution_is_told(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(InputError, match=message):
        read_constitution(str(file))


def test_a_constitution_that_is_not_there_is_told() -> None:
    with pytest.raises(InputError, match=r"no constitution hhhh: name a YAML file, or accord or hhh; did you mean"):
        read_constitution("hhhh")


def test_every_set_of_principles_is_as_likely_as_any_other() -> None:
    """6 pairs of 4: over 6,000 keys each is drawn 1,000 times, with a standard deviation of 29."""
    counts = Counter(frozenset(p.name for p in draw(FOUR, 2, f"key {i}")) for i in range(6000))
    assert set(counts) == {frozenset(pair) for pair in combinations("abcd", 2)}
    assert all(abs(count - 1000) < 5 * 29 for count in counts.values())


def test_principles_depend_on_key_and_seed_alone() -> None:
    assert draw(FOUR, 2, "key", 1) == draw(FOUR, 2, "key", 1)
    assert any(draw(FOUR, 2, "key", seed) != draw(FOUR, 2, "key", 0) for seed in range(1, 9))
    assert draw(FOUR, 4, "key") == draw(FOUR, 9, "key") == FOUR
