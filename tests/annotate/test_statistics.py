"""The owner's statistics, by hand on small tables, and on the page."""

from __future__ import annotations

import threading
from concurrent.futures import wait
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlmodel import col, select

from accord.annotate import Project, assign, owner, status
from accord.annotate.database import LAST, Item
from accord.annotate.serve import make_app
from accord.annotate.statistics import verdicts
from accord.results.intervals import wilson
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


def gold_first(project: Project) -> None:
    """Gold questions come before the usual items, of which there must be one: so everybody is asked all of them."""
    with project.database.writing() as session:
        for item in session.exec(select(Item).where(col(Item.gold).is_not(None))).all():
            item.position = item.id or 0


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


def test_ratings_by_hand(tmp_path: Path) -> None:
    """Two scales, two people, 20 items and a gold question; on one scale bob is off by one in five items."""
    project = made(tmp_path, overlap=2)
    rows = [{"id": f"p{i}", "prompt": f"Q{i}", "completion": f"A{i}"} for i in range(20)]
    right = {"helpful": 2, "overall": 60}
    gold = [{"id": f"g{i}", "prompt": f"G{i}", "completion": "A", "ratings": right} for i in range(20)]
    project.add(rows, "rate", scales=["helpful:1-5", "overall:1-100"])
    project.add(gold, "rate", gold=True, scales=["helpful:1-5", "overall:1-100"])
    project.add([{"prompt": "Write"}], "write")
    gold_first(project)
    project.add_people(["ann", "bob"])
    pairs: dict[str, list[list[int]]] = {"helpful": [[] for _ in range(20)], "overall": [[] for _ in range(20)]}
    for name in ("ann", "bob"):
        while (slot := assign.next_slot(project, person(project, name))) is not None:
            with project.database.reading() as session:
                item = session.get_one(Item, slot.item_id)
            if item.task == "write":
                assign.skip(project, person(project, name), slot.id or 0)
                continue
            number = int(item.key[1:])
            ratings = {"helpful": 1 + number % 4, "overall": 5 * number}
            if name == "bob" and number < 5:
                ratings["helpful"] += 1
            if item.gold is not None:
                ratings = right if name == "ann" else {**right, "overall": 61}
            else:
                for scale, value in ratings.items():
                    pairs[scale][number].append(value)
            said = {"ratings": ratings, "comment": ""}
            assign.store(project, person(project, name), slot.id or 0, said, 1.0)
    rated, written = status(project)
    expected = {}
    for scale, items in pairs.items():
        numbers = [x for item in items for x in item]
        observed = sum((a - b) ** 2 for a, b in items) / len(items)
        expected[scale] = 1 - observed / (sum((a - b) ** 2 for a in numbers for b in numbers) / (40 * 39))
    found = {scale: alpha.estimate for scale, alpha in rated.scales.items() if alpha}
    assert found == pytest.approx(expected) and expected["overall"] == 1
    assert set(rated.measures()) == {"hours on task", "alpha of helpful", "alpha of overall"}
    ann, bob, everybody = rated.people
    assert ann.others is not None and ann.others.estimate == pytest.approx(35 / 40)
    assert [one.gold and one.gold.estimate for one in rated.people] == pytest.approx([1, 0.5, 0.75])
    assert (ann.first, ann.ties, rated.disputed, rated.agreement) == (None, None, [], None)
    assert (rated.answers, rated.asked, everybody.answers, bob.name) == (40, 40, 80, "bob")
    assert not {"for what was first", "ties"} & set(rated.rows()[0]) and rated.rows()[1]["right on gold"].startswith(
        "50%"
    )
    assert (written.measures(), written.people) == ({"hours on task": "0.00"}, [])


def test_gold_questions_are_right_or_wrong(tmp_path: Path) -> None:
    """Ann says what is known of all 20 rankings; bob ties the first two of three: right about two pairs of three."""
    project = made(tmp_path)
    rows = [{"id": i, "prompt": f"Q{i}", "completions": ["a", "b", f"c{i}"], "ranks": [0, 1, 2]} for i in range(20)]
    project.add(rows, "rank", gold=True)
    project.add([{"id": "u", "prompt": "Q", "completions": ["a", "b"], "ranks": [0, 1]}], "rank")
    gold_first(project)
    project.add_people(["ann", "bob"])
    for name, ranks in (("ann", [0, 1, 2]), ("bob", [0, 0, 2])):
        for _ in range(20):
            slot = assign.next_slot(project, person(project, name))
            assert slot is not None
            said = {"ranks": ranks, "none_will_do": False, "comment": ""}
            assign.store(project, person(project, name), slot.id or 0, said, 1.0)
    (task,) = status(project)
    assert [one.gold and one.gold.estimate for one in task.people] == pytest.approx([1, 2 / 3, 5 / 6])
    assert [one.ties and one.ties.estimate for one in task.people] == pytest.approx([0, 1 / 3, 1 / 6])
    assert (task.answers, task.asked, task.agreement, task.people[0].others) == (0, 1, None, None)
    client = TestClient(make_app(project))
    client.cookies.set("owner", project.new_owner())
    page = client.get("/owner").text
    assert "67% <span" in page and "100% <span" in page


def test_pages_show_the_newest_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first is waited for; then nobody waits: newer statistics come when they are there, and after a fault too."""
    project, told, ready = made(tmp_path), iter(["one", "two", OSError("full"), "four"]), threading.Event()

    def compute(_: Project) -> Any:
        assert ready.wait(10)
        ready.clear()
        value = next(told)
        if isinstance(value, OSError):
            raise value
        return value

    monkeypatch.setattr(owner, "status_of", compute)
    monkeypatch.setattr(owner, "MOMENT", 0.01)
    newest = owner.Newest(project)
    ready.set()
    assert newest.get(1) == ("one", True) and newest.get(1) == ("one", True)
    assert newest.get(2) == ("one", False) and newest.get(3) == ("one", False)
    ready.set()
    wait([newest.latest], 10)  # type: ignore[list-item]
    assert newest.get(2) == ("two", True)
    assert newest.get(3) == ("two", False)
    ready.set()
    wait([newest.latest], 10)  # type: ignore[list-item]
    assert newest.get(3) == ("two", False)  # that failed, and begins again
    ready.set()
    wait([newest.latest], 10)  # type: ignore[list-item]
    assert newest.get(3) == ("four", True)
    monkeypatch.setattr(owner, "status_of", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        owner.Newest(project).get(1)


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
