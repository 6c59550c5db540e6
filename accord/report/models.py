"""Models judged on the same prompts: what the tables and the matrix of who beats whom show of a `ModelsResult`."""

from __future__ import annotations

from dataclasses import dataclass

from accord.report.folder import Story
from accord.report.html import span
from accord.results import Interval, ModelsResult
from accord.results.models import ModelRow, Pair


@dataclass(frozen=True)
class Cell:
    """One cell of the matrix: the row's model against the column's; `shade` runs from −5 (loses) to 5 (wins)."""

    raw: Interval
    controlled: Interval | None
    shade: int


@dataclass(frozen=True)
class ModelTable:
    """An evaluation of models, and the stage that it is."""

    stage: str
    result: ModelsResult

    @property
    def judges(self) -> list[str]:
        """Whose scores are known, the one whose verdicts are the win rates first."""
        names = dict.fromkeys(name for model in self.result.models for name in model.scores)
        return sorted(names, key=lambda name: name != self.result.judge)

    @property
    def challengers(self) -> list[ModelRow]:
        """The models whose win rate says something: all but the one they are held against, best last."""
        measured = [
            (model.win_rate.interval.estimate, model)
            for model in self.result.models
            if model.win_rate and model.win_rate.interval and model.name != self.result.against
        ]
        return [model for _, model in sorted(measured, key=lambda pair: pair[0])]

    @property
    def pairs(self) -> list[Pair]:
        """Every two models with a valid verdict."""
        return [pair for pair in self.result.pairs if pair.interval]

    @property
    def cells(self) -> dict[tuple[str, str], Cell]:
        """The matrix by (row, column): each pair from both sides."""
        cells = {}
        for pair in self.pairs:
            raw, controlled = pair.interval, pair.length_controlled
            assert raw is not None
            cells[pair.model, pair.against] = Cell(raw, controlled, shade(raw))
            raw, controlled = raw.mirrored(), controlled.mirrored() if controlled else None
            cells[pair.against, pair.model] = Cell(raw, controlled, shade(raw))
        return cells

    @property
    def contestants(self) -> list[str]:
        """The models of the matrix: in the order of the board, or of the table."""
        names = [row.name for row in self.result.board or self.result.models]
        met = {name for pair in self.pairs for name in (pair.model, pair.against)}
        return [name for name in dict.fromkeys([*names, *sorted(met)]) if name in met]

    @property
    def is_shaded(self) -> bool:
        """Whether any answer's tokens are known beside the reference."""
        return any(answer.tokens for prompt in self.result.side_by_side for answer in prompt.answers)

    def span(self, judge: str) -> tuple[float, float]:
        """The range that the bars of one judge's scores share."""
        return span(model.scores[judge] for model in self.result.models if judge in model.scores)


def model_tables(story: Story) -> list[ModelTable]:
    """The evaluations of models in the story, in the order of its stages."""
    return [ModelTable(stage, result) for stage, result in story.results(ModelsResult)]


def shade(rate: Interval) -> int:
    """How strongly a cell is colored: a step for each tenth from an even match, none where the match may be even."""
    if rate.low <= 0.5 <= rate.high:
        return 0
    steps = max(1, min(5, round(abs(rate.estimate - 0.5) * 10)))
    return steps if rate.estimate > 0.5 else -steps
