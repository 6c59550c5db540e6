"""Assignment of items to annotators: reserving an item, giving it back, and storing an answer, safe against races.

A reservation is one UPDATE of a free slot, and succeeds if it changed one row. A slot is free if nobody has it, or its
reservation has expired; a reservation further ahead than any made now stems from a clock that was set back, and counts
as expired. A late answer is still accepted, unless someone else has taken the slot over.
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
"""Other slots than the one a query is about."""


class Refused(Exception):
    """A submission that cannot be accepted; the message explains it to the annotator."""


def next_slot(project: Project, person: Annotator) -> Slot | None:
    """The annotator's current slot, or the next one, reserved for them; None where nothing is left.

    Items come in the project's order, in which each item not drawn yet is the next with probability proportional to its
    weight; that probability is recorded when the item is drawn. The slots of one item come together.
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
        except IntegrityError:  # the annotator took the item in another window, or a gold question took its number
            continue
    raise Refused("Too many people were given items at this moment: please try again.")


def _own(session: Session, person: Annotator) -> Slot | None:
    return session.exec(OWN, params={"me": person.id}).first()


# Queries are built once: building takes longer than running. Their parameters are `ME`, `NOW` and `FURTHEST`, the time
# at which a reservation made now will end.
ME, NOW, FURTHEST = bindparam("me", type_=Integer), bindparam("now", type_=Float), bindparam("furthest", type_=Float)

IS_FREE = and_(
    col(Slot.done).is_(False),
    or_(col(Slot.annotator_id).is_(None), col(Slot.expires_at) <= NOW, col(Slot.expires_at) > FURTHEST),
)
"""Slots that anyone may take."""

OWN = select(Slot).where(col(Slot.annotator_id) == ME, col(Slot.done).is_(False)).order_by(col(Slot.id)).limit(1)

NOT_SEEN = tuple(
    ~exists().where(col(kind.item_id) == col(Item.id), col(kind.annotator_id) == ME) for kind in (OTHERS, Skip)
)
"""Items that the annotator has neither been shown nor skipped."""

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
"""Locks out other draws, so that each knows what was drawn before it."""

RESERVE = update(Slot).where(
    col(Slot.id) == bindparam("this", type_=Integer),
    or_(and_(col(Slot.annotator_id) == ME, col(Slot.done).is_(False)), IS_FREE),
)


def _free(project: Project, session: Session, person: Annotator) -> Slot | None:
    """The first free slot, or a new one where a gold question comes before it."""
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
    """Reserve a slot, or renew its reservation; returns whether it was available."""
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
    """The order in which an item's answers are shown in one of its slots.

    It is random, and reversed in every second slot: over two slots each of two answers is first once.
    """
    answers = len(TASKS[item.task].shown(item.content))
    digest = hashlib.sha256(f"{seed}:{item.key}:{number // 2}".encode("utf-8", "surrogatepass")).digest()
    order = random.Random(digest).sample(range(answers), answers)
    return order[::-1] if number % 2 else order


def held(session: Session, person: Annotator, slot_id: int) -> Slot:
    """The annotator's slot, locked for writing. Raises Refused where it is not theirs (any more)."""
    slot = session.exec(select(Slot).where(Slot.id == slot_id).with_for_update()).first()
    if slot is None or slot.annotator_id != person.id:
        raise Refused(
            "The time for this item had passed, and it was given to somebody else. Nothing was stored; what you wrote "
            "is below, so that you can keep it."
        )
    return slot


def current(session: Session, slot: Slot) -> Answer | None:
    """The latest answer in a slot, or its retraction."""
    mine = select(Answer).where(Answer.slot_id == slot.id, Answer.annotator_id == slot.annotator_id)
    return session.exec(mine.where(col(Answer.replaced_by).is_(None)).order_by(col(Answer.id).desc())).first()


def store(project: Project, person: Annotator, slot_id: int, content: dict[str, Any], seconds: float) -> None:
    """Store an answer, or a correction; the same answer again changes nothing.

    `seconds` is the time on task measured by the page, capped at the time since the item was reserved.
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
    """Keep a partly filled form, in place of the previous draft, and renew the reservation.

    The turns of a conversation are not form fields, and are kept.
    """
    with project.database.writing() as session:
        slot = held(session, person, slot_id)
        if not slot.done:
            turns = {"turns": slot.draft["turns"]} if slot.draft and "turns" in slot.draft else {}
            slot.draft = {**{name: value for name, value in draft.items() if name != "turns"}, **turns}
            slot.expires_at = project.clock() + project.settings.reserve_seconds


def skip(project: Project, person: Annotator, slot_id: int) -> bool:
    """Release an item to others; it is not shown to this annotator again. Returns False for an answered one, which
    stays as it is."""
    with project.database.writing() as session:
        slot = held(session, person, slot_id)
        if not slot.done:
            session.add(Skip(item_id=slot.item_id, annotator_id=person.id or 0))
            slot.annotator_id, slot.expires_at, slot.draft = None, None, None
        return not slot.done


def undo(project: Project, person: Annotator) -> int | None:
    """Retract the annotator's last answer and reserve its item for them again; returns its slot, None without one."""
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
