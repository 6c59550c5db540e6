"""Who is asked what: reserving an item, giving it back, and storing an answer, so that no race can double anything.

A reservation is one UPDATE of a slot that is free, and counts if it changed one row. A slot is free if nobody has it,
or who has it let the time pass; a reservation further ahead than any that is made now comes from a clock that was set
back, and counts as passed. An answer that is late is still taken, unless somebody else has taken over.
"""

from __future__ import annotations

import hashlib
import random
from typing import Any

from sqlalchemy import BigInteger, Float, Integer, and_, bindparam, exists, func, or_, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import aliased
from sqlmodel import Session, col, select

from accord.annotate.database import Annotator, Answer, Item, Settings, Skip, Slot
from accord.annotate.order import NOT_DRAWN
from accord.annotate.project import Project, slots
from accord.annotate.tasks import TASKS

OTHERS = aliased(Slot)
"""Slots beside the one that a query is about."""


class Refused(Exception):
    """What somebody sent cannot be taken; the message says why, in a sentence for them."""


def next_slot(project: Project, person: Annotator) -> Slot | None:
    """The slot that a person goes on with, reserved for them: the one they have, else the next; None where all is done.

    Items come in the project's order, in which each that was not drawn yet is the next with a probability in proportion
    to its weight; it is written down when the item is. The slots of one item come together.
    """
    for _ in range(20):
        try:
            with project.database.writing() as session:
                own = _own(session, person)
                slot = own or _free(project, session, person)
                if slot is None:
                    return None
                if _reserve(project, session, slot, person):
                    session.refresh(slot)
                    return slot
        except IntegrityError:  # this person took the item in another window, or a gold question its number
            continue
    raise Refused("Too many people were given items at this moment: please try again.")


def _own(session: Session, person: Annotator) -> Slot | None:
    return session.exec(OWN, params={"me": person.id}).first()


# Queries are written once: to put one together takes longer than to run it. Their parameters are `ME`, `NOW` and
# `FURTHEST`, the time at which a reservation that is made now will end.
ME, NOW, FURTHEST = bindparam("me", type_=Integer), bindparam("now", type_=Float), bindparam("furthest", type_=Float)

IS_FREE = and_(
    col(Slot.done).is_(False),
    or_(col(Slot.annotator_id).is_(None), col(Slot.expires_at) <= NOW, col(Slot.expires_at) > FURTHEST),
)
"""Which slots anybody may take."""

OWN = select(Slot).where(col(Slot.annotator_id) == ME, col(Slot.done).is_(False)).order_by(col(Slot.id)).limit(1)

NOT_SEEN = tuple(
    ~exists().where(col(kind.item_id) == col(Item.id), col(kind.annotator_id) == ME) for kind in (OTHERS, Skip)
)
"""Of which items a person has had none, nor skipped it."""

NEXT = (
    select(Slot, Item)
    .join(Item, col(Item.id) == Slot.item_id)
    .where(IS_FREE, col(Item.gold).is_(None), *NOT_SEEN)
    .order_by(col(Slot.position), col(Slot.number))
    .limit(1)
    .with_for_update(skip_locked=True, of=Slot)
)

GOLD = (
    select(Item)
    .where(col(Item.gold).is_not(None), col(Item.position) < bindparam("position", type_=BigInteger), *NOT_SEEN)
    .order_by(col(Item.position))
    .limit(1)
)

TO_DRAW = select(func.sum(col(Item.weight)), func.count(col(Item.id))).where(*NOT_DRAWN)
ONE_DRAW = select(Settings.id).with_for_update()
"""Keeps other draws waiting, so that each knows what was drawn before it."""

RESERVE = update(Slot).where(
    col(Slot.id) == bindparam("this", type_=Integer),
    or_(and_(col(Slot.annotator_id) == ME, col(Slot.done).is_(False)), IS_FREE),
)


def _free(project: Project, session: Session, person: Annotator) -> Slot | None:
    """The first slot that is free, or a new one where a gold question comes before it."""
    now, me = project.clock(), {"me": person.id}
    free = {**me, "now": now, "furthest": now + project.settings.reserve_seconds}
    found = session.exec(NEXT, params=free).first()
    if found is None:
        return None
    slot, item = found
    asked = session.exec(GOLD, params={**me, "position": item.position}).first()
    if asked is not None:
        number = session.exec(select(func.count(col(Slot.id))).where(Slot.item_id == asked.id)).one()
        (slot,) = slots([asked], [number])
        session.add(slot)
        session.flush()
    elif item.probability is None:
        session.exec(ONE_DRAW).one()
        weights, item.among = session.exec(TO_DRAW).one()
        item.probability = item.weight / weights
    return slot


