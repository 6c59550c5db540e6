"""Statistics for the owner: agreement with others and with gold questions, speed, and order bias.

Verdicts are pairs: a comparison is one, a ranking of K answers K (K - 1) / 2; a rating is a number on every scale.
Statistics of fewer than 20 observations are left out (None). `accord.evaluate` computes agreement, and is imported on
demand, so that serving starts fast.
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
from accord.results.intervals import Interval
from accord.results.people import Disputed, PeopleResult, PersonRow

FEW = 20
"""Minimum number of observations for a statistic."""

MOST_DISPUTED = 10

Pair = tuple[int, int]
Verdicts = dict[Any, float]
"""By two answers' indices in the item: 1 where the first is better, 0 where the second is, 1/2 for a tie.

For ratings, the number by scale.
"""


@dataclass(frozen=True)
class CountedAnswer:
    """A current answer with its verdicts; empty where it was flagged, or its task compares nothing."""

    item: int
    key: str
    name: str
    seconds: float
    shown: Sequence[int]
    flagged: bool
    verdicts: Verdicts
    gold: Verdicts | None


def status(project: Project, hourly_cost: float | None = None) -> list[PeopleResult]:
    """The statistics of each task of a project, in the order of their names, at a cost per hour."""
    with project.database.reading() as session:
        by_task = _counted(session)
        slots = Counter(
            session.exec(
                select(Item.task).join(Slot, col(Slot.item_id) == Item.id).where(col(Item.gold).is_(None))
            ).all()
        )
    return [_task(task, by_task.get(task, []), slots[task], hourly_cost) for task in sorted({*slots, *by_task})]


def verdicts(task: str, content: Mapping[str, Any] | None) -> Verdicts:
    """An answer's verdict on every pair of an item's answers, unranked ones sharing the last rank; or by scale."""
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
    return dict(content["ratings"]) if task == "rate" else {}


def _counted(session: Session) -> dict[str, list[CountedAnswer]]:
    counting = (
        select(Item.id, Item.key, Item.task, Item.gold, Annotator.name, Answer.content, Answer.shown, Answer.seconds)  # type: ignore[call-overload]
        .join(Slot, col(Slot.item_id) == Item.id)
        .join(Answer, col(Answer.slot_id) == Slot.id)
        .join(Annotator, col(Annotator.id) == Answer.annotator_id)
        .where(col(Answer.replaced_by).is_(None), col(Answer.content).is_not(None))
        .order_by(col(Answer.id))
    )
    by_task: dict[str, list[CountedAnswer]] = defaultdict(list)
    for item, key, task, gold, name, content, shown, seconds in session.exec(counting).all():
        right = verdicts(task, gold) if gold is not None else None
        counted = CountedAnswer(item, key, name, seconds, shown, "flag" in content, verdicts(task, content), right)
        by_task[task].append(counted)
    return by_task


def _task(task: str, answers: list[CountedAnswer], slots: int, hourly_cost: float | None) -> PeopleResult:
    by_pair: dict[tuple[int, Pair], list[CountedAnswer]] = defaultdict(list)
    by_scale: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    votes: dict[tuple[int, Any], Counter[float]] = defaultdict(Counter)
    by_name: dict[str, list[CountedAnswer]] = defaultdict(list)
    for one in answers:
        by_name[one.name].append(one)
        for key, label in one.verdicts.items() if one.gold is None else ():
            votes[one.item, key][label] += 1
            if isinstance(key, tuple):
                by_pair[one.item, key].append(one)
            else:
                by_scale[key][one.item].append(label)
    people = [_person(name, by_name[name], votes) for name in sorted(by_name)]
    people += [_person("all", answers, votes)] if len(by_name) > 1 else []
    simulated = sum(is_simulated(one.name) for one in answers)
    note = (
        f"{simulated:,} of {len(answers):,} answers are simulated people's, whose time on task is 0, and costs nothing."
    )
    scales = {name: _alpha(list(rated.values())) for name, rated in by_scale.items()}
    return PeopleResult(
        warnings=[note] if simulated else [],
        task=task,
        answers=sum(one.gold is None for one in answers),
        asked=slots,
        hours=sum(one.seconds for one in answers) / 3600,
        hourly_cost=hourly_cost,
        agreement=_agreement(by_pair),
        scales={name: alpha for name, alpha in scales.items() if alpha is not None},
        people=people,
        disputed=_disputed(by_pair),
    )


def _alpha(rated: Sequence[Sequence[float]]) -> Interval | None:
    """Krippendorff's alpha on one scale; None where too few items have two ratings, or all are equal."""
    from accord.evaluate.kappas import agreement_of_numbers

    shared = [numbers for numbers in rated if len(numbers) > 1]
    return agreement_of_numbers(shared) if len(shared) >= FEW else None


def _agreement(by_pair: Mapping[tuple[int, Pair], list[CountedAnswer]]) -> AgreementResult | None:
    """Agreement as in `accord evaluate agreement`, on pairs judged by two or more; None for too few items."""
    from accord.evaluate.agreement import CATEGORIES, Ratings, agreement

    shared = {key: several for key, several in by_pair.items() if len(several) > 1}
    if len({item for item, _ in shared}) < FEW:
        return None
    names = sorted({one.name for several in shared.values() for one in several})
    column = {name: index for index, name in enumerate(names)}
    labels = np.full((len(shared), len(names)), -1)
    for row, ((_, pair), several) in enumerate(shared.items()):
        for one in several:
            labels[row, column[one.name]] = CATEGORIES.index(one.verdicts[pair])
    return agreement(Ratings(tuple(names), labels, 0), pairs=1)


def _person(name: str, answers: list[CountedAnswer], votes: Mapping[tuple[int, Any], Mapping[float, int]]) -> PersonRow:
    """One annotator's statistics; `votes` counts all verdicts, including this annotator's."""
    others: list[tuple[float, int]] = []
    gold: list[tuple[float, int]] = []
    first: list[tuple[float, int]] = []
    ties: list[tuple[float, int]] = []
    for one in answers:
        for key, label in one.verdicts.items():
            if one.gold is not None:
                gold += [(float(one.gold[key] == label), one.item)] if one.gold else []
            elif (several := sum(votes[one.item, key].values()) - 1) > 0:
                others.append(((votes[one.item, key][label] - 1) / several, one.item))
            if isinstance(key, tuple):
                ties.append((float(label == 0.5), one.item))
            if isinstance(key, tuple) and label != 0.5:
                earlier = one.shown.index(key[0]) < one.shown.index(key[1])
                first.append((float((label == 1) == earlier), one.item))
    seconds = [one.seconds for one in answers]
    enough = len(answers) >= FEW
    return PersonRow(
        name=name,
        answers=len(answers),
        others=_share(others),
        gold=_share(gold),
        first=_share(first),
        ties=_share(ties),
        flags=_share([(float(one.flagged), one.item) for one in answers]),
        seconds=median(seconds) if enough else None,
        hourly=3600 * len(answers) / sum(seconds) if enough and sum(seconds) > 0 else None,
    )


def _share(outcomes: Sequence[tuple[float, int]]) -> Interval | None:
    """The share with its interval, clustered by item; None for too few items."""
    from accord.evaluate.statistics import rate

    if len({item for _, item in outcomes}) < FEW:
        return None
    values, items = zip(*outcomes, strict=True)
    return rate(np.array(values), np.array(items))


def _disputed(by_pair: Mapping[tuple[int, Pair], Iterable[CountedAnswer]]) -> list[Disputed]:
    """The most disputed items, earliest first among equals."""
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
