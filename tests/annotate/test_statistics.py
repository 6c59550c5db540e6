"""The owner's statistics, by hand on small tables, and on the page."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from sqlmodel import select

from accord.annotate import Project, assign, status
from accord.annotate.database import LAST, Item
from accord.annotate.owner import Newest
from accord.annotate.serve import make_app
from accord.annotate.statistics import verdicts
from accord.results.base import wilson
from tests.annotate.conftest import made, person


def answered(path: Path, items: int = 20) -> Project:
    """Ann always finds the chosen one better; bob too, but for 4 items (2 of ties, 2 the other way)."""
    project = made(path, overlap=2)
    rows = [{"id": f"p{i}", "prompt": f"Q{i}", "chosen": f"good {i}", "rejected": f"bad {i}"} for i in range(items)]
    project.add(rows)
    project.add_people(["ann", "bob"])
    for name in ("ann", "bob"):
        who = person(project, name)
        for turn in range(items):
            slot = assign.next_slot(project, who)
            assert slot is not None
            differs = name == "bob" and slot.item_id <= 4
            said = {"better": int(differs), "strength": "much", "comment": ""}
            project.clock.now += 10
            assign.store(project, who, slot.id or 0, said, 4.0 if turn % 2 else 6.0)
    return project


def test_two_annotators_by_hand(tmp_path: Path) -> None:
    """16 of 20 the same. In both orders the categories are even: e = 1/2, kappa (.8 - .5) / .5.

    Alpha: 80 ratings, 40 of each: expected 2 * 40 * 40 / (80 * 79), observed .2, so 1 - .2 * 80 * 79 / 3200.
    """
    (task,) = status(answered(tmp_path))
    assert task.agreement is not None and task.agreement.fleiss and task.agreement.krippendorff
    assert task.agreement.agreement.estimate == pytest.approx(0.8)
    assert task.agreement.pairs[0].kappa is not None
    assert task.agreement.pairs[0].kappa.estimate == pytest.approx(0.6)
    assert task.agreement.fleiss.estimate == pytest.approx(0.6)
    assert task.agreement.krippendorff.estimate == pytest.approx(0.605)
    ann, bob, everybody = task.people
    assert ann.others == bob.others == wilson(16, 20)
    assert (ann.seconds, ann.hourly, ann.gold) == (5.0, 720.0, None)
    assert [one.key for one in task.disputed] == ["p0", "p1", "p2", "p3"]
    assert ann.first and bob.first and everybody.first
    assert 20 * (ann.first.estimate + bob.first.estimate) == pytest.approx(40 * everybody.first.estimate)
    assert everybody.ties is not None and everybody.ties.estimate == 0


def test_few_answers_give_no_figure(tmp_path: Path) -> None:
    (task,) = status(answered(tmp_path, 19))
    assert task.measures() == {"hours on task": "0.05", "agreement": "too few to tell"}
    assert set(list(task.people[0].cells().values())[2:]) == {"too few to tell"}


def test_order_is_counted(tmp_path: Path) -> None:
    """What was shown first is chosen 15 times of 20."""
    project = made(tmp_path)
    project.add([{"id": i, "prompt": f"Q{i}", "chosen": "good", "rejected": f"bad {i}"} for i in range(20)])
    project.add_people(["ann"])
    for turn in range(20):
        slot = assign.next_slot(project, person(project, "ann"))
        assert slot is not None
        said = {"better": slot.shown[int(turn >= 15)], "strength": "much", "comment": ""}
        assign.store(project, person(project, "ann"), slot.id or 0, said, 0.0)
    assert status(project)[0].people[0].first == wilson(15, 20)


def test_answers_to_gold_questions_are_right_or_wrong(tmp_path: Path) -> None:
    """Of 20 questions whose answer is known 17 are answered so; they take time, and are no progress."""
    project = made(tmp_path)
    project.add(
        [{"id": f"g{i}", "prompt": f"Q{i}", "chosen": "good", "rejected": f"bad {i}"} for i in range(20)], gold=True
    )
    project.add([{"id": "last", "prompt": "Q", "chosen": "good", "rejected": "bad"}])
    project.add_people(["ann"])
    with project.database.writing() as session:
        last = session.exec(select(Item).where(Item.key == "last")).one()
        last.position = LAST
    ann = person(project, "ann")
    for turn in range(20):
        slot = assign.next_slot(project, ann)
        assert slot is not None
        said = {"better": int(turn >= 17), "strength": "much", "comment": ""}
        project.clock.now += 100
        assign.store(project, ann, slot.id or 0, said, 90.0)
    (task,) = status(project, hourly_cost=12.0)
    assert (task.answers, task.asked, task.people[0].answers) == (0, 1, 20)
    assert task.people[0].gold == wilson(17, 20)
    assert (task.hours, task.cost) == (0.5, 6.0) and task.measures()["cost"] == "6.00"
    assert task.rows()[0]["right on gold"] == f"{wilson(17, 20):.0%}"


def test_ratings_agree_by_their_distances(tmp_path: Path) -> None:
    """Two people and every item: 1 - mean squared difference within items / that of any two of all 40 numbers."""
    project = made(tmp_path, overlap=2)
    project.add(
        [{"id": f"r{i}", "prompt": f"Q{i}", "completion": "a"} for i in range(20)],
        "rate",
        scales=["help:1-7", "tone:1-5"],
    )
    project.add_people(["ann", "bob"])
    numbers = np.array([[1 + i % 5, 1 + i % 5 + (i % 3)] for i in range(20)], dtype=np.float64)
    for column, name in enumerate(("ann", "bob")):
        who = person(project, name)
        for _ in range(20):
            slot = assign.next_slot(project, who)
            assert slot is not None
            help_ = int(numbers[slot.item_id - 1, column])
            assign.store(project, who, slot.id or 0, {"ratings": {"help": help_, "tone": 3}, "comment": ""}, 1.0)
    (task,) = status(project)
    within = ((numbers[:, 0] - numbers[:, 1]) ** 2).mean()
    every = numbers.ravel()
    of_any_two = ((every[:, None] - every) ** 2).sum() / (40 * 39)
    assert set(task.scales) == {"help"}  # who always says the same cannot be told from chance
    assert task.scales["help"].estimate == pytest.approx(1 - within / of_any_two)
    assert task.measures()["alpha of help"] == f"{task.scales['help']:.2f}"
    assert list(task.rows()[0]) == ["", "answers", "flags", "median s", "an hour"]  # who rates gives no verdicts
    assert "ties" not in task.text() and "right on gold" not in task.text()


def test_a_page_shows_the_newest_statistics_there_are(tmp_path: Path) -> None:
    newest = Newest(answered(tmp_path), patience=30)
    first = newest.get("first")
    assert first[0].answers == 40 and newest.get("first") is first
    assert newest.get("second") is first  # asked for at once, it is not computed anew again and again
    newest._rest_until = 0.0
    assert newest.get("second") is not first


def test_rankings_are_pairs() -> None:
    assert verdicts("rank", {"ranks": [0, 0, None]}) == {(0, 1): 0.5, (0, 2): 1.0, (1, 2): 1.0}
    assert verdicts("rank", {"ranks": [None, None]}) == {}
    assert verdicts("compare", {"flag": "unsafe", "comment": ""}) == {}


def test_the_pages(tmp_path: Path) -> None:
    project = answered(tmp_path)
    client = TestClient(make_app(project))
    assert client.get("/owner/item/1").status_code == 401
    client.cookies.set("owner", project.new_owner())
    page = client.get("/owner").text
    assert "Cohen&#39;s kappa</dt><dd>0.60" in page and 'href="/owner/item/1"' in page
    item = client.get("/owner/item/1").text
    assert "A is much better" in item and "B is much better" in item and "<td>bob</td>" in item
    assert client.get("/owner/item/999").status_code == 404
