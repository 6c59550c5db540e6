"""Sections about models judged on the same prompts: tables, a matrix of win rates, and figures of a `ModelsResult`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.ticker import FuncFormatter, NullLocator, PercentFormatter

from accord.report.figures import DASHES, SOFT, Figure, blank, drawing, hue, inline
from accord.report.folder import Story
from accord.report.html import span
from accord.results import Interval, ModelsResult
from accord.results.base import called
from accord.results.models import ModelRow, Pair


@dataclass(frozen=True)
class Cell:
    """A cell of the matrix: the row's model against the column's; `shade` from −5 (loses) to 5 (wins)."""

    raw: Interval
    controlled: Interval | None
    shade: int


@dataclass(frozen=True)
class ModelTable:
    """A models evaluation and its stage."""

    stage: str
    result: ModelsResult

    @property
    def judges(self) -> list[str]:
        """The rewards with scores; the judge of the win rates first."""
        names = dict.fromkeys(name for model in self.result.models for name in model.scores)
        return sorted(names, key=lambda name: name != self.result.judge)

    @property
    def challengers(self) -> list[ModelRow]:
        """The models with a win rate over the baseline, best last."""
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
        """The matrix by (row, column), with each pair in both directions."""
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
        """The models of the matrix, in the order of the leaderboard or of the table."""
        names = [row.name for row in self.result.board or self.result.models]
        met = {name for pair in self.pairs for name in (pair.model, pair.against)}
        return [name for name in dict.fromkeys([*names, *sorted(met)]) if name in met]

    @property
    def is_shaded(self) -> bool:
        """Whether any answer has token log-ratios."""
        return any(answer.tokens for prompt in self.result.side_by_side for answer in prompt.answers)

    def span(self, judge: str) -> tuple[float, float]:
        """The common range of the bars of one judge's scores."""
        return span(model.scores[judge] for model in self.result.models if judge in model.scores)


def model_tables(story: Story) -> list[ModelTable]:
    """The models evaluations of the story, in the order of its stages."""
    return [ModelTable(stage, result) for stage, result in story.results(ModelsResult)]


def shade(rate: Interval) -> int:
    """The color of a cell: one step per tenth from an even match, 0 where the interval includes it."""
    if rate.low <= 0.5 <= rate.high:
        return 0
    steps = max(1, min(5, round(abs(rate.estimate - 0.5) * 10)))
    return steps if rate.estimate > 0.5 else -steps


def by_temperature(tables: Sequence[ModelTable]) -> list[Figure]:
    """A figure for each evaluation at several temperatures."""
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


def by_labels(tables: Sequence[ModelTable]) -> list[Figure]:
    """A figure for each evaluation that knows its models' numbers of labels."""
    return [_over_labels(table.result, points) for table in tables if (points := points_by_labels(table.result))]


def family(name: str) -> str:
    """A name without the number at its end: dpo for dpo-300."""
    return re.sub(r"[-_ ]?\d+$", "", name) or name


def points_by_labels(result: ModelsResult) -> list[tuple[int, str, Interval]]:
    """(labels, family, win rate over the baseline or else score) per model, fewest labels first."""
    points = []
    for model in result.models:
        wins = model.win_rate.interval if model.win_rate else None
        reached = wins if result.against else model.scores.get(result.judge)
        if model.labels is not None and reached is not None:
            points.append((model.labels, family(model.name), reached))
    return sorted(points, key=lambda point: point[:2])


@drawing
def _over_labels(result: ModelsResult, points: Sequence[tuple[int, str, Interval]]) -> Figure:
    """One line per family."""
    counts = sorted({labels for labels, _, _ in points})
    figure, axes = blank(4.6, 2.9, "human labels")
    if result.against:
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
        axes.axhline(0.5, color=SOFT, linewidth=0.8, linestyle=DASHES)
    what = f"wins over {called(result.against)}" if result.against else f"score by {called(result.judge)}"
    axes.set_ylabel(what)
    axes.set_xscale("symlog" if counts[0] == 0 else "log")
    axes.set_xticks(counts)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda count, _: f"{count:,.0f}"))
    axes.xaxis.set_minor_locator(NullLocator())
    for i, name in enumerate(dict.fromkeys(name for _, name, _ in points)):
        at, rates = zip(*((n, rate) for n, of, rate in points if of == name), strict=True)
        axes.vlines(at, [r.low for r in rates], [r.high for r in rates], color=hue(i), alpha=0.7)
        axes.plot(at, [r.estimate for r in rates], "o-", color=hue(i), markersize=4, label=name)
    axes.legend(frameon=False, fontsize=8, handlelength=1.8)
    caption = "Each model by the number of human labels used for it, including earlier stages; bars are 95% "
    caption += "intervals, the dashed line an even match." if result.against else "intervals."
    return Figure(f"{what[0].upper()}{what[1:]} by labels", inline(figure), caption)
