"""Win rates over the temperature of sampling: a line a model."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.ticker import PercentFormatter

from accord.report.figures import DASHES, SOFT, Figure, blank, drawing, hue, inline
from accord.report.models import ModelTable
from accord.results import ModelsResult
from accord.results.base import called


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
