"""Where a course is highest, and how much of what it gained is gone at its end."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from accord.report.series import Array
from accord.report.text import percent

STEADY = 0.02
"""A fall by less than this share of the gain is none to speak of."""


@dataclass(frozen=True)
class Peak:
    """The place of the highest value, what was gained until there, and what is lost at the end."""

    place: int
    gain: float
    lost: float

    @property
    def never_rose(self) -> bool:
        """Whether the course is nowhere above where it begins."""
        return self.gain <= 0

    @property
    def has_turned(self) -> bool:
        """Whether it ends well below its height."""
        return self.lost > STEADY * self.gain

    @property
    def fall(self) -> str:
        """The fall in words."""
        if self.lost > self.gain:
            return "ends below where it began"
        return f"has fallen by {percent(self.lost / self.gain)} of its gain at the end"


def peak(values: Array) -> Peak:
    """The peak of a course of one value or more."""
    place = int(np.argmax(values))
    return Peak(place, float(values[place] - values[0]), float(values[place] - values[-1]))
