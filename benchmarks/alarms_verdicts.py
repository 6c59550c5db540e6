"""How early and how reliably alarms ring, by runs that lost the gold reward and runs that did not: tables, a picture.

A run has lost the gold reward at the first step where both its value and the mean of that step and the next two are at
least a tenth below the best earlier mean of three steps, provided that the last three steps are that low too. It is
healthy if the mean is never that low. A run that recovers is neither.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from accord.results import Interval
from accord.results.intervals import wilson
from accord.train.alarms import raised

SETTING, JUDGED = (0, 1), (2, 3)
"""Seeds whose healthy runs set the thresholds, and seeds on which these are evaluated."""
GOLD = "reward of cafe"


@dataclass(frozen=True, eq=False)
class Run:
    """A run of the trial: its sweep, seed and learning rate, and its rows of metrics."""

    sweep: str
    seed: int
    rate: float
    rows: list[dict[str, float]]

    @property
    def gold(self) -> NDArray[np.float64]:
        """The true reward of each step's samples."""
        return self.column(GOLD)

    @cached_property
    def limit(self) -> NDArray[np.float64]:
        """For each step, a tenth below the best earlier mean of three steps (fewer at the start); -inf at the first."""
        means = [self.gold[i : i + 3].mean() for i in range(len(self.gold))]
        best = [max([*means[: max(0, i - 2)], self.gold[: min(3, i)].mean()]) for i in range(1, len(means))]
        return 0.9 * np.array([-np.inf, *best])

    @cached_property
    def below(self) -> NDArray[np.bool_]:
        """Whether the mean of each step and the next two is at or below the limit."""
        return np.array([self.gold[i : i + 3].mean() <= self.limit[i] for i in range(len(self.gold) - 2)])

    @property
    def lost(self) -> int | None:
        """The step at which the gold reward is lost; None if it is not, or if it recovers."""
        fallen = np.flatnonzero(self.below & (self.gold <= self.limit)[:-2])
        return int(fallen[0]) + 1 if len(fallen) and self.below[-1] else None

    @property
    def is_healthy(self) -> bool:
        """Whether the gold reward is never lost, not even temporarily."""
        return not self.below.any()

    def column(self, name: str) -> NDArray[np.float64]:
        return np.array([row.get(name, np.nan) for row in self.rows])


def rings(run: Run, watched: str = "watched") -> dict[str, int]:
    """The step at which each of accord's alarms first rings, given the watched column; `any` is the earliest."""
    rows = [{**row, "watched": row[watched]} for row in run.rows]
    first: dict[str, int] = {}
    for alarm in raised(rows):
        first.setdefault(alarm.name, alarm.step)
    return first | ({"any": min(first.values())} if first else {})


Score = Callable[[Run], NDArray[np.float64]]
"""A number for each step from what was logged up to it; higher is worse."""


def before(values: NDArray[np.float64], size: int = 3) -> NDArray[np.float64]:
    """The starting value as known at each step: the mean of the first values before it, three at most."""
    return np.array([values[: max(1, min(size, i))].mean() for i in range(len(values))])


def fallen(values: NDArray[np.float64], unit: float = 1.0) -> NDArray[np.float64]:
    """How far the mean of the last two values lies below the highest such mean so far."""
    means = np.array([values[max(0, i - 1) : i + 1].mean() for i in range(len(values))])
    return (np.maximum.accumulate(means) - means) / unit


SIGNALS: dict[str, Score] = {
    "KL": lambda run: run.column("kl"),
    "rise of KL in a step": lambda run: np.diff(run.column("kl"), prepend=run.column("kl")[:1]),
    "entropy lost": lambda run: 1 - run.column("entropy") / before(run.column("entropy")),
    "samples no longer ended": lambda run: before(run.column("ended")) - run.column("ended"),
    "change of length": lambda run: np.abs(np.log(run.column("length") / before(run.column("length")))),
    "repetition": lambda run: run.column("repetition") - before(run.column("repetition")),
    "fall of the reward": lambda run: fallen(run.column("reward"), run.column("reward_std")[0]),
    "spread of rewards lost": lambda run: 1 - run.column("reward_std") / before(run.column("reward_std")),
    "fall of another reward model": lambda run: fallen(run.column("watched"), run.column("reward_std")[0]),
    "fall of gold itself": lambda run: fallen(run.column(GOLD)) / np.maximum.accumulate(run.column(GOLD)),
}


