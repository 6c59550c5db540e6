"""In which order items come: as often as their weights say, and without a bias that weighting could not take out."""

from __future__ import annotations

from collections import Counter
from itertools import permutations
from pathlib import Path

import pytest
from scipy.stats import chisquare
from sqlmodel import col, select

from accord.annotate import assign
from accord.annotate.database import Item
from accord.annotate.order import deal, importance, weigh
from accord.errors import InputError
from tests.annotate.conftest import PAIRS, made, person

BETTER = {"better": 0, "strength": "much", "comment": ""}


def test_each_that_is_left_is_next_in_proportion_to_its_weight(tmp_path: Path) -> None:
    """Of 600 orders of three items as many are each permutation as drawing one after the other would give."""
    project = made(tmp_path)
    project.add(PAIRS[:3])
    weights = {"p0": 1.0, "p1": 0.5, "p2": 0.1}
    with project.database.writing() as session:
        assert weigh(session, weights, "uncertainty") == 3
        session.flush()
        found: Counter[tuple[str, ...]] = Counter()
        for seed in range(600):
            deal(session, seed)
            found[tuple(session.exec(select(Item.key).order_by(col(Item.position))).all())] += 1
    expected = {}
    for order in permutations(weights):
        first, second, _ = (weights[key] for key in order)
        expected[order] = 600 * first / 1.6 * second / (1.6 - first)
    assert chisquare([found[order] for order in expected], list(expected.values())).pvalue > 0.01


@pytest.mark.parametrize("drawn", [1, 2, 3, 4])
def test_weighted_means_over_the_drawn_have_the_mean_of_all(drawn: int) -> None:
    """Exactly: the expectation over all orders of four items, drawn with any weights, of weight times value."""
    weights, values = [1.0, 0.5, 0.01, 0.2], [1.0, 0.0, 1.0, 0.3]
    expectation = total = 0.0
    for order in permutations(range(4)):
        chance, mean, left = 1.0, 0.0, list(range(4))
        for i in order[:drawn]:
            probability = weights[i] / sum(weights[j] for j in left)
            chance *= probability
            mean += importance(probability, len(left), 4 - drawn) * values[i] / drawn
            left.remove(i)
        total += chance / [1, 6, 2, 1, 1][drawn]  # so many orders begin alike
        expectation += chance * mean / [1, 6, 2, 1, 1][drawn]
    assert total == pytest.approx(1) and expectation == pytest.approx(sum(values) / 4)


def test_what_is_drawn_is_written_down_and_exported(tmp_path: Path) -> None:
    project = made(tmp_path)
    project.add(PAIRS)
    project.add_people(["ann"])
    ann = person(project, "ann")

    def answer() -> str:
        slot = assign.next_slot(project, ann)
        assert slot is not None
        with project.database.reading() as session:
            key = session.get_one(Item, slot.item_id).key
        assign.store(project, ann, slot.id or 0, BETTER, 1.0)
        return key

    begun = answer()
    assert set(project.waiting()) == {row["id"] for row in PAIRS} - {begun}
    weights = {f"p{i}": (1.0 if f"p{i}" == begun else 0.1 * (i + 1)) for i in range(6)}
    assert project.weigh(weights, "uncertainty") == 5
    with project.database.reading() as session:
        before = session.exec(select(Item.key).order_by(col(Item.position))).all()
    assert before[0] == begun  # of what was begun, the place is kept
    project.weigh(weights, "uncertainty")
    with project.database.reading() as session:
        assert session.exec(select(Item.key).order_by(col(Item.position))).all() == before  # the same again
    assert [answer(), answer()] == before[1:3]
    rows = project.export(tmp_path / "rows.jsonl").rows
    total = sum(weight for key, weight in weights.items() if key != begun)
    chances = [1 / 6, weights[before[1]] / total, weights[before[2]] / (total - weights[before[1]])]
    assert [(row["item"], row["chosen_by"]) for row in rows] == [
        (begun, "random"), (before[1], "uncertainty"), (before[2], "uncertainty"),
    ]  # fmt: skip
    assert [row["probability"] for row in rows] == pytest.approx(chances)
    assert [row["sampling_weight"] for row in rows] == pytest.approx(
        [importance(p, among, 3) for p, among in zip(chances, (6, 5, 4), strict=True)]
    )


def test_items_that_come_later_are_drawn_among_those_that_are_left(tmp_path: Path) -> None:
    """Added after half of the others were drawn, new items are no sooner and no later than the rest, over 16 seeds."""
    ranks = []
    for seed in range(16):
        folder = tmp_path / str(seed)
        folder.mkdir()
        project = made(folder, seed=seed)
        project.add(PAIRS[:4])
        project.add_people(["ann"])
        ann = person(project, "ann")
        for _ in range(2):
            slot = assign.next_slot(project, ann)
            assert slot is not None
            assign.store(project, ann, slot.id or 0, BETTER, 1.0)
        project.add(PAIRS[4:])
        with project.database.reading() as session:
            keys = session.exec(select(Item.key).order_by(col(Item.position))).all()
        assert {"p4", "p5"} <= set(keys[2:])
        ranks += [keys.index("p4") - 2, keys.index("p5") - 2]
    assert chisquare([ranks.count(place) for place in range(4)]).pvalue > 0.01


def test_weights_are_numbers_of_which_some_are_not_0(tmp_path: Path) -> None:
    project = made(tmp_path)
    project.add(PAIRS)
    with pytest.raises(InputError, match="the weight of the item p1 is nan, and must be a number of 0 or more"):
        project.weigh({"p1": float("nan")}, "uncertainty")
    with pytest.raises(InputError, match="all items have the weight 0"):
        project.weigh({"p1": 0.0}, "uncertainty")
