"""Users one by one: each has one voice, however many judgments they gave, and an interval is over users."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from accord.errors import InputError
from accord.evaluate.statistics import Floats, mean_of
from accord.results.base import wilson
from accord.results.comparisons import Part, Users

if TYPE_CHECKING:
    from accord.data.judgments import Judgment
    from accord.evaluate.accuracy import Trial


def by_user(trial: Trial) -> Users | None:
    """The accuracy on the judgments of every user, where rows name at least two.

    Raises InputError where a user is of two groups.
    """
    named = trial.strict.where(np.array([bool(j.annotator) for j in trial.strict.judgments], dtype=bool))
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
    """The mean of a value a user over the users of every group, the lowest first; none where there is one group."""
    names = sorted(set(groups))
    if len(names) < 2:
        return []
    of = np.array(groups)
    parts = [Part(label=name or "no group", accuracy=mean_of(values[of == name])) for name in names]
    return sorted(parts, key=lambda part: part.accuracy.estimate)


def groups_of(judgments: Sequence[Judgment]) -> dict[str, str]:
    """The group of every annotator, in the order in which they appear; InputError where one is of two."""
    groups: dict[str, str] = {}
    for j in judgments:
        if groups.setdefault(j.annotator, j.group) != j.group:
            raise InputError(
                f"row {j.row + 1}: the annotator {j.annotator} is in the group {j.group!r}, and was in "
                f"{groups[j.annotator]!r} before; give everybody one group."
            )
    return groups
