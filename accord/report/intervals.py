"""Estimates with their intervals, as evaluations write them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Interval:
    """An estimate from `n` observations with the ends of its 95% interval."""

    estimate: float
    low: float
    high: float
    n: int | None = None

    def mirrored(self) -> Interval:
        """The same share seen from the other side: one minus it, so that 86.25% is printed beside 13.75%'s 13.8%.

        Rounded past what a float holds, since 1 - 0.8625 is 0.13749999999999996 and would be printed as 13.7%.
        """
        estimate, low, high = (round(1.0 - value, 12) for value in (self.estimate, self.high, self.low))
        return Interval(estimate, low, high, self.n)


def interval_of(value: Any) -> Interval | None:
    """The interval in a JSON object; an end that is missing or not finite falls on the estimate."""
    estimate = finite(value.get("estimate")) if isinstance(value, dict) else None
    if estimate is None:
        return None
    low, high = finite(value.get("low")), finite(value.get("high"))
    return Interval(estimate, estimate if low is None else low, estimate if high is None else high, value.get("n"))


def finite(value: Any) -> float | None:
    """The number, where it is one and finite."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def span(intervals: Iterable[Interval]) -> tuple[float, float]:
    """The range that intervals cover together, with a little air; the bars of one column share it."""
    drawn = list(intervals)
    low, high = min(i.low for i in drawn), max(i.high for i in drawn)
    air = 0.05 * (high - low) or 1.0
    return low - air, high + air


def objects(value: Any) -> list[dict[str, Any]]:
    """The objects in a JSON list; of anything else, none."""
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def mapping(value: Any) -> dict[str, Any]:
    """The JSON object; of anything else, an empty one."""
    return value if isinstance(value, dict) else {}
