"""Alarms on trial: how many steps before the true reward is lost does each ring, and how often for nothing?

    python benchmarks/alarms_trial.py --out runs/trial             # all runs, one after another; then the tables
    python benchmarks/alarms_trial.py --out runs/trial --only judge

PPO, GRPO and RLOO in the café, 64 samples a step: over four learning rates (20 steps, a price on divergence), which
break or do not, and against a reward model of 250 comparisons with next to no price (30 steps), which they exploit;
four seeds of each, 60 runs. Gold is logged, as a part of the reward of weight 0, and watches nothing: what watches is
another reward model, of comparisons that no reward is fitted to. DPO over its own rates, for the share that collapses.

A run has lost at the first step at which the running mean of gold over three steps is a tenth below its best so far,
if the last three steps are too; it is healthy if that mean never is. Runs that come back are neither. Thresholds of
accord's alarms are those of before these runs; those of single numbers are the lowest at which no healthy run of seeds
0 and 1 rings, and are judged on seeds 2 and 3. What has been run is taken up, not run again.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from overoptimization import REWARD
from rich.console import Console
from rich.table import Table

import accord
from accord.cli.pipeline import run_stages
from accord.results import Interval
from accord.results.base import wilson
from accord.train.alarms import raised
from accord.train.rows import read_metrics

SETTING, JUDGED = (0, 1), (2, 3)
"""Seeds on whose healthy runs thresholds are set, and those of the runs that are judged."""
GOLD = "reward of cafe"
RATES = "5e-4,1e-3,2e-3,5e-3"
"""Once, twice, four and ten times the rate of the demo's PPO."""
OFFLINE_RATES = "3e-4,6e-4,1.2e-3,3e-3,3e-2"
"""Once, twice, four, ten and a hundred times the rate of the demo's DPO."""
REWARDS = {"small": "train[:250]", "large": "train[:4000]", "other": "train[4000:8000]"}
"""Reward models and the comparisons they are of: what is exploited, what is not, and what watches."""
METHODS: dict[str, dict[str, Any]] = {
    "ppo": {"batch_size": 64, "inner_epochs": 2, "minibatches": 2},
    "grpo": {"batch_size": 16, "group_size": 4},
    "rloo": {"batch_size": 16, "group_size": 4},
}
ONLINE = {"max_length": 128, "max_new_tokens": 40, "save_every": 100}
EXPLOITING = {"ppo": 5e-4, "grpo": 1e-3, "rloo": 1e-3}
"""The rate at which each exploits the small reward model: PPO makes four updates of a step's samples, others one."""


def prepare(out: Path) -> dict[str, str]:
    """What all runs start from: a fine-tuned model, comparisons, reward models; their paths by name."""
    shared = out / "shared"
    accord.run_pipeline(Path(__file__).with_name("overoptimization.yaml"), shared, {"seed": 0})
    files = {"sft": "sft/model", "prompts": "world/prompts.jsonl", "heldout": "world/heldout.jsonl"}
    at = {name: str(shared / file) for name, file in (files | {"comparisons": "comparisons/comparisons.jsonl"}).items()}
    some = out / "heldout-64.jsonl"
    if not some.exists():
        some.write_text("".join(Path(at["heldout"]).read_text().splitlines(keepends=True)[:64]))
    fits = {
        name: REWARD | {"model": at["sft"], "data": at["comparisons"], "split": split, "seed": 0}
        for name, split in REWARDS.items()
    }
    run_stages({"name": "rewards", "stages": fits}, out / "rewards", 1)
    return at | {name: str(out / "rewards" / name / "model") for name in REWARDS} | {"some": str(some)}


