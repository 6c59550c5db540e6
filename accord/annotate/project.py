"""A project of annotation: one database, its items and its people, from Python.

project = Project.open("labels.db", overlap=2)
project.add("samples.jsonl", task="compare")
links = project.add_people(5)
serve(project)                                   # accord.annotate.serve
project.export("rows.jsonl")
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import func
from sqlmodel import Session, col, select

from accord.annotate import people
from accord.annotate.database import Answer, Curve, Database, Guideline, Item, Settings, Slot
from accord.annotate.export import Exported, rows_of
from accord.annotate.formats import Form, write_exported
from accord.annotate.items import AddedItems, read_items
from accord.annotate.order import NOT_DRAWN, deal, weigh
from accord.annotate.tasks import task_named
from accord.data.load import Source
from accord.errors import InputError
from accord.results.learning_curve import LearningCurveResult

MINUTES = 20.0
"""How long an item is reserved for an annotator by default."""


def slots(items: Iterable[Item], numbers: Iterable[int]) -> list[Slot]:
    """Slots with these numbers for every item."""
    many = list(numbers)
    return [Slot(item_id=item.id or 0, number=n, position=item.position) for item in items for n in many]


@dataclass(frozen=True)
class Progress:
    """The progress of a project. `asked` is the number of answers that all items need, without gold questions."""

    answers: int
    asked: int
    items: int
    last_hour: int

    @property
    def left(self) -> int:
        """Answers still needed."""
        return max(0, self.asked - self.answers)


@dataclass
class Project:
    """An open project."""

    database: Database
    settings: Settings
    clock: Any = field(default=time.time)
    """Seconds since 1970; tests replace it."""

    @classmethod
    def open(
        cls,
        database: str | Path,
        *,
        overlap: int | None = None,
        reserve_minutes: float | None = None,
        guidelines: str | None = None,
        seed: int = 0,
    ) -> Project:
        """The project in a database, which is made where there is none, and migrated where it is an older one.

        A file of SQLite that cannot be written, or lies in a folder that cannot, is only read.

        Args:
            database: a file of SQLite, or a postgresql:// URL.
            overlap: how many people answer each item; 1 for a new project, and it cannot be lowered afterwards.
            reserve_minutes: how long an item is kept for who was shown it: 20 for a new project.
            guidelines: Markdown that everybody can read beside the work; a changed text is a new version.
            seed: of the order of items and answers, where the project is new.

        Raises:
            InputError: the database cannot be used, or only be read where something is to be changed, or the numbers
                make no sense.
        """
        if overlap is not None and not 1 <= overlap <= people.MOST_PEOPLE:
            most = f"at least 1, not {overlap}" if overlap < 1 else f"at most {people.MOST_PEOPLE:,}, not {overlap:,}"
            raise InputError(f"--overlap must be {most}: so many people answer each item.")
        if reserve_minutes is not None and not 0.05 <= reserve_minutes <= 60 * 24 * 7:
            raise InputError(f"--reserve-minutes must be between 0.05 and a week, not {reserve_minutes:g}.")
        opened = Database(database)
        changes = (overlap, reserve_minutes, guidelines) != (None, None, None)
        with opened.reading() if opened.only_reads and not changes else opened.writing() as session:
            settings = session.get(Settings, 1)
            if settings is None:
                opened.require_writable()
                settings = Settings(id=1, overlap=overlap or 1, reserve_seconds=60 * MINUTES, seed=seed, owner_hash="")
                session.add(settings)
            if overlap is not None and overlap < settings.overlap:
                raise InputError(
                    f"{opened.name} has an overlap of {settings.overlap}, and answers that were asked for stay asked "
                    f"for: --overlap can be raised, not lowered to {overlap}."
                )
            if reserve_minutes is not None:
                settings.reserve_seconds = 60 * reserve_minutes
            if overlap is not None and overlap > settings.overlap:
                items = session.exec(select(Item).where(col(Item.gold).is_(None))).all()
                session.add_all(slots(items, range(settings.overlap, overlap)))
                settings.overlap = overlap
            project = cls(opened, settings)
            if guidelines is not None:
                latest = project.guideline(session)
                if latest is None or latest.text != guidelines:
                    session.add(Guideline(text=guidelines, created_at=project.clock()))
        return project

    def guideline(self, session: Session) -> Guideline | None:
        """The latest guidelines."""
        return session.exec(select(Guideline).order_by(col(Guideline.id).desc()).limit(1)).first()

    def add(
        self,
        data: Source,
        task: str = "compare",
        *,
        gold: bool = False,
        columns: Mapping[str, str] | None = None,
        **settings: Any,
    ) -> AddedItems:
        """Add the items of a task that are not in the project yet, identified by the row's `id` or else by content.

        Args:
            data: what `accord sample` writes, or any rows that accord reads; for a task without data, the number of
                items.
            task: the task, by name: `accord.annotate.tasks.TASKS`.
            gold: whether the rows have correct answers, so that everyone is asked them.
            columns: names of the rows' columns, as in `accord.load_data`.
            settings: further settings of the task, such as scales or answers.

        Raises:
            InputError: a row cannot be asked about, or an id occurs twice with different content; nothing is added.
        """
        items, left_out = read_items(data, task_named(task), gold=gold, columns=columns, settings=settings)
        with self.database.writing() as session:
            there = {item.key: item for item in session.exec(select(Item)).all()}
            new = []
            for where, item in items:
                known = there.get(item.key)
                if known is None:
                    there[item.key] = item
                    new.append(item)
                elif (known.content, known.gold, known.task) != (item.content, item.gold, item.task):
                    raise InputError(
                        f"{where}: the id {json.dumps(item.key)} is another item's already, with different content: "
                        "give each its own."
                    )
            session.add_all(new)
            session.flush()
            session.add_all(slots(new, range(0 if gold else self.settings.overlap)))
            if new:
                deal(session, self.settings.seed)
        return AddedItems(len(new), len(items) - len(new), left_out)

    def waiting(self, task: str = "compare") -> dict[str, dict[str, Any]]:
        """The contents of a task's items that are not drawn yet, by key."""
        with self.database.reading() as session:
            return dict(session.exec(select(Item.key, Item.content).where(Item.task == task, *NOT_DRAWN)).all())

    def contents(self, task: str = "compare") -> dict[str, dict[str, Any]]:
        """The contents of a task's items, by key."""
        with self.database.reading() as session:
            return dict(session.exec(select(Item.key, Item.content).where(Item.task == task)).all())

    def weigh(self, weights: Mapping[str, float], by: str) -> int:
        """Set the weights by which undrawn items are drawn, by key; returns how many were set.

        `by` names the source of the weights, exported as `chosen_by`; `accord.annotate.order` explains the draws. Other
        items keep their weight, initially 1. Raises InputError for a negative or infinite weight, or if all are 0.
        """
        with self.database.writing() as session:
            weighed = weigh(session, weights, by)
            deal(session, self.settings.seed)
        return weighed

    def new_owner(self) -> str:
        """The token of a new owner's link; the old one ends."""
        token = people.new_token()
        with self.database.writing() as session:
            self.settings = session.merge(self.settings)
            self.settings.owner_hash = people.hashed(token)
        return token

    def add_people(self, names: int | list[str]) -> dict[str, str]:
        """Add annotators by pseudonym, or up to a total number; returns the tokens of the new links.

        Raises InputError for a name that is taken or invalid.
        """
        with self.database.writing() as session:
            return people.join(session, names, self.clock())

    def renew(self, name: str) -> str:
        """The token of a new link for an annotator whose link was lost or revoked; the old one ends."""
        with self.database.writing() as session:
            return people.renew(people.named(session, name, self.database.name))

    def revoke(self, name: str) -> None:
        """End an annotator's link at once. Their answers stay; their reservations are released."""
        with self.database.writing() as session:
            people.revoke(session, people.named(session, name, self.database.name), self.clock())

    def withdraw(self, name: str) -> int:
        """Erase an annotator's answers for good, so that others are asked instead; returns how many counted."""
        with self.database.writing() as session:
            return people.withdraw(session, people.named(session, name, self.database.name), self.clock())

    def people(self) -> list[tuple[str, str, int]]:
        """All annotators with the state of their link, if it ended, and their number of current answers."""
        with self.database.reading() as session:
            return people.listed(session)

    def progress(self) -> Progress:
        """The number of answers so far, and the number needed."""
        with self.database.reading() as session:
            counts = select(func.count(col(Answer.id))).where(
                col(Answer.replaced_by).is_(None), col(Answer.content).is_not(None)
            )
            usual = counts.join(Slot, col(Slot.id) == Answer.slot_id).join(Item, col(Item.id) == Slot.item_id)
            now = self.clock()
            return Progress(
                answers=session.exec(usual.where(col(Item.gold).is_(None))).one(),
                asked=session.exec(
                    select(func.count(col(Slot.id)))
                    .join(Item, col(Item.id) == Slot.item_id)
                    .where(col(Item.gold).is_(None))
                ).one(),
                items=session.exec(select(func.count(col(Item.id)))).one(),
                last_hour=session.exec(counts.where(Answer.created_at > now - 3600, Answer.created_at <= now)).one(),
            )

    def curves(self) -> dict[str, LearningCurveResult]:
        """The latest learning curve of each task that has one."""
        with self.database.reading() as session:
            kept = session.exec(select(Curve)).all()
        return {curve.task: LearningCurveResult.model_validate(curve.content) for curve in kept}

    def keep_curve(self, task: str, curve: LearningCurveResult) -> None:
        """Store a task's learning curve for the owner's page, replacing the previous one."""
        with self.database.writing() as session:
            session.merge(Curve(task=task, content=curve.model_dump(mode="json")))

    def export(
        self, out: str | Path, *, task: str | None = None, gold: bool = False, form: Form = "accord"
    ) -> Exported:
        """Write the answers so far as rows that `accord.load_data` reads, atomically; annotation may go on meanwhile.

        Args:
            out: the file to write: JSONL, or JSON for the formats of other tools.
            task: the task, where the project has several.
            gold: also write answers to gold questions.
            form: accord, argilla or label-studio.

        Raises:
            InputError: there is no such answer, no task is named of several, or the format does not support it.
        """
        with self.database.reading() as session:
            return write_exported(out, rows_of(session, task, gold=gold), form)
