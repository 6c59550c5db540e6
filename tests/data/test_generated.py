"""Data sets of reasoning-gym by name: the same rows again from the same name, and one sentence for each mistake."""

from __future__ import annotations

import sys

import pytest

from accord.data import load_data, load_prompts
from accord.errors import InputError
from accord.records import Demonstration, Message, Prompt

SUMS = "reasoning-gym:chain_sum?size=4&min_terms=2&max_terms=2"


@pytest.fixture
def gym() -> None:
    pytest.importorskip("reasoning_gym")


@pytest.mark.usefixtures("gym")
def test_rows_are_questions_with_answers_that_add_up() -> None:
    rows = load_prompts(SUMS)
    assert len(rows) == 4
    for row in rows:
        assert row.prompt == (Message("user", row.columns["question"]),)
        a, sign, b = row.columns["metadata"]["expression"].split()
        assert int(row.columns["answer"]) == int(a) + (int(b) if sign == "+" else -int(b))
        assert row.columns["metadata"]["source_dataset"] == "chain_sum"
    assert load_prompts(SUMS) == rows  # the seed is 0, not the clock
    assert load_prompts(SUMS + "&seed=0") == rows
    assert load_prompts(SUMS + "&seed=50") != rows


@pytest.mark.usefixtures("gym")
def test_they_are_demonstrations_too_and_can_be_picked_by_position() -> None:
    prompts = load_prompts(SUMS)
    rows = load_data(SUMS, split="train[1:]", limit=2)
    assert rows == [Demonstration(p.prompt, (Message("assistant", str(p.columns["answer"])),)) for p in prompts[1:3]]


@pytest.mark.usefixtures("gym")
def test_a_question_without_one_answer_is_a_prompt() -> None:
    (row,) = load_data("reasoning-gym:rush_hour?size=1")
    assert isinstance(row, Prompt)
    assert row.prompt == (Message("user", row.columns["question"]),)
    assert row.columns["answer"] is None and row.columns["metadata"]["source_dataset"] == "rush_hour"
    assert load_prompts("reasoning-gym:rush_hour?size=1") == [row]


@pytest.mark.usefixtures("gym")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("chainsum", "reasoning-gym has no data set 'chainsum' (did you mean chain_sum?)"),
        ("", "reasoning-gym has no data set ''"),
        (
            "chain_sum?sise=3",
            "reasoning-gym:chain_sum?sise=3 has no setting 'sise' (did you mean size?): it has",
        ),
        ("chain_sum?size=0", "reasoning-gym:chain_sum?size=0 has invalid settings: size must be positive"),
        ("chain_sum?size=few", "reasoning-gym:chain_sum?size=few has invalid settings: "),
        ("chain_sum?size=[", "reasoning-gym:chain_sum?size=[ sets size to '[', which cannot be read as a value"),
    ],
)
def test_mistakes_are_named(name: str, message: str) -> None:
    with pytest.raises(InputError) as told:
        load_prompts(f"reasoning-gym:{name}")
    assert str(told.value).startswith(message)


def test_the_extra_is_named_where_it_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "reasoning_gym.factory", None)
    with pytest.raises(InputError, match="chain_sum needs the verify extra: pip install reasoning-gym"):
        load_data("reasoning-gym:chain_sum")
