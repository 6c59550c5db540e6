"""Assignment: nothing doubled whatever races, expires or goes back in time; order and probabilities as derived."""

from __future__ import annotations

import tempfile
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlmodel import col, select

from accord.annotate import Project, assign
from accord.annotate.assign import Refused
from accord.annotate.database import Answer, Item, Slot
from tests.annotate.conftest import PAIRS, made, person

BETTER = {"better": 0, "strength": "much", "comment": ""}


def counting_answers(project: Project) -> Counter[tuple[str, int]]:
    """How many answers count, by item and annotator."""
    with project.database.reading() as session:
        rows = session.exec(
            select(Item.key, Answer.annotator_id)
            .join(Slot, col(Slot.id) == Answer.slot_id)
            .join(Item, col(Item.id) == Slot.item_id)
            .where(col(Answer.replaced_by).is_(None), col(Answer.content).is_not(None))
        ).all()
    return Counter((key, who) for key, who in rows)


def test_threads_that_race_double_nothing(tmp_path: Path) -> None:
    project = made(tmp_path, overlap=3)
    project.add(PAIRS)
    project.add_people([f"a{i}" for i in range(8)])
    faults: list[BaseException] = []
    start = threading.Barrier(8)

    def work(name: str) -> None:
        try:
            me = person(project, name)
            start.wait()
            while (slot := assign.next_slot(project, me)) is not None:
                assign.store(project, me, slot.id or 0, BETTER, 1.0)
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=work, args=(f"a{i}",)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    answers = counting_answers(project)
    assert set(answers.values()) == {1}
    assert Counter(key for key, _ in answers) == {row["id"]: 3 for row in PAIRS}
    assert (project.progress().answers, project.progress().left) == (18, 0)


STEP = st.tuples(st.sampled_from(["next", "answer", "skip", "undo", "late", "draft"]), st.integers(0, 2)) | st.tuples(
    st.just("clock"), st.sampled_from([60.0, 1300.0, -5000.0])
)


