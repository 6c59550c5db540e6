"""Annotators and their links: joining, renewing and revoking links, and withdrawal."""

from __future__ import annotations

import hashlib
import secrets
from itertools import count

from sqlalchemy import func
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session, col, select

from accord.annotate.database import Annotator, Answer, Slot
from accord.errors import InputError


def new_token() -> str:
    """A token for a link: 256 random bits, which cannot be guessed."""
    return secrets.token_urlsafe(32)


def hashed(token: str) -> str:
    """The stored form of a token: its SHA-256."""
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()


MOST_PEOPLE = 10_000
"""The most annotators that links are made for at once."""


def join(session: Session, names: int | list[str], now: float) -> dict[str, str]:
    """Add annotators by pseudonym, or up to a total number; returns the tokens of the new links.

    Raises InputError for a name that is taken or invalid.
    """
    there = session.exec(select(Annotator)).all()
    if isinstance(names, int):
        taken = {one.name for one in there}
        free = (name for number in count(1) if (name := f"annotator-{number}") not in taken)
        active = sum(one.revoked_at is None for one in there)
        if names > MOST_PEOPLE:
            raise InputError(f"--people must be at most {MOST_PEOPLE:,}, not {names:,}.")
        names = [next(free) for _ in range(names - active)]
    made: dict[str, str] = {}
    for name in names:
        if not name.strip() or len(name) > 80 or not name.isprintable():
            raise InputError(f"{name!r} is no name: it needs 1 to 80 characters that can be seen.")
        made[name] = new_token()
        session.add(Annotator(name=name, token_hash=hashed(made[name]), keys={}, created_at=now))
        try:
            session.flush()
        except IntegrityError:
            raise InputError(f"the name {name} is taken: give everybody their own.") from None
    return made


def named(session: Session, name: str, database: str) -> Annotator:
    """The annotator of this name; InputError, naming the database, where there is none."""
    person = session.exec(select(Annotator).where(Annotator.name == name)).first()
    if person is None:
        known = ", ".join(session.exec(select(Annotator.name).order_by(col(Annotator.id))).all()) or "nobody"
        raise InputError(f"there is no {name} in {database}: there is {known}.")
    return person


def renew(person: Annotator) -> str:
    """The token of an annotator's new link; the old one ends. Raises InputError where they have withdrawn."""
    if person.withdrawn_at is not None:
        raise InputError(f"{person.name} has withdrawn; add somebody new.")
    token = new_token()
    person.token_hash, person.revoked_at = hashed(token), None
    return token


def revoke(session: Session, person: Annotator, now: float) -> None:
    """End an annotator's link and release their reservations; those items are not shown to them again."""
    person.revoked_at = person.revoked_at or now
    slots = select(Slot).where(Slot.annotator_id == person.id, col(Slot.done).is_(False))
    for slot in session.exec(slots).all():
        slot.annotator_id, slot.expires_at, slot.draft = None, None, None


def withdraw(session: Session, person: Annotator, now: float) -> int:
    """Erase an annotator's answers for good, so that others are asked instead; returns how many counted."""
    person.withdrawn_at = person.withdrawn_at or now
    answers = session.exec(select(Answer).where(Answer.annotator_id == person.id)).all()
    counted = sum(answer.content is not None and answer.replaced_by is None for answer in answers)
    for answer in answers:
        answer.content = None
    for slot in session.exec(select(Slot).where(Slot.annotator_id == person.id)).all():
        slot.done = False
    session.flush()
    revoke(session, person, now)
    return counted


def listed(session: Session) -> list[tuple[str, str, int]]:
    """All annotators with the state of their link, if it ended, and their number of current answers."""
    counted = select(Answer.annotator_id, func.count(col(Answer.id))).where(
        col(Answer.replaced_by).is_(None), col(Answer.content).is_not(None)
    )
    answers = dict(session.exec(counted.group_by(col(Answer.annotator_id))).all())
    everybody = session.exec(select(Annotator).order_by(col(Annotator.id))).all()
    return [
        (
            one.name,
            ", withdrawn" if one.withdrawn_at else ", link ended" if one.revoked_at else "",
            answers.get(one.id or 0, 0),
        )
        for one in everybody
    ]
