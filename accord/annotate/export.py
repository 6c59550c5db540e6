"""Export of answers as rows in the columns that accord's stages read, with their provenance."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from sqlalchemy import and_
from sqlmodel import Session, col, select

from accord.annotate.database import Annotator, Answer, Item, Slot
from accord.annotate.order import unbiased
from accord.annotate.tasks import TASKS
from accord.annotate.tasks.base import Flagged
from accord.errors import InputError


@dataclass(frozen=True)
class Exported:
    """The rows of a task, a line for each kind of answer left out, and the items' contents by `item`."""

    rows: list[dict[str, Any]]
    notes: tuple[str, ...]
    task: str
    contents: dict[str, dict[str, Any]]


def rows_of(session: Session, task: str | None = None, *, gold: bool = False) -> Exported:
    """The rows of the current answers of one task, in the order given.

    Besides the columns of its task every row has `item`, `annotator` (the pseudonym), `order` (how its answers were
    shown), `seconds`, `guideline` (the version), `chosen_by` and `probability` (how the item was drawn),
    `sampling_weight` where items were drawn unevenly (`accord.annotate.order`), `comment` if there is one, and `gold`
    for gold questions.

    Raises InputError where there is no such answer, or the project has several tasks and none is named.
    """
    there = sorted(session.exec(select(Item.task).distinct()).all())
    if task is None and len(there) > 1:
        raise InputError(f"the project has the tasks {', '.join(there)}, whose rows differ: name one by --task.")
    if task is not None and task not in there:
        raise InputError(f"the project has no task {task}: it has {', '.join(there) or 'no items yet'}.")
    answered = (
        select(Answer, Item, Annotator)
        .join(Slot, and_(col(Slot.id) == Answer.slot_id))
        .join(Item, col(Item.id) == Slot.item_id)
        .join(Annotator, col(Annotator.id) == Answer.annotator_id)
        .where(col(Answer.replaced_by).is_(None), Item.task == (task or (there or [""])[0]))
        .order_by(col(Answer.id))
    )
    rows: list[dict[str, Any]] = []
    contents: dict[str, dict[str, Any]] = {}
    aside: Counter[str] = Counter()
    withdrawn: set[str] = set()
    weights = unbiased(session)
    for answer, item, person in session.exec(answered).all():
        if person.withdrawn_at is not None:
            withdrawn.add(person.name)
        elif answer.content is not None and item.gold is not None and not gold:
            aside["gold questions, which --gold writes too"] += 1
        elif answer.content is not None:
            made = _rows(answer, item, person, weights.get(item.key))
            what = answer.content.get("flag")
            if not made:
                aside[f"items flagged as {what}" if what else "items that compare nothing"] += 1
            rows += made
            contents[item.key] = item.content
    if not rows:
        raise InputError("there is no answer yet that makes a row." + "".join(f" {note}." for note in _notes(aside)))
    gone = f"the answers of {len(withdrawn)} people were withdrawn, and are erased"
    return Exported(rows, (*_notes(aside), *([gone] if withdrawn else ())), task or there[0], contents)


def _notes(aside: Counter[str]) -> list[str]:
    return [f"left out: {count} answers to {what}" for what, count in aside.items()]


def _rows(answer: Answer, item: Item, person: Annotator, weight: float | None) -> list[dict[str, Any]]:
    task = TASKS[item.task]
    held = answer.content or {}
    content = (Flagged if "flag" in held else task.answer).model_validate(held)
    provenance: dict[str, Any] = {
        "item": item.key,
        "annotator": person.name,
        "order": answer.shown,
        "seconds": round(answer.seconds, 1),
        "guideline": answer.guideline_id,
        "chosen_by": "gold" if item.gold is not None else item.chosen_by,
        "probability": item.probability,
        **({} if weight is None else {"sampling_weight": weight}),
        **({"comment": held["comment"]} if held.get("comment") else {}),
        **({"gold": True} if item.gold is not None else {}),
    }
    return [{**row, **provenance} for row in task.rows(task.content.model_validate(item.content), content)]