def sweeps(at: Mapping[str, str]) -> Iterator[tuple[str, str, dict[str, str], dict[str, Any]]]:
    """Each sweep: its name, the method, the grid, and the method's other options."""
    seeds = {"seed": ",".join(map(str, SETTING + JUDGED))}
    start = {"model": at["sft"]}
    for method, own in METHODS.items():
        given = start | {"data": at["prompts"], "watch": at["other"]} | own | ONLINE
        much = {"reward": f"{at['large']} + 0 * cafe", "max_steps": 20, "kl_coefficient": 0.05}
        little = {"reward": f"{at['small']} + 0 * cafe", "max_steps": 30, "kl_coefficient": 0.001}
        exploiting = little | {"schedule": "constant"}
        yield f"rate-{method}", method, {"learning_rate": RATES, **seeds}, given | much
        yield f"hack-{method}", method, {"learning_rate": str(EXPLOITING[method]), **seeds}, given | exploiting
    pairs = {"data": at["comparisons"], "split": "train[:4000]", "batch_size": 32, "max_steps": 40, "max_length": 128}
    watch = {"watch": "cafe", "watch_data": at["some"], "watch_every": 5, "watch_tokens": 40, "save_every": 100}
    yield "rate-dpo", "dpo", {"learning_rate": OFFLINE_RATES, **seeds}, start | pairs | watch


@dataclass(frozen=True)
class Run:
    """A run of the trial: which sweep's, its seed and learning rate, and its rows."""

    sweep: str
    seed: int
    rate: float
    rows: list[dict[str, float]]

    @cached_property
    def gold(self) -> NDArray[np.float64]:
        """The true reward of each step's samples, by its running mean over three steps."""
        values = np.array([row[GOLD] for row in self.rows])
        return np.array([values[max(0, i - 1) : i + 2].mean() for i in range(len(values))])

    @property
    def lost(self) -> int | None:
        """The first step at which gold is a tenth below its best so far, where it stays lost."""
        below = np.flatnonzero(self._below)
        return int(below[0]) + 1 if len(below) and self._below[-3:].all() else None

    @property
    def is_healthy(self) -> bool:
        """Whether gold is never so far below its best."""
        return not self._below.any()

    @property
    def _below(self) -> NDArray[np.bool_]:
        return self.gold <= 0.9 * np.maximum.accumulate(self.gold)

    def column(self, name: str) -> NDArray[np.float64]:
        return np.array([row.get(name, np.nan) for row in self.rows])


def read(out: Path) -> list[Run]:
    """All runs of methods that sample."""
    found = []
    for sweep in (f"{kind}-{method}" for kind in ("rate", "hack") for method in METHODS):
        for one in json.loads((out / sweep / "evaluation.json").read_text())["runs"]:
            rows = read_metrics(out / sweep / one["name"])
            found.append(Run(sweep, one["settings"]["seed"], one["settings"]["learning_rate"], rows))
    return found


def rings(run: Run, watched: str = "watched") -> dict[str, int]:
    """The step at which each of accord's alarms rings first, with a column watched; `any` is the first of all."""
    rows = [{**row, "watched": row[watched]} for row in run.rows]
    first: dict[str, int] = {}
    for alarm in raised(rows):
        first.setdefault(alarm.name, alarm.step)
    return first | ({"any": min(first.values())} if first else {})


Score = Callable[[Run], NDArray[np.float64]]
"""Of each step, from what was logged up to it: the more, the worse."""


def before(values: NDArray[np.float64], size: int = 3) -> NDArray[np.float64]:
    """What a number was at the start, as far as is known at each step: the mean of up to three of its first values."""
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
    """The first step at which a score lies above a threshold."""
    over = np.flatnonzero(score(run) > threshold)
    return int(over[0]) + 1 if len(over) else None