@settings(max_examples=8)
@given(steps=st.lists(STEP, max_size=40), overlap=st.integers(1, 2))
def test_whatever_happens_no_item_has_more_answers_than_asked(steps: list[tuple[str, Any]], overlap: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        project = made(Path(folder), overlap=overlap)
        project.add(PAIRS[:3])
        project.add_people(["a0", "a1", "a2"])
        people = [person(project, f"a{i}") for i in range(3)]
        seen: dict[int, list[int]] = {0: [], 1: [], 2: []}
        expected: Counter[tuple[int, int]] = Counter()
        for what, who in steps:
            if what == "clock":
                project.clock.now += who
                continue
            me = people[who]
            try:
                if what == "next" and (slot := assign.next_slot(project, me)):
                    seen[who].append(slot.id or 0)
                elif what == "undo":
                    if (undone := assign.undo(project, me)) is not None:
                        del expected[undone, who]
                elif seen[who]:
                    slot_id = seen[who][0 if what == "late" else -1]
                    if what == "skip":
                        assign.skip(project, me, slot_id)
                    elif what == "draft":
                        assign.keep_draft(project, me, slot_id, {"comment": "x"})
                    else:
                        assign.store(project, me, slot_id, BETTER, 1.0)
                        expected[slot_id, who] = 1
            except Refused:
                pass
            check(project, overlap)
        # What was acknowledged is there, and only that.
        assert sum(counting_answers(project).values()) == len(expected) == project.progress().answers
        # Nothing is locked for ever: people who have not seen the items can finish them.
        project.clock.now += 2000
        project.add_people([f"b{i}" for i in range(overlap)])
        for i in range(overlap):
            new = person(project, f"b{i}")
            while (slot := assign.next_slot(project, new)) is not None:
                assign.store(project, new, slot.id or 0, BETTER, 1.0)
        assert project.progress().left == 0
        project.database.close()


def check(project: Project, overlap: int) -> None:
    answers = counting_answers(project)
    assert max(answers.values(), default=1) == 1
    assert max(Counter(key for key, _ in answers).values(), default=0) <= overlap


def test_an_expired_item_is_answered_late_unless_somebody_took_over(tmp_path: Path) -> None:
    project = made(tmp_path, reserve_minutes=20)
    project.add(PAIRS[:1])
    project.add_people(["ann", "bob"])
    ann, bob = person(project, "ann"), person(project, "bob")
    slot = assign.next_slot(project, ann)
    assert slot is not None and assign.next_slot(project, bob) is None
    project.clock.now += 20 * 60 + 1
    taken = assign.next_slot(project, bob)
    assert taken is not None and taken.id == slot.id
    with pytest.raises(Refused, match="given to somebody else. Nothing was stored"):
        assign.store(project, ann, slot.id or 0, BETTER, 1.0)
    project.clock.now += 20 * 60 + 1
    assign.store(project, bob, slot.id or 0, BETTER, 1.0)  # late, but nobody else has it
    assert project.progress().answers == 1


def test_a_clock_set_back_frees_what_is_reserved_too_far_ahead(tmp_path: Path) -> None:
    project = made(tmp_path, reserve_minutes=20)
    project.add(PAIRS[:1])
    project.add_people(["ann", "bob"])
    reserved = assign.next_slot(project, person(project, "ann"))
    assert reserved is not None and assign.next_slot(project, person(project, "bob")) is None
    project.clock.now -= 86400
    freed = assign.next_slot(project, person(project, "bob"))
    assert freed is not None and freed.id == reserved.id


def test_an_answer_is_corrected_and_taken_back_with_its_history(tmp_path: Path) -> None:
    project = made(tmp_path)
    project.add(PAIRS[:1])
    project.add_people(["ann"])
    ann = person(project, "ann")
    slot = assign.next_slot(project, ann)
    assert slot is not None
    for content in (BETTER, BETTER, {**BETTER, "better": 1}):  # sent twice, then corrected
        assign.store(project, ann, slot.id or 0, content, 1.0)
    assert assign.undo(project, ann) == slot.id
    assert project.progress().answers == 0 and assign.undo(project, ann) is None
    assign.store(project, ann, slot.id or 0, BETTER, 2.0)
    with project.database.reading() as session:
        history = session.exec(select(Answer).order_by(col(Answer.id))).all()
    assert [(a.id, a.content and a.content["better"], a.replaced_by) for a in history] == [
        (1, 0, 2),
        (2, 1, 3),
        (3, None, 4),
        (4, 0, None),
    ]


def test_time_on_task_is_no_longer_than_since_the_item_was_given(tmp_path: Path) -> None:
    project = made(tmp_path)
    project.add(PAIRS[:1])
    project.add_people(["ann"])
    ann = person(project, "ann")
    slot = assign.next_slot(project, ann)
    project.clock.now += 10
    assert slot is not None
    assign.store(project, ann, slot.id or 0, BETTER, 99.0)
    assert project.export(tmp_path / "rows.jsonl").rows[0]["seconds"] == 10.0


def test_items_have_the_probability_of_a_draw_and_orders_are_balanced(tmp_path: Path) -> None:
    """Of n items that are left each is next with 1/n; the second slot shows the answers the other way round."""
    project = made(tmp_path, overlap=2)
    project.add(PAIRS)
    project.add_people(["ann", "bob"])
    for _ in PAIRS:
        for name in ("ann", "bob"):
            me = person(project, name)
            slot = assign.next_slot(project, me)
            assert slot is not None
            assign.store(project, me, slot.id or 0, BETTER, 1.0)
    rows = project.export(tmp_path / "rows.jsonl").rows
    assert [(r["chosen_by"], r["probability"]) for r in rows] == [
        ("random", pytest.approx(1 / n)) for n in range(6, 0, -1) for _ in range(2)
    ]
    assert not any("sampling_weight" in row for row in rows)
    for first, second in zip(rows[::2], rows[1::2], strict=True):
        assert first["item"] == second["item"] and first["order"] == second["order"][::-1]


def test_gold_questions_are_asked_of_everybody(tmp_path: Path) -> None:
    project = made(tmp_path)
    project.add(PAIRS)
    project.add([{**row, "id": f"g{row['id']}"} for row in PAIRS], gold=True)
    project.add_people(["ann", "bob"])
    ann, bob = person(project, "ann"), person(project, "bob")
    with project.database.reading() as session:
        items = session.exec(select(Item).order_by(col(Item.position))).all()
    # Bob takes the last of the items, so that ann has been shown every gold question before her last item.
    asked: dict[str, list[str]] = {"ann": [], "bob": []}
    for me in (ann, bob) * 12:
        slot = assign.next_slot(project, me)
        if slot is not None:
            with project.database.reading() as session:
                asked[me.name].append(session.get_one(Item, slot.item_id).key)
            assign.store(project, me, slot.id or 0, BETTER, 1.0)
    usual = [key for keys in asked.values() for key in keys if not key.startswith("g")]
    assert sorted(usual) == [row["id"] for row in PAIRS]  # each once
    last = max(i for i, item in enumerate(items) if item.gold is None)
    assert all(keys == sorted(keys, key=[item.key for item in items].index) for keys in asked.values())
    golds = [item.key for item in items[:last] if item.gold is not None]
    assert set(golds) <= set(asked["ann"]) | set(asked["bob"])
    exported = project.export(tmp_path / "rows.jsonl")
    assert len(exported.rows) == 6 and "gold questions" in exported.notes[0]
    assert all(row["gold"] for row in project.export(tmp_path / "rows.jsonl", gold=True).rows if row["item"][0] == "g")


def test_what_is_skipped_is_others_and_what_is_withdrawn_is_asked_again(tmp_path: Path) -> None:
    project = made(tmp_path)
    project.add(PAIRS[:1])
    project.add_people(["ann", "bob", "eve"])
    ann, bob, eve = (person(project, name) for name in ("ann", "bob", "eve"))
    slot = assign.next_slot(project, ann)
    assert slot is not None
    assign.skip(project, ann, slot.id or 0)
    assert assign.next_slot(project, ann) is None
    again = assign.next_slot(project, bob)
    assert again is not None and again.id == slot.id
    assign.store(project, bob, slot.id or 0, {**BETTER, "comment": "my name is Bob"}, 1.0)
    assert assign.next_slot(project, eve) is None
    assert project.withdraw("bob") == 1
    with project.database.reading() as session:
        assert [answer.content for answer in session.exec(select(Answer)).all()] == [None]
    other = assign.next_slot(project, eve)
    assert other is not None
    assign.store(project, eve, other.id or 0, BETTER, 1.0)
    exported = project.export(tmp_path / "rows.jsonl")
    assert [row["annotator"] for row in exported.rows] == ["eve"]
    assert exported.notes == ("the answers of 1 people were withdrawn, and are erased",)
