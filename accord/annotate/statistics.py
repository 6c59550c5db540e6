"""The owner's statistics: how far people agree, with each other and with gold questions, how fast, and by what order.

Verdicts are pairs: a comparison is one, a ranking of K answers K (K - 1) / 2. What rests on fewer than 20 observations
is left out (None). `accord.evaluate` computes agreement, and is imported when somebody asks: serving starts fast.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median
from typing import Any

import numpy as np
from sqlmodel import Session, col, select

from accord.annotate.database import Annotator, Answer, Item, Slot
from accord.annotate.project import Project
from accord.annotate.simulated import is_simulated
from accord.results.agreement import AgreementResult
from accord.results.base import Interval
from accord.results.people import Disputed, PeopleResult, PersonRow

FEW = 20
"""With fewer observations there is no figure."""

MOST_DISPUTED = 10

Verdicts = dict[tuple[int, int], float]
"""By two answers of an item, by their places: 1 where the first is better, 0 where the second is, 1/2 where neither."""


@dataclass(frozen=True)
class Said:
    """An answer that counts, with its verdicts: none where it was flagged, or its task compares nothing."""

    item: int
    key: str
    name: str
    seconds: float
    shown: Sequence[int]
    flagged: bool
    verdicts: Verdicts
    ratings: Mapping[str, int]
    gold: Verdicts | None


def status(project: Project, hourly_cost: float | None = None) -> list[PeopleResult]:
    """What is known so far of each task of a project, in the order of their names; an hour of work costs so much."""
    with project.database.reading() as session:
        said = _said(session)
        asked = Counter(
            session.exec(
                select(Item.task).join(Slot, col(Slot.item_id) == Item.id).where(col(Item.gold).is_(None))
            ).all()
        )
    return [_task(task, said.get(task, []), asked[task], hourly_cost) for task in sorted({*asked, *said})]


def verdicts(task: str, content: Mapping[str, Any] | None) -> Verdicts:
    """What an answer says of every two of an item's answers; answers that were not ranked share the last rank."""
    if not content or "flag" in content:
        return {}
    if task == "compare":
        better = content["better"]
        return {(0, 1): 0.5 if better is None else 1.0 - better}
    if task == "rank":
        ranks = [float("inf") if rank is None else rank for rank in content["ranks"]]
        if len(set(ranks)) == 1 and ranks[0] == float("inf"):
            return {}
        return {(i, j): 0.5 if ranks[i] == ranks[j] else float(ranks[i] < ranks[j])
                for i, j in combinations(range(len(ranks)), 2)}  # fmt: skip
    return {}


def _said(session: Session) -> dict[str, list[Said]]:
    counting = (
        select(Item.id, Item.key, Item.task, Item.gold, Annotator.name, Answer.content, Answer.shown, Answer.seconds)  # type: ignore[call-overload]
        .join(Slot, col(Slot.item_id) == Item.id)
        .join(Answer, col(Answer.slot_id) == Slot.id)
        .join(Annotator, col(Annotator.id) == Answer.annotator_id)
        .where(col(Answer.replaced_by).is_(None), col(Answer.content).is_not(None))
        .order_by(col(Answer.id))
    )
    by_task: dict[str, list[Said]] = defaultdict(list)
    for item, key, task, gold, name, content, shown, seconds in session.exec(counting).all():
        right = verdicts(task, gold) if gold is not None else None
        ratings = content.get("ratings", {})
        said = Said(item, key, name, seconds, shown, "flag" in content, verdicts(task, content), ratings, right)
        by_task[task].append(said)
    return by_task


def _task(task: str, said: list[Said], asked: int, hourly_cost: float | None) -> PeopleResult:
    usual = [one for one in said if one.gold is None]
    by_pair: dict[tuple[int, tuple[int, int]], list[Said]] = defaultdict(list)
    for one in usual:
        for pair in one.verdicts:
            by_pair[one.item, pair].append(one)
    names = sorted({one.name for one in said})
    people = [_person(name, [one for one in said if one.name == name], by_pair) for name in names]
    people += [_person("all", said, by_pair)] if len(names) > 1 else []
    simulated = sum(is_simulated(one.name) for one in said)
    told = f"{simulated:,} of {len(said):,} answers are simulated people's, whose time on task is 0, and costs nothing."
    return PeopleResult(
        warnings=[told] if simulated else [],
        task=task,
        answers=len(usual),
        asked=asked,
        hours=sum(one.seconds for one in said) / 3600,
        hourly_cost=hourly_cost,
        agreement=_agreement(by_pair),
        scales=_alphas(usual),
        people=people,
        disputed=_disputed(by_pair),
    )


