"""Models judged on the same prompts: what tables, a matrix of who beats whom and a figure show of a `ModelsResult`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.ticker import PercentFormatter

from accord.report.figures import DASHES, SOFT, Figure, blank, drawing, hue, inline
from accord.report.folder import Story
from accord.report.html import span
from accord.results import Interval, ModelsResult
from accord.results.base import called
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


def by_temperature(tables: Sequence[ModelTable]) -> list[Figure]:
    """A figure for each evaluation that was asked for several temperatures."""
    return [_over_temperatures(table.result) for table in tables if table.result.temperatures]


@drawing
def _over_temperatures(result: ModelsResult) -> Figure:
    every = sorted(result.temperatures or [], key=lambda at: at.temperature)
    rival = called(result.against or "")
    figure, axes = blank(4.6, 2.9, "temperature")
    axes.set_ylabel(f"wins over {rival}")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
    axes.axhline(0.5, color=SOFT, linewidth=0.8, linestyle=DASHES)
    for i, name in enumerate(model.name for model in every[0].models):
        won = [(at.temperature, model.win_rate) for at in every for model in at.models if model.name == name]
        rates = [(at, rate.interval) for at, rate in won if rate is not None and rate.interval is not None]
        at = [temperature for temperature, _ in rates]
        axes.vlines(at, [rate.low for _, rate in rates], [rate.high for _, rate in rates], color=hue(i), alpha=0.7)
        axes.plot(at, [rate.estimate for _, rate in rates], "o-", color=hue(i), markersize=4, label=name)
    axes.legend(frameon=False, fontsize=8, handlelength=1.8)
    held = "drawn once" if result.sampling is None else f"drawn once, at temperature {result.sampling.temperature:g}"
    caption = (
        f"Each model's answers at each temperature against the same answers of {rival}, which were "
        f"{held} or written before; bars are 95% intervals, the dashed line an even match."
    )
    return Figure(f"Wins over {rival} by temperature", inline(figure), caption)
