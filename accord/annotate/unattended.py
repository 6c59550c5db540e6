"""Answers by functions in people's place: given items, and stored, as those of people at the pages are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sqlmodel import col, select

from accord.annotate import assign
from accord.annotate.database import Annotator, Item
from accord.annotate.project import Project

Answering = Callable[[str], dict[str, Any] | None]
"""From the key of an item to an answer to it, as its task's model has it; None skips the item."""


def answer_unattended(project: Project, people: Mapping[str, Answering], enough: Callable[[], bool]) -> None:
    """Have each, by a pseudonym, answer in turns until `enough` or nothing is left; time on task is 0.

    Raises InputError for a name that is no pseudonym.
    """
    there = {name for name, _, _ in project.people()}
    project.add_people([name for name in people if name not in there])
    with project.database.reading() as session:
        everybody = session.exec(select(Annotator).where(col(Annotator.name).in_(list(people)))).all()
    working = sorted(everybody, key=lambda person: list(people).index(person.name))
    while working:
        for person in list(working):
            if enough():
                return
            slot = assign.next_slot(project, person)
            if slot is None or slot.id is None:
                working.remove(person)
                continue
            with project.database.reading() as session:
                answer = people[person.name](session.get_one(Item, slot.item_id).key)
            if answer is None:
                assign.skip(project, person, slot.id)
            else:
                assign.store(project, person, slot.id, answer, 0.0)