def _agreement(by_pair: Mapping[tuple[int, tuple[int, int]], list[Said]]) -> AgreementResult | None:
    """As `accord evaluate agreement` has it, of pairs that two or more judged; None where too few items have such."""
    from accord.evaluate.agreement import CATEGORIES, Ratings, agreement

    shared = {key: several for key, several in by_pair.items() if len(several) > 1}
    if len({item for item, _ in shared}) < FEW:
        return None
    names = sorted({one.name for several in shared.values() for one in several})
    labels = np.full((len(shared), len(names)), -1)
    for row, ((_, pair), several) in enumerate(shared.items()):
        for one in several:
            labels[row, names.index(one.name)] = CATEGORIES.index(one.verdicts[pair])
    return agreement(Ratings(tuple(names), labels, 0), pairs=1)


def _alphas(said: list[Said]) -> dict[str, Interval]:
    """Krippendorff's alpha of each scale, distances squared; none where too few items were rated by two."""
    alphas: dict[str, Interval] = {}
    for scale in dict.fromkeys(scale for one in said for scale in one.ratings):
        rated: dict[int, list[int]] = defaultdict(list)
        for one in said:
            if scale in one.ratings:
                rated[one.item].append(one.ratings[scale])
        several = [values for values in rated.values() if len(values) > 1]
        alpha = _alpha(several) if len(several) >= FEW else None
        alphas |= {scale: alpha} if alpha is not None else {}
    return alphas


def _alpha(items: list[list[int]]) -> Interval | None:
    from accord.evaluate.agreement import krippendorff, over_items

    points = np.array(sorted({value for values in items for value in values}))
    counts = np.array([[values.count(point) for point in points] for values in items], dtype=np.float64)
    distance = np.asarray((points[:, None] - points) ** 2, dtype=np.float64)
    return over_items(lambda some, times: krippendorff(some, lambda _: distance, times), counts)


def _person(name: str, said: list[Said], by_pair: Mapping[tuple[int, tuple[int, int]], list[Said]]) -> PersonRow:
    others: list[tuple[float, int]] = []
    gold: list[tuple[float, int]] = []
    first: list[tuple[float, int]] = []
    ties: list[tuple[float, int]] = []
    for one in said:
        for pair, label in one.verdicts.items():
            ties.append((float(label == 0.5), one.item))
            if label != 0.5:
                earlier = one.shown.index(pair[0]) < one.shown.index(pair[1])
                first.append((float((label == 1) == earlier), one.item))
            if one.gold:
                gold.append((float(one.gold[pair] == label), one.item))
            same = [float(o.verdicts[pair] == label) for o in by_pair.get((one.item, pair), ()) if o.name != one.name]
            others += [(sum(same) / len(same), one.item)] if same else []
    seconds = [one.seconds for one in said]
    enough = len(said) >= FEW
    return PersonRow(
        name=name,
        answers=len(said),
        others=_share(others),
        gold=_share(gold),
        first=_share(first),
        ties=_share(ties),
        flags=_share([(float(one.flagged), one.item) for one in said]),
        seconds=median(seconds) if enough else None,
        hourly=3600 * len(said) / sum(seconds) if enough and sum(seconds) > 0 else None,
    )


def _share(outcomes: Sequence[tuple[float, int]]) -> Interval | None:
    """The share with its interval, over items; None where too few items tell."""
    from accord.evaluate.statistics import rate

    if len({item for _, item in outcomes}) < FEW:
        return None
    values, items = zip(*outcomes, strict=True)
    return rate(np.array(values), np.array(items))


def _disputed(by_pair: Mapping[tuple[int, tuple[int, int]], Iterable[Said]]) -> list[Disputed]:
    """The items whose verdicts differ most, the earliest first where they differ as much."""
    same: dict[int, list[float]] = defaultdict(list)
    people: dict[int, dict[str, str]] = defaultdict(dict)
    for (item, pair), several in by_pair.items():
        people[item] |= {one.name: one.key for one in several}
        same[item] += [float(a.verdicts[pair] == b.verdicts[pair]) for a, b in combinations(several, 2)]
    shares = [
        Disputed(
            item=item, key=next(iter(people[item].values())), agreement=float(np.mean(values)), people=len(people[item])
        )
        for item, values in same.items()
        if values and min(values) < 1
    ]
    return sorted(shares, key=lambda one: (one.agreement, one.item))[:MOST_DISPUTED]
