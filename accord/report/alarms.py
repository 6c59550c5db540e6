"""The alarms of a run, one entry a kind, numbered as the curves mark them."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, replace

from accord.report.captions import metric_for
from accord.report.figures import Mark
from accord.report.folder import StageRecord
from accord.report.html import number

WATCHED = (
    "watched", "reward", "reward_std", "flat_groups", "length", "repetition", "entropy", "kl", "sampler_drift",
    "chosen_reward", "accuracy", "loss",
)  # fmt: skip
"""Columns that alarms look at."""


@dataclass(frozen=True)
class AlarmKind:
    """One kind of alarm: when it rang, and what it saw and advised when it first did."""

    label: str
    name: str
    steps: tuple[float, ...]
    saw: str
    advice: str

    @property
    def when(self) -> str:
        """The step; of an alarm that rang again, the first, the last and how often."""
        first, last = number_of(self.steps[0]), number_of(self.steps[-1])
        return f"step {first}" if len(self.steps) == 1 else f"{len(self.steps)} times, steps {first} to {last}"


@dataclass(frozen=True)
class StageAlarms:
    """What the alarms of one stage said and looked at; `best` is the step whose model is kept, and its value."""

    stage: str
    alarms: tuple[AlarmKind, ...]
    looked_at: tuple[str, ...]
    steps: int
    best: tuple[str, str] | None

    def named(self, stage: str) -> StageAlarms:
        """The same under another stage's name."""
        return replace(self, stage=stage)

    @property
    def marks(self) -> list[Mark]:
        """Where the curves are marked: at the first step of each kind."""
        return [(alarm.steps[0], alarm.label) for alarm in self.alarms]


def stage_alarms(stage: StageRecord, measured: Collection[str]) -> StageAlarms | None:
    """The alarms of a stage; None where none were listening."""
    run = stage.run
    if run.alarms is None:
        return None
    kinds: dict[str, list[tuple[float, str, str]]] = {}
    for row in run.alarms:
        step = _finite(row.get("step"))
        entry = (0.0 if step is None else step, _sentence(row.get("saw")), _sentence(row.get("try")))
        kinds.setdefault(str(row.get("alarm") or "alarm"), []).append(entry)
    alarms = [
        AlarmKind(str(index), name.replace("-", " "), tuple(step for step, _, _ in rows), rows[0][1], rows[0][2])
        for index, (name, rows) in enumerate(kinds.items(), start=1)
    ]
    looked = tuple(_in_a_sentence(metric_for(name, measured).title) for name in WATCHED if name in measured)
    step, value = _finite(run.best.get("step")), _finite(run.best.get("watched"))
    best = None if step is None else (number_of(step), number(value))
    return StageAlarms(stage.name, tuple(alarms), looked, len(run.metrics), best)


def _finite(value: object) -> float | None:
    """The number, where it is one and finite."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if is_number else None  # type: ignore[arg-type]


def number_of(step: float) -> str:
    """A step as people write it."""
    return f"{step:,.0f}"


def _in_a_sentence(title: str) -> str:
    """A curve's title without its unit and, unless it is an abbreviation, without its capital."""
    bare = title.split(" (")[0]
    return bare if bare[:2].isupper() else bare[:1].lower() + bare[1:]


def _sentence(value: object) -> str:
    """What an alarm said, begun and ended as a sentence."""
    said = str(value or "").strip()
    return said[:1].upper() + said[1:] + ("" if not said or said[-1] in ".!?" else ".")
