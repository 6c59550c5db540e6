"""The alarms of a run for the page, one entry per alarm name, numbered as the curves mark them."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

from accord.console import legible
from accord.report.captions import in_a_sentence, metric_for
from accord.report.figures import Mark
from accord.report.folder import RunFiles
from accord.report.html import Json, number

WATCHED = (
    "watched", "reward", "reward_std", "flat_groups", "length", "repetition", "entropy", "kl", "sampler_drift",
    "chosen_reward", "accuracy", "loss", "eval_loss",
)  # fmt: skip
"""Columns that alarms examine."""


@dataclass(frozen=True)
class AlarmKind:
    """An alarm: when it was raised, and what it saw and advised the first time.

    `when` is the step; for an alarm raised several times, the first and last step and the count.
    """

    name: str
    mark: Mark
    when: str
    saw: str
    advice: str


@dataclass(frozen=True)
class StageAlarms:
    """The alarms of one stage and the columns they examined; `best` is the best model's step, value and measure."""

    stage: str
    alarms: tuple[AlarmKind, ...]
    looked_at: tuple[str, ...]
    steps: int
    best: tuple[str, str, str] | None


def stage_alarms(stage: str, run: RunFiles, measured: Collection[str]) -> StageAlarms | None:
    """The alarms of a stage's run; None where alarms were not recorded."""
    if run.alarms is None:
        return None
    kinds: dict[str, list[Json]] = {}
    for row in run.alarms:
        kinds.setdefault(legible(str(row.get("alarm") or "alarm")), []).append(row)
    alarms = []
    for index, (name, rows) in enumerate(kinds.items(), start=1):
        steps = [_finite(row.get("step")) or 0.0 for row in rows]
        again = f"{len(rows)} times, steps {steps[0]:,.0f} to {steps[-1]:,.0f}"
        when = again if len(rows) > 1 else f"step {steps[0]:,.0f}"
        saw, advice = (_sentence(rows[0].get(what)) for what in ("saw", "try"))
        alarms.append(AlarmKind(name.replace("-", " "), (steps[0], str(index)), when, saw, advice))
    looked = tuple(_named(metric_for(name, measured).title) for name in WATCHED if name in measured)
    step, by = _finite(run.best.get("step")), next((name for name in run.best if name != "step"), "watched")
    rated = "the independent measure" if by == "watched" else f"its {_named(metric_for(by, measured).title)}"
    best = None if step is None else (f"{step:,.0f}", number(_finite(run.best.get(by))), rated)
    return StageAlarms(stage, tuple(alarms), looked, run.steps, best)


def _finite(value: object) -> float | None:
    """The value if it is a finite number, else None."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if is_number else None  # type: ignore[arg-type]


def _named(title: str) -> str:
    """A curve's title without its unit, for use in a sentence."""
    return in_a_sentence(title.split(" (")[0])


def _sentence(value: object) -> str:
    """An alarm's text as a sentence."""
    text = str(value or "").strip()
    return text[:1].upper() + text[1:] + ("" if not text or text[-1] in ".!?" else ".")
