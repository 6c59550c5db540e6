"""The project's own probes: how many items each kind has, and that neither place nor length gives an answer away."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import mean

import pytest

from accord.data.examples import Example, examples_of
from accord.data.tasks import read_tasks
from accord.errors import InputError

CHANCE = {
    "trivia": 1 / 4,
    "syntax": 1 / 2,
    "coreference": 1 / 2,
    "lexical": 1 / 3,  # 20 of four options, 10 of two
    "sentiment": 1 / 2,
    "reasoning": (15 / 2 + 11 / 3 + 4 / 4) / 30,
    "arithmetic": 1 / 4,
}
TASKS = {task.cluster: task for task in read_tasks("probes")}
ITEMS = {name: examples_of(task) for name, task in TASKS.items()}


def guessed(items: Sequence[Example], value: Callable[[Example, str], int]) -> float:
    """The score of always taking the option of the highest value, and one by lot of several."""
    hits = []
    for item in items:
        values = [value(item, option) for option in item.options]
        best = [o for o, v in zip(item.options, values, strict=True) if v == max(values)]
        hits.append((item.references[0] in best) / len(best))
    return mean(hits)


def test_the_kinds_and_their_chance() -> None:
    assert list(TASKS) == list(CHANCE)
    for name, items in ITEMS.items():
        assert len(items) == 30 and {task.metric for task in TASKS.values()} == {"options"}
        assert mean(1 / len(item.options) for item in items) == pytest.approx(CHANCE[name], abs=1e-12), name


@pytest.mark.parametrize("name", CHANCE)
def test_neither_place_nor_length_gives_an_answer_away(name: str) -> None:
    places = {
        "first": lambda item, option: -item.options.index(option),
        "last": lambda item, option: item.options.index(option),
        "longest": lambda item, option: len(option),
        "shortest": lambda item, option: -len(option),
    }
    for said, value in places.items():
        assert guessed(ITEMS[name], value) == pytest.approx(CHANCE[name], abs=0.06), said


def test_no_item_stands_twice() -> None:
    asked = [(item.prompts, frozenset(item.options), item.references) for items in ITEMS.values() for item in items]
    assert len(set(asked)) == len(asked) == 210
    for items in ITEMS.values():
        for item in items:
            assert 2 <= len(item.options) <= 4 and len(item.references) == 1
            assert all(option.strip(" ") == option for option in item.options)
    # What is asked in pairs has the same options, each right once: a liking for one of them is worth nothing.
    for name in ("coreference", "sentiment"):
        halves = list(zip(ITEMS[name][::2], ITEMS[name][1::2], strict=True))
        assert all(set(a.options) == set(b.options) == {*a.references, *b.references} for a, b in halves), name


def test_whole_sentences_are_asked_after_nothing() -> None:
    assert all(item.prompts == ("",) and item.references[0][-1] in ".?" for item in ITEMS["syntax"])
    assert ITEMS["trivia"][0].prompts == ("The capital of Hungary is", "Finish the text: The capital of Hungary is")


def test_probes_take_no_other_data(tmp_path: object) -> None:
    with pytest.raises(InputError, match="probes brings the rows of its tasks: leave --data out."):
        read_tasks("probes", str(tmp_path))