@dataclass(frozen=True)
class Verdict:
    """How one alarm did: of runs that lost, the steps from its ring to the loss (None: silent); of healthy, rings."""

    name: str
    leads: list[int | None]
    false: list[bool]

    def share(self, least: int) -> Interval:
        """Of the runs that lost, those in which it rang at least so many steps before."""
        return wilson(sum(lead is not None and lead >= least for lead in self.leads), len(self.leads))

    @property
    def false_rate(self) -> Interval:
        return wilson(sum(self.false), len(self.false))

    def cells(self) -> list[str]:
        rung = [lead for lead in self.leads if lead is not None]
        middle = f"{np.median(rung):+.0f}" if rung else ""
        most = f"{-max(rung):+d} to {-min(rung):+d}" if rung else ""
        shares = [f"{self.share(least):.0%}" for least in (1, 0, -3, -99)]
        return [self.name, *shares, middle.replace("+", "-") if middle.startswith("+") else middle.replace("-", "+"),
                most, f"{self.false_rate:.0%}"]  # fmt: skip


def verdict(name: str, lost: Sequence[Run], healthy: Sequence[Run], at: Callable[[Run], int | None]) -> Verdict:
    """An alarm's, by the step at which it rings in a run."""
    leads = [None if (rung := at(run)) is None else int(run.lost or 0) - rung for run in lost]
    return Verdict(name, leads, [at(run) is not None for run in healthy])


def judge(runs: Sequence[Run], console: Console) -> dict[str, list[Verdict]]:
    """Print the tables; the verdicts by what they are of."""
    lost, healthy = [r for r in runs if r.lost], [r for r in runs if r.is_healthy]
    console.print(f"{len(runs)} runs: {len(lost)} lost, {len(healthy)} healthy, {len(runs) - len(lost) - len(healthy)} "
                  "that came back")  # fmt: skip
    by_sweep = Table("sweep", "rate", "lost", "at steps", "came back", "gold at first, best, last")
    for sweep, rate in dict.fromkeys((r.sweep, r.rate) for r in runs):
        some = [r for r in runs if (r.sweep, r.rate) == (sweep, rate)]
        ends = " ".join(f"{r.gold[0]:.2f}, {r.gold.max():.2f}, {r.gold[-1]:.2f};" for r in some)
        steps = ", ".join(str(r.lost) for r in some if r.lost)
        back = sum(not r.lost and not r.is_healthy for r in some)
        by_sweep.add_row(sweep, f"{rate:g}", f"{sum(r.lost is not None for r in some)} of {len(some)}", steps,
                         str(back), ends)  # fmt: skip
    console.print(by_sweep)
    kinds = {
        "broken": [r for r in lost if r.sweep.startswith("rate")],
        "exploited": [r for r in lost if r.sweep.startswith("hack")],
    }
    told = {run: (rings(run), rings(run, GOLD)) for run in map(Kept, runs)}
    names = list(dict.fromkeys(name for own, _ in told.values() for name in own if name != "any"))
    found: dict[str, list[Verdict]] = {}
    for kind, some in kinds.items():
        verdicts = [verdict(n, some, healthy, lambda r, n=n: told[Kept(r)][0].get(n)) for n in [*names, "any"]]
        gold = verdict(
            "overoptimization, gold watched", some, healthy, lambda r: told[Kept(r)][1].get("overoptimization")
        )
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


class Kept:
    """A run as a key: by what it is, not by its numbers."""

    def __init__(self, run: Run) -> None:
        self.run, self.key = run, (run.sweep, run.rate, run.seed)

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Kept) and self.key == other.key

    def __getattr__(self, name: str) -> Any:
        return getattr(self.run, name)


def show(console: Console, title: str, verdicts: Sequence[Verdict]) -> None:
    table = Table("alarm", "before the loss", "by then", "by 3 steps after", "ever", "median", "earliest to latest",
                  "for nothing", title=title)  # fmt: skip
    for one in verdicts:
        table.add_row(*one.cells())
    console.print(table)


COLORS = {
    "any": "#1b1f24", "kl-burst": "#b7791f", "collapse": "#c53030", "entropy-collapse": "#2f855a",
    "overoptimization": "#2b6cb0", "flat-rewards": "#6b46c1",
}  # fmt: skip