def _reserve(project: Project, session: Session, slot: Slot, person: Annotator) -> bool:
    """Reserve a slot, or renew what is reserved; whether it was to be had."""
    now, keep = project.clock(), project.settings.reserve_seconds
    changes: dict[str, Any] = {"annotator_id": person.id, "expires_at": now + keep}
    if slot.annotator_id != person.id:
        item = session.get_one(Item, slot.item_id)
        guideline = project.guideline(session)
        changes |= {
            "reserved_at": now,
            "shown": shown_order(project.settings.seed, item, slot.number),
            "guideline_id": guideline.id if guideline else None,
            "draft": None,
        }
    free = {"now": now, "furthest": now + keep, "me": person.id, "this": slot.id}
    return session.exec(RESERVE.values(changes), params=free).rowcount == 1


def shown_order(seed: int, item: Item, number: int) -> list[int]:
    """In which order the answers of an item are shown in one of its slots.

    Random, and turned round in every second slot: so over two slots each of two answers is first once.
    """
    answers = len(TASKS[item.task].shown(item.content))
    digest = hashlib.sha256(f"{seed}:{item.key}:{number // 2}".encode("utf-8", "surrogatepass")).digest()
    order = random.Random(digest).sample(range(answers), answers)
    return order[::-1] if number % 2 else order


def held(session: Session, person: Annotator, slot_id: int) -> Slot:
    """A slot that a person has, locked for writing. Raises Refused where it is not theirs (any more)."""
    slot = session.exec(select(Slot).where(Slot.id == slot_id).with_for_update()).first()
    if slot is None or slot.annotator_id != person.id:
        raise Refused(
            "The time for this item had passed, and it was given to somebody else. Nothing was stored; what you wrote "
            "is below, so that you can keep it."
        )
    return slot


def current(session: Session, slot: Slot) -> Answer | None:
    """The answer in a slot that counts, taken back or not."""
    mine = select(Answer).where(Answer.slot_id == slot.id, Answer.annotator_id == slot.annotator_id)
    return session.exec(mine.where(col(Answer.replaced_by).is_(None)).order_by(col(Answer.id).desc())).first()


def store(project: Project, person: Annotator, slot_id: int, content: dict[str, Any], seconds: float) -> None:
    """Store an answer, or the correction of one; the same again changes nothing.

    `seconds` is the time on task that the page measured: kept, but for what is longer than since the item was reserved.
    """
    with project.database.writing() as session:
        slot = held(session, person, slot_id)
        now = project.clock()
        before = current(session, slot)
        if slot.done and before is not None and before.content == content:
            return
        elapsed = now - (slot.reserved_at or now)
        seconds = max(0.0, min(seconds, elapsed) if elapsed >= 0 else seconds)
        _record(session, slot, content, seconds, now, before)
        slot.done, slot.draft = True, None


def _record(
    session: Session, slot: Slot, content: dict[str, Any] | None, seconds: float, now: float, before: Answer | None
) -> None:
    answer = Answer(
        slot_id=slot.id or 0,
        annotator_id=slot.annotator_id or 0,
        content=content,
        shown=slot.shown,
        guideline_id=slot.guideline_id,
        seconds=seconds,
        created_at=now,
    )
    session.add(answer)
    session.flush()
    if before is not None:
        before.replaced_by = answer.id


def keep_draft(project: Project, person: Annotator, slot_id: int, draft: dict[str, Any]) -> None:
    """Keep a form as it is typed, in place of the one before; who types keeps the item, too.

    The turns of a conversation are none of a form's fields, and stay.
    """
    with project.database.writing() as session:
        slot = held(session, person, slot_id)
        if not slot.done:
            turns = {"turns": slot.draft["turns"]} if slot.draft and "turns" in slot.draft else {}
            slot.draft = {**{name: value for name, value in draft.items() if name != "turns"}, **turns}
            slot.expires_at = project.clock() + project.settings.reserve_seconds


def skip(project: Project, person: Annotator, slot_id: int) -> None:
    """Give an item back to the others; it is not shown to this person again."""
    with project.database.writing() as session:
        slot = held(session, person, slot_id)
        if not slot.done:
            session.add(Skip(item_id=slot.item_id, annotator_id=person.id or 0))
            slot.annotator_id, slot.expires_at, slot.draft = None, None, None


def undo(project: Project, person: Annotator) -> int | None:
    """Take a person's last answer back and reserve its item for them again: its slot; None where there is none."""
    with project.database.writing() as session:
        mine = (
            select(Answer, Slot)
            .join(Slot, and_(col(Slot.id) == Answer.slot_id, col(Slot.annotator_id) == Answer.annotator_id))
            .where(Answer.annotator_id == person.id, col(Answer.replaced_by).is_(None), col(Slot.done).is_(True))
            .order_by(col(Answer.id).desc())
            .limit(1)
            .with_for_update()
        )
        found = session.exec(mine).first()
        if found is None or found[0].content is None:
            return None
        answer, slot = found
        item = session.get_one(Item, slot.item_id)
        slot.draft = {**TASKS[item.task].fill(answer.content or {}, slot.shown), "seconds": str(answer.seconds)}
        slot.done = False
        now = project.clock()
        slot.expires_at = now + project.settings.reserve_seconds
        _record(session, slot, None, 0.0, now, answer)
        return slot.id