def crossed(run: Run, score: Score, threshold: float) -> int | None:
    """The first step at which a score is above a threshold."""
    over = np.flatnonzero(score(run) > threshold)
    return int(over[0]) + 1 if len(over) else None


@dataclass(frozen=True)
class Verdict:
    """One alarm: in lost runs the steps from its ring to the loss (None: silent), in healthy runs whether it rang."""

    name: str
    leads: list[int | None]
    false: list[bool]

    def share(self, least: int) -> Interval:
        """The share of lost runs in which it rang at least `least` steps before the loss."""
        return wilson(sum(lead is not None and lead >= least for lead in self.leads), len(self.leads))

    @property
    def false_rate(self) -> Interval:
        return wilson(sum(self.false), len(self.false))

    def cells(self) -> list[str]:
        late = [-lead for lead in self.leads if lead is not None]
        shares = [f"{self.share(least):.0%}" for least in (1, 0, -3, -99)]
        middle = f"{np.median(late):+.3g}" if late else ""
        return [
            self.name,
            *shares,
            middle,
            f"{min(late):+d} to {max(late):+d}" if late else "",
            f"{self.false_rate:.0%}",
        ]


def verdict(name: str, lost: Sequence[Run], healthy: Sequence[Run], at: Callable[[Run], int | None]) -> Verdict:
    """The verdict on an alarm, where `at` gives the step at which it rings in a run."""
    leads = [None if (rung := at(run)) is None else int(run.lost or 0) - rung for run in lost]
    return Verdict(name, leads, [at(run) is not None for run in healthy])


def judge(runs: Sequence[Run], console: Console) -> dict[str, list[Verdict]]:
    """Print the tables, and return the verdicts by kind of run."""
    lost, healthy = [r for r in runs if r.lost], [r for r in runs if r.is_healthy]
    console.print(f"{len(runs)} runs: {len(lost)} lost, {len(healthy)} healthy, {len(runs) - len(lost) - len(healthy)} "
                  "that recovered")  # fmt: skip
    by_sweep = Table("sweep", "rate", "lost", "at steps", "recovered", "gold: first, best, last")
    for sweep, rate in dict.fromkeys((r.sweep, r.rate) for r in runs):
        some = [r for r in runs if (r.sweep, r.rate) == (sweep, rate)]
        ends = " ".join(f"{r.gold[0]:.2f}, {r.gold.max():.2f}, {r.gold[-3:].mean():.2f};" for r in some)
        steps = ", ".join(str(r.lost) for r in some if r.lost)
        back = sum(not r.lost and not r.is_healthy for r in some)
        by_sweep.add_row(sweep, f"{rate:g}", f"{sum(r.lost is not None for r in some)} of {len(some)}", steps,
                         str(back), ends)  # fmt: skip
    console.print(by_sweep)
    kinds = {
        "broken": [r for r in lost if r.sweep.startswith("rate")],
        "exploited": [r for r in lost if r.sweep.startswith("hack")],
    }
    told = {run: (rings(run), rings(run, GOLD)) for run in runs}
    names = list(dict.fromkeys(name for own, _ in told.values() for name in own if name != "any"))
    found: dict[str, list[Verdict]] = {}
    for kind, some in kinds.items():
        verdicts = [verdict(n, some, healthy, lambda r, n=n: told[r][0].get(n)) for n in [*names, "any"]]
        gold = verdict("overoptimization, gold watched", some, healthy, lambda r: told[r][1].get("overoptimization"))
        found[kind] = [*verdicts, gold]
        show(console, f"accord's alarms, runs {kind} ({len(some)} lost, {len(healthy)} healthy)", found[kind])
    quiet = [r for r in healthy if r.seed in SETTING]
    limits = {name: max((float(score(r).max()) for r in quiet), default=0.0) for name, score in SIGNALS.items()}
    for kind, some in kinds.items():
        judged, fine = [r for r in some if r.seed in JUDGED], [r for r in healthy if r.seed in JUDGED]
        found[f"{kind}, set"] = [
            verdict(f"{name} > {limits[name]:.3g}", judged, fine, lambda r, s=score, n=name: crossed(r, s, limits[n]))
            for name, score in SIGNALS.items()
        ]
        title = f"thresholds set on {len(quiet)} healthy runs of seeds 0 and 1; of seeds 2 and 3, {kind}"
        show(console, f"{title} ({len(judged)} lost, {len(fine)} healthy)", found[f"{kind}, set"])
    return found