def draw(found: Mapping[str, Sequence[Verdict]], file: Path) -> None:
    """Above, the share of lost runs in which an alarm has rung, by steps from the loss; below, single numbers."""
    with matplotlib.rc_context({"font.size": 8.5, "axes.labelcolor": "#6b7280"}):
        figure = Figure(figsize=(9.5, 6.2), layout="constrained")
        grid = figure.subplots(2, 2, sharex="row", height_ratios=(1, 1.1))
        titles = {"broken": "a learning rate too high", "exploited": "a small reward model, exploited"}
        for axes, (kind, title) in zip(grid[0], titles.items(), strict=True):
            rising(axes, found[kind])
            axes.set_title(f"{title}: {len(found[kind][0].leads)} runs", loc="left", fontsize=8.5)
            axes.set_xlabel("steps since gold had lost a tenth of its best")
        grid[0][0].set_ylabel("share of runs in which it has rung")
        grid[0][0].legend(frameon=False, fontsize=7.5, loc="upper left")
        for axes, kind in zip(grid[1], titles, strict=True):
            bars(axes, found[f"{kind}, set"])
            axes.set_xlabel("share of runs in which it rings before the loss (dots), and for nothing (crosses)")
        grid[1][1].set_yticklabels([])
        file.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(file, dpi=170)


def rising(axes: Axes, verdicts: Sequence[Verdict]) -> None:
    steps = np.arange(-12, 13)
    for one in (v for v in verdicts if v.name in COLORS):
        shares = [one.share(-int(step)) for step in steps]
        axes.step(steps, [s.estimate for s in shares], where="post", color=COLORS[one.name], lw=1.4, label=one.name)
        if one.name == "any":
            low, high = [s.low for s in shares], [s.high for s in shares]
            axes.fill_between(steps, low, high, step="post", color=COLORS["any"], alpha=0.08, lw=0)
    axes.axvline(0, color="#6b7280", lw=0.8, ls=":")
    axes.set_ylim(-0.02, 1.02)
    axes.spines[["top", "right"]].set_visible(False)


def bars(axes: Axes, verdicts: Sequence[Verdict]) -> None:
    for place, one in enumerate(reversed(verdicts)):
        for shift, share, mark, color in (
            (0.15, one.share(1), "o", "#2b6cb0"),
            (-0.15, one.false_rate, "x", "#c53030"),
        ):
            axes.plot([share.low, share.high], [place + shift] * 2, color=color, lw=1.2)
            axes.plot(share.estimate, place + shift, mark, color=color, ms=4.5)
    axes.set_yticks(range(len(verdicts)), [one.name.split(" > ")[0] for one in reversed(verdicts)])
    axes.set_xlim(-0.02, 1.02)
    axes.spines[["top", "right"]].set_visible(False)


def collapses(out: Path, console: Console) -> None:
    """The share of seeds that collapse by learning rate, as multiples of each method's own."""
    table = Table("method", "rate", "times its own", "true reward at the end", "collapsed")
    for method in (*METHODS, "dpo"):
        cells = json.loads((out / f"rate-{method}" / "evaluation.json").read_text())["cells"]
        own = cells[0]["settings"]["learning_rate"]
        for cell in cells:
            rate, end, share = (
                cell["settings"]["learning_rate"],
                Interval(**cell["final"]),
                Interval(**cell["collapsed"]),
            )
            table.add_row(method, f"{rate:g}", f"{rate / own:g}", f"{end:.3f}", f"{share:.0%}")
    console.print(table)


def main() -> None:
    """Run what has not been run, print the tables and draw the picture."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/trial"))
    parser.add_argument("--picture", type=Path, default=Path("docs/images/alarms-trial.png"))
    parser.add_argument("--only", choices=("run", "judge"))
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    if options.only != "judge":
        for name, method, grid, given in sweeps(prepare(options.out)):
            measure = "watched" if method == "dpo" else GOLD
            accord.sweep(method, grid, options=given, out=str(options.out / name), measure=measure)
    if options.only != "run":
        console = Console(width=200)
        found = judge(read(options.out), console)
        collapses(options.out, console)
        draw(found, options.picture)


if __name__ == "__main__":
    main()
