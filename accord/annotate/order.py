"""The order in which items are annotated: at random, or with priorities from a model, and a correction for the bias.

Of the items not drawn yet each is the next with probability w_i / sum_j w_j, as in sampling without replacement. The
order comes from exponential races: item i gets the time E_i / w_i with E_i exponential, and the smallest is next
(Efraimidis and Spirakis 2006). All weights are 1 unless set by `weigh`.

Measurements on items drawn unevenly are biased. Weighting item m, drawn with probability q among n undrawn items, by

    1 + R / (n - 1) (1 / (n q) - 1),      R the number of items still not drawn,

removes the bias (Farquhar, Gal and Rainforth 2021, arXiv:2101.11665, eq. 7, in which n = N - m + 1 and R = N - M): the
mean of weight times value over the drawn items has the expectation of the mean over all items. This is exact where no
items are added after the first draw.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from math import isfinite, log
from typing import Any

from sqlalchemy import and_, func, or_, update
from sqlmodel import Session, col, select

from accord.annotate.database import Item, Slot
from accord.errors import InputError

LEAST = 0.01
"""The minimum weight, relative to the maximum: every item must have a chance, or no weighting could remove the bias."""
_SCALE = 2**44  # times are at most 37 / LEAST, so hundreds of consecutive races fit into 63 bits

NOT_DRAWN: tuple[Any, ...] = (col(Item.gold).is_(None), col(Item.probability).is_(None))
"""Items not drawn yet, without gold questions."""


def deal(session: Session, seed: int) -> None:
    """Order all items not drawn yet behind the drawn ones, drawn anew by weight, with gold questions among them.

    Without draws since the last call the order is the same.
    """
    last = session.exec(select(func.max(Item.position)).where(col(Item.probability).is_not(None))).one()
    after = -1 if last is None else last
    to_come = and_(col(Item.probability).is_(None), or_(col(Item.gold).is_(None), col(Item.position) > after))
    waiting = session.exec(select(Item).where(to_come)).all()
    usual = [item.weight for item in waiting if item.gold is None]
    mean = sum(usual) / len(usual) if usual else 1.0
    for item in waiting:
        weight = item.weight / mean if item.gold is None else 1.0
        item.position = after + 1 + int(_SCALE * _exponential(f"{seed}:{after}:{item.key}") / weight)
        session.add(item)
    session.flush()
    position = select(Item.position).where(col(Item.id) == Slot.item_id).scalar_subquery()
    session.execute(update(Slot).where(col(Slot.position) != position).values(position=position))


def _exponential(text: str) -> float:
    """An exponential variate determined by a text."""
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    return -log(((int.from_bytes(digest[:8], "big") >> 11) + 1) / 2**53)


def weigh(session: Session, weights: Mapping[str, float], by: str) -> int:
    """Set the weights of undrawn items, by key, and the name of their source; returns their number.

    Weights below `LEAST` times the maximum are raised to it. Raises InputError for a negative or infinite weight, or if
    all are 0.
    """
    wrong = next((key for key, weight in weights.items() if not (isfinite(weight) and weight >= 0)), None)
    if wrong is not None:
        raise InputError(f"the weight of the item {wrong} is {weights[wrong]}, and must be a number of 0 or more.")
    most = max(weights.values(), default=0.0)
    if weights and most == 0:
        raise InputError("all items have the weight 0, so that none could be drawn.")
    items = session.exec(select(Item).where(*NOT_DRAWN)).all()
    weighed = [item for item in items if item.key in weights]
    for item in weighed:
        item.weight, item.chosen_by = max(weights[item.key] / most, LEAST), by
    return len(weighed)


def unbiased(session: Session) -> dict[str, float]:
    """The importance weight (above) of each drawn item, by key; empty where all were drawn evenly."""
    drawn = select(Item.key, Item.probability, Item.among).where(col(Item.probability).is_not(None))
    left = session.exec(select(func.count(col(Item.id))).where(*NOT_DRAWN)).one()
    weights = {key: importance(probability, among, left) for key, probability, among in session.exec(drawn).all()}
    return weights if any(abs(weight - 1) > 1e-9 for weight in weights.values()) else {}


def importance(probability: float, among: int, left: int) -> float:
    """The weight of an item drawn with `probability` among `among` items, with `left` items not drawn."""
    return 1 + left * (1 / (among * probability) - 1) / max(among - 1, 1)
