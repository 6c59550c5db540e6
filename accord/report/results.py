"""An evaluation of models as the rows of the page's tables, each number with its interval."""

from __future__ import annotations

from dataclasses import dataclass

from accord.report.answers import Asked, side_by_side
from accord.report.folder import Json, Story
from accord.report.intervals import Interval, finite, interval_of, objects, span
from accord.report.matrix import Cell, Pair, Rating, board_of, cells, pairs_of


@dataclass(frozen=True)
class ModelRow:
    """One model in the result table; what was not measured is None."""

    name: str
    scores: dict[str, Interval]
    win_rate: Interval | None
    controlled: Interval | None
    ties: int
    invalid: int
    kl: Interval | None
    length: float | None
    ended: float | None


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
    pairs: tuple[Pair, ...]
    board: tuple[Rating, ...]
    warnings: tuple[str, ...]
    side_by_side: tuple[Asked, ...]

    @property
    def challengers(self) -> tuple[ModelRow, ...]:
        """The models whose win rate says something: all but the one they are held against, best last."""
        measured = [model for model in self.models if model.win_rate and model.name != self.against]
        return tuple(sorted(measured, key=lambda model: model.win_rate.estimate if model.win_rate else 0.0))

    @property
    def cells(self) -> dict[tuple[str, str], Cell]:
        """The matrix of win rates by (row, column)."""
        return cells(self.pairs)

    @property
    def contestants(self) -> tuple[str, ...]:
        """The models of the matrix: in the order of the board, or of the table."""
        names = [rating.name for rating in self.board] or [model.name for model in self.models]
        met = {name for pair in self.pairs for name in (pair.model, pair.against)}
        return tuple(name for name in dict.fromkeys([*names, *sorted(met)]) if name in met)

    @property
    def is_shaded(self) -> bool:
        """Whether any answer's tokens are known beside the reference."""
        return any(answer.tokens for asked in self.side_by_side for answer in asked.answers)

    def span(self, judge: str) -> tuple[float, float]:
        """The range that the bars of one judge's scores share."""
        return span(model.scores[judge] for model in self.models if judge in model.scores)

    def span_of_board(self) -> tuple[float, float]:
        """The range that the bars of the board share."""
        return span(rating.rating for rating in self.board)


def model_tables(story: Story) -> list[ModelTable]:
    """The evaluations of models in the story, in the order of its stages."""
    return [model_table(stage.name, stage.run.evaluation) for stage in story.stages if stage.run.kind == "models"]


def model_table(stage: str, evaluation: Json) -> ModelTable:
    """The table of one evaluation of models."""
    models = tuple(map(_model_row, objects(evaluation.get("models"))))
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
        pairs=pairs_of(evaluation),
        board=board_of(evaluation),
        warnings=warnings_of(evaluation),
        side_by_side=side_by_side(evaluation),
    )


def warnings_of(evaluation: Json) -> tuple[str, ...]:
    """What the evaluation itself warns of."""
    return tuple(str(line) for line in evaluation.get("warnings") or [])


def _model_row(model: Json) -> ModelRow:
    scores = {name: interval_of(value) for name, value in (model.get("scores") or {}).items()}
    win_rate = model.get("win_rate") or {}
    return ModelRow(
        name=str(model.get("name", "")),
        scores={name: interval for name, interval in scores.items() if interval},
        win_rate=interval_of(win_rate),
        controlled=interval_of(win_rate.get("length_controlled")),
        ties=win_rate.get("ties") or 0,
        invalid=win_rate.get("invalid") or 0,
        kl=interval_of(model.get("kl")),
        length=finite(model.get("length")),
        ended=finite(model.get("ended")),
    )
