"""An evaluation's numbers as the rows of the page's tables, each with its interval."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from accord.report.folder import Json, Story
from accord.report.text import plain


@dataclass(frozen=True)
class Interval:
    """An estimate from `n` observations with the ends of its 95% interval."""

    estimate: float
    low: float
    high: float
    n: int | None = None


@dataclass(frozen=True)
class ModelRow:
    """One model in the result table; what was not measured is None."""

    name: str
    scores: dict[str, Interval]
    win_rate: Interval | None
    ties: int
    invalid: int
    kl: Interval | None
    length: float | None
    ended: float | None


@dataclass(frozen=True)
class Answers:
    """One prompt and what every model answered: (model, text, score by judge)."""

    prompt: str
    answers: tuple[tuple[str, str, dict[str, Any]], ...]


@dataclass(frozen=True)
class ModelTable:
    """Models judged on the same prompts. `judges` opens with the one whose verdicts are the win rates."""

    stage: str
    judge: str
    against: str
    reference: str
    prompts: int | None
    judges: tuple[str, ...]
    models: tuple[ModelRow, ...]
    side_by_side: tuple[Answers, ...]

    @property
    def challengers(self) -> tuple[ModelRow, ...]:
        """The models whose win rate says something: all but the one they are held against, best last."""
        measured = [model for model in self.models if model.win_rate and model.name != self.against]
        return tuple(sorted(measured, key=lambda model: model.win_rate.estimate if model.win_rate else 0.0))

    def span(self, judge: str) -> tuple[float, float]:
        """The range that the intervals of one judge's scores cover together, with a little air; bars share it."""
        intervals = [model.scores[judge] for model in self.models if judge in model.scores]
        low, high = min(i.low for i in intervals), max(i.high for i in intervals)
        air = 0.05 * (high - low) or 1.0
        return low - air, high + air


@dataclass(frozen=True)
class Agreement:
    """How often a scorer prefers what was chosen in held-out comparisons, and the most that their noise allows."""

    name: str
    data: str
    accuracy: Interval
    ceiling: float | None
    ties: int


def model_tables(story: Story) -> list[ModelTable]:
    """The evaluations of models in the story, in the order of its stages."""
    found = [(stage.name, stage.run.evaluation) for stage in story.stages]
    return [_model_table(name, evaluation) for name, evaluation in found if evaluation.get("kind") == "models"]


def agreements(story: Story) -> list[Agreement]:
    """The evaluations on held-out comparisons in the story."""
    found = []
    for stage in story.stages:
        evaluation = stage.run.evaluation
        accuracy = _interval(evaluation.get("accuracy"))
        if evaluation.get("kind") == "comparisons" and accuracy:
            found.append(
                Agreement(
                    name=str(evaluation.get("name") or stage.name),
                    data=str(evaluation.get("data") or ""),
                    accuracy=accuracy,
                    ceiling=_finite(evaluation.get("ceiling")),
                    ties=evaluation.get("ties") or 0,
                )
            )
    return found


def _model_table(stage: str, evaluation: Json) -> ModelTable:
    models = tuple(map(_model_row, evaluation.get("models", [])))
    judge = str(evaluation.get("judge") or "")
    others = dict.fromkeys(name for model in models for name in model.scores if name != judge)
    has_gold = any(judge in model.scores for model in models)
    return ModelTable(
        stage=stage,
        judge=judge,
        against=str(evaluation.get("against") or ""),
        reference=str(evaluation.get("reference") or ""),
        prompts=evaluation.get("prompts"),
        judges=((judge,) if has_gold else ()) + tuple(others),
        models=models,
        side_by_side=tuple(map(_answers, evaluation.get("side_by_side", []))),
    )


def _model_row(model: Json) -> ModelRow:
    scores = {name: _interval(value) for name, value in (model.get("scores") or {}).items()}
    win_rate = model.get("win_rate") or {}
    return ModelRow(
        name=str(model.get("name", "")),
        scores={name: interval for name, interval in scores.items() if interval},
        win_rate=_interval(win_rate),
        ties=win_rate.get("ties") or 0,
        invalid=win_rate.get("invalid") or 0,
        kl=_interval(model.get("kl")),
        length=_finite(model.get("length")),
        ended=_finite(model.get("ended")),
    )


def _answers(row: Json) -> Answers:
    answers = tuple(
        (str(answer.get("model", "")), plain(answer.get("text")), answer.get("scores") or {})
        for answer in row.get("answers", [])
    )
    return Answers(plain(row.get("prompt")), answers)


def _interval(value: Any) -> Interval | None:
    """The interval in a JSON object; an end that is missing or not finite falls on the estimate."""
    estimate = _finite(value.get("estimate")) if isinstance(value, dict) else None
    if estimate is None:
        return None
    low, high = _finite(value.get("low")), _finite(value.get("high"))
    return Interval(estimate, estimate if low is None else low, estimate if high is None else high, value.get("n"))


def _finite(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
