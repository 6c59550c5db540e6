"""Simulated annotators: functions whose answers to items are stored like those of people.

Their pseudonyms mark them, and a project has answers of people or of simulated annotators, never both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any

from sqlmodel import col, select

from accord.annotate import assign
from accord.annotate.database import Annotator, Item
from accord.annotate.project import Project
from accord.errors import InputError

SIMULATED = "simulated-"
"""Prefix of the pseudonyms of simulated annotators."""

Answering = Callable[[str], dict[str, Any] | None]
"""From an item's key to an answer in its task's model; None skips the item."""


def answer_unattended(project: Project, people: Mapping[str, Answering], enough: Callable[[], bool]) -> None:
    """Let the annotators, by pseudonym, answer in turns until `enough` or nothing is left; time on task is 0.

    Raises InputError for an invalid pseudonym.
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


def is_simulated(name: str) -> bool:
    """Whether a pseudonym is a simulated annotator's."""
    return name.startswith(SIMULATED)


def simulated_names(project: Project, count: int) -> list[str]:
    """Pseudonyms of simulated annotators: existing ones first, then new ones; withdrawn ones stay withdrawn."""
    there = {name: state for name, state, _ in project.people()}
    active = [name for name, state in there.items() if is_simulated(name) and not state]
    free = (name for number in range(1, 10**6) if (name := f"{SIMULATED}{number}") not in there)
    return [*active, *islice(free, count)][:count]


def require_unmixed(project: Project, *, simulated: bool) -> None:
    """Raise InputError where the project has answers of the other kind."""
    others = [name for name, _, answers in project.people() if answers and is_simulated(name) != simulated]
    if others:
        theirs, ours = ("people's", "simulated people's") if simulated else ("simulated people's", "people's")
        raise InputError(
            f"{project.database.name} has {theirs} answers ({', '.join(others)}), which would count as {ours}: give "
            "another --database, or erase them by `accord annotate people --withdraw NAME`."
        )
