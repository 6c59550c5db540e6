"""The alarms of a run, one entry a kind, numbered as the curves mark them."""

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
"""Columns that alarms look at."""


@dataclass(frozen=True)
class AlarmKind:
    """One kind of alarm: when it rang, and what it saw and advised when it first did.

    `when` is the step; of an alarm that rang again, the first, the last and how often.
    """

    name: str
    mark: Mark
    when: str
    saw: str
    advice: str


@dataclass(frozen=True)
class StageAlarms:
    """What the alarms of one stage said and looked at; `best` is the step of the model kept, its value, and by what."""

    stage: str
    alarms: tuple[AlarmKind, ...]
    looked_at: tuple[str, ...]
    steps: int
    best: tuple[str, str, str] | None


def stage_alarms(stage: str, run: RunFiles, measured: Collection[str]) -> StageAlarms | None:
    """The alarms of a stage's run; None where none were listening."""
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
    """The number, where it is one and finite."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if is_number else None  # type: ignore[arg-type]


def _named(title: str) -> str:
    """A curve's title within a sentence, without its unit."""
    return in_a_sentence(title.split(" (")[0])


def _sentence(value: object) -> str:
    """What an alarm said, begun and ended as a sentence."""
    said = str(value or "").strip()
    return said[:1].upper() + said[1:] + ("" if not said or said[-1] in ".!?" else ".")
