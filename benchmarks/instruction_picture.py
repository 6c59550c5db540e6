"""The picture of benchmarks/instruction_tuning.py: panels for sizes, clusters, reasoning and demonstrations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import matplotlib
from instruction_studies import Found
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from accord.evaluate.statistics import over_seeds
from accord.worlds import shelf

INK, SOFT = "#1b1f24", "#6b7280"
BLUE, OCHRE, VIOLET = "#2b6cb0", "#b7791f", "#9f7aea"


def draw(found: Found, file: Path) -> None:
    """Draw a panel for each study that was run."""
    panels = [(study, panel) for study, panel in PANELS.items() if any(key[0] == study for key in found)]
    with matplotlib.rc_context({"font.size": 8.5, "text.color": INK, "axes.labelcolor": SOFT}):
        figure = Figure(figsize=(3.1 * len(panels), 3.2), layout="constrained")
        for axes, (study, panel) in zip(
            figure.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels, strict=True
        ):
            panel(axes, {key[1:]: seeds for key, seeds in found.items() if key[0] == study})
            axes.axhline(0, color=SOFT, lw=0.6, ls=":")
            axes.set_title(study, loc="left", fontsize=9)
            axes.spines[["top", "right"]].set_visible(False)
            axes.tick_params(colors=SOFT)
        figure.axes[0].set_ylabel("above chance, clusters held out")
        file.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(file, dpi=170)


Seeds: TypeAlias = Mapping[tuple[int, str], Sequence[Mapping[str, float]]]


def line(
    axes: Axes, places: Sequence[float], runs: Sequence[Sequence[Mapping[str, float]]], label: str, color: str
) -> None:
    """Means over seeds with their intervals."""
    means = [over_seeds([seed["held out"] for seed in seeds]) for seeds in runs]
    reach = [[m.estimate - m.low for m in means], [m.high - m.estimate for m in means]]
    axes.errorbar(places, [m.estimate for m in means], reach, fmt="o-", color=color, ms=4, lw=1.2, label=label)


def sizes(axes: Axes, runs: Seeds) -> None:
    """Base and tuned models by their parameters."""
    widths = sorted({width for width, _ in runs})
    millions = [sum(p.numel() for p in shelf.new_model(0, width).parameters()) / 1e6 for width in widths]
    for name, color in (("base", SOFT), ("no pretraining, tuned", OCHRE), ("tuned", BLUE)):
        line(axes, millions, [runs[width, name] for width in widths], name, color)
    axes.set_xscale("log")
    axes.set_xticks(millions, [f"{m:.2g} M" for m in millions])
    axes.minorticks_off()
    axes.set_xlabel("parameters")
    axes.legend(frameon=False, fontsize=7.5)


def clusters(axes: Axes, runs: Seeds) -> None:
    """By the number of clusters tuned on, all for the same number of steps."""
    counts = {name: (int(name.split()[0]) if name[0].isdigit() else 13) for _, name in runs}
    line(axes, list(counts.values()), list(runs.values()), "", BLUE)
    axes.set_xticks(list(counts.values()))
    axes.set_xlabel("clusters tuned on")


def reasoning(axes: Axes, runs: Seeds) -> None:
    """Direct answers, answers after reasons, and by majority vote."""
    names = [name for _, name in runs]
    line(axes, range(len(names)), list(runs.values()), "", BLUE)
    axes.lines[0].set_linestyle("")
    axes.set_xticks(
        range(len(names)), [name.replace(", ", ",\n") for name in names], rotation=30, ha="right", fontsize=7
    )


def demonstrations(axes: Axes, runs: Seeds) -> None:
    """By the number of demonstrations, clean or with 30% of the answers wrong."""
    for kind, color in (("clean", BLUE), ("noisy", VIOLET)):
        named = {int(name.split()[0]): seeds for (_, name), seeds in runs.items() if name.endswith(kind)}
        line(axes, list(named), list(named.values()), kind, color)
    axes.set_xscale("log")
    axes.set_xticks(list(named), [f"{count:,}" for count in named])
    axes.minorticks_off()
    axes.set_xlabel("demonstrations")
    axes.legend(frameon=False, fontsize=7.5, loc="lower right")


PANELS = {"sizes": sizes, "clusters": clusters, "reasoning": reasoning, "demonstrations": demonstrations}
