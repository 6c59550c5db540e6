"""Accuracy by user: each user is weighted equally, however many judgments they gave, and intervals are over users."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from accord.errors import InputError
from accord.evaluate.statistics import Floats, mean_of
from accord.results.comparisons import Part, Users
from accord.results.intervals import wilson

if TYPE_CHECKING:
    from accord.data.judgments import Judgment
    from accord.evaluate.accuracy import Predictions


def by_user(predictions: Predictions) -> Users | None:
    """The accuracy by user, where rows name at least two.

    Raises InputError where a user belongs to two groups.
    """
    named = predictions.strict.where(np.array([bool(j.annotator) for j in predictions.strict.judgments], dtype=bool))
    names = list(dict.fromkeys(j.annotator for j in named.judgments))
    if len(names) < 2:
        return None
    who = np.array([j.annotator for j in named.judgments])
    right = {name: named.right[who == name] for name in names}
    means = np.array([right[name].mean() for name in names])
    worst = names[int(means.argmin())]
    groups = groups_of(named.judgments)
    return Users(
        users=len(names),
        mean=mean_of(means),
        worst=Part(label=worst, accuracy=wilson(float(right[worst].sum()), len(right[worst]))),
        groups=by_group(means, [groups[name] for name in names]),
    )


def by_group(values: Floats, groups: Sequence[str]) -> list[Part]:
    """The mean of one value per user over the users of every group, lowest first; empty where there is one group."""
    names = sorted(set(groups))
    if len(names) < 2:
        return []
    of = np.array(groups)
    parts = [Part(label=name or "no group", accuracy=mean_of(values[of == name])) for name in names]
    return sorted(parts, key=lambda part: part.accuracy.estimate)


def groups_of(judgments: Sequence[Judgment]) -> dict[str, str]:
    """The group of every annotator, in order of first appearance; InputError where one belongs to two."""
    groups: dict[str, str] = {}
    for j in judgments:
        if groups.setdefault(j.annotator, j.group) != j.group:
            raise InputError(
                f"row {j.row + 1}: the annotator {j.annotator} is in the group {j.group!r}, but in "
                f"{groups[j.annotator]!r} in an earlier row; give each annotator one group."
            )
    return groups