def show(console: Console, title: str, verdicts: Sequence[Verdict]) -> None:
    table = Table("alarm", "before the loss", "by then", "by 3 steps after", "ever", "median", "earliest to latest",
                  "false alarms", title=title)  # fmt: skip
    for one in verdicts:
        table.add_row(*one.cells())
    console.print(table)


COLORS = {
    "any": "#1b1f24", "kl-burst": "#b7791f", "collapse": "#c53030", "entropy-collapse": "#2f855a",
    "overoptimization": "#2b6cb0", "overoptimization, gold watched": "#63b3ed",
}  # fmt: skip


def draw(found: Mapping[str, Sequence[Verdict]], file: Path) -> None:
    """Top: the share of lost runs in which an alarm has rung, by steps from the loss; bottom: single numbers."""
    with matplotlib.rc_context({"font.size": 8.5, "axes.labelcolor": "#6b7280"}):
        figure = Figure(figsize=(9.5, 6.2), layout="constrained")
        grid = figure.subplots(2, 2, sharex="row", height_ratios=(1, 1.1))
        titles = {"broken": "a learning rate too high", "exploited": "a small reward model, exploited"}
        for axes, (kind, title) in zip(grid[0], titles.items(), strict=True):
            rising(axes, found[kind])
            axes.set_title(f"{title}: {len(found[kind][0].leads)} runs", loc="left", fontsize=8.5)
            axes.set_xlabel("steps since gold had lost a tenth of its best")
        grid[0][0].set_ylabel("share of runs in which it has rung")
        grid[0][1].legend(frameon=False, fontsize=7.5, loc="upper left")
        for axes, kind in zip(grid[1], titles, strict=True):
            bars(axes, found[f"{kind}, set"])
            axes.set_xlabel("rung before the loss (full), by then (open), false alarms (cross)")
        grid[1][1].set_yticklabels([])
        file.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(file, dpi=170)


def rising(axes: Axes, verdicts: Sequence[Verdict]) -> None:
    steps = np.arange(-12, 17)
    for one in (v for v in verdicts if v.name in COLORS):
        shares, is_any = [one.share(-int(step)) for step in steps], one.name == "any"
        axes.step(steps, [s.estimate for s in shares], where="post", color=COLORS[one.name], label=one.name,
                  lw=1.0 if is_any else 2.0, ls="--" if is_any else "-", zorder=3 if is_any else 2)  # fmt: skip
        if is_any:
            low, high = [s.low for s in shares], [s.high for s in shares]
            axes.fill_between(steps, low, high, step="post", color=COLORS["any"], alpha=0.08, lw=0)
    axes.axvline(0, color="#6b7280", lw=0.8, ls=":")
    axes.set_ylim(-0.02, 1.02)
    axes.spines[["top", "right"]].set_visible(False)


def bars(axes: Axes, verdicts: Sequence[Verdict]) -> None:
    marks = ((0.25, "o", "#2b6cb0", "#2b6cb0"), (0.0, "o", "#2b6cb0", "white"), (-0.25, "x", "#c53030", "#c53030"))
    for place, one in enumerate(reversed(verdicts)):
        shares = (one.share(1), one.share(0), one.false_rate)
        for share, (shift, mark, color, face) in zip(shares, marks, strict=True):
            axes.plot([share.low, share.high], [place + shift] * 2, color=color, lw=1.0, alpha=0.7)
            axes.plot(share.estimate, place + shift, mark, color=color, mfc=face, ms=4.5)
    axes.set_yticks(range(len(verdicts)), [one.name.split(" > ")[0] for one in reversed(verdicts)])
    axes.set_xlim(-0.02, 1.02)
    axes.spines[["top", "right"]].set_visible(False)
