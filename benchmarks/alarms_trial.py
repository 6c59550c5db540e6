"""How many steps before the true reward is lost does each alarm ring, and how often is it a false alarm?

    python benchmarks/alarms_trial.py --out runs/trial             # all runs, one after another; then the tables
    python benchmarks/alarms_trial.py --out runs/trial --only judge

PPO, GRPO and RLOO in the café, 64 samples a step, four seeds of each setting, 60 runs: 20 steps at four learning rates
with a KL penalty, some of which break the policy; and 30 steps against a reward model of 1,000 comparisons with almost
no KL penalty, which gets exploited. The gold reward is logged as a part of the reward with weight 0, and not watched:
the watched reward is another reward model, fitted to comparisons that no training reward has seen. DPO runs at learning
rates of its own, for the share of its runs that collapse. Takes hours of one core; finished runs are reused.

alarms_verdicts.py defines which runs lost the gold reward, and when. The thresholds of accord's alarms were fixed
before these runs; thresholds on single numbers are the lowest at which no healthy run of seeds 0 and 1 rings, and are
evaluated on seeds 2 and 3. Prints tables, and draws docs/images/alarms-trial.png and collapses.png.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import yaml
from alarms_verdicts import GOLD, JUDGED, SETTING, Run, draw, judge
from matplotlib.figure import Figure
from overoptimization import REWARD
from rich.console import Console
from rich.table import Table

import accord
from accord.cli.pipeline import run_stages
from accord.cli.recipe import Stage
from accord.cli.sweep import run_of
from accord.evaluate.statistics import over_seeds
from accord.results.intervals import wilson
from accord.results.sweep import SweepRun
from accord.train.rows import read_metrics

RATES = "5e-4,1e-3,2e-3,5e-3"
"""1, 2, 4 and 10 times the learning rate of the demo's PPO."""
OFFLINE_RATES = "3e-4,1.2e-3,3e-3,3e-2"
"""1, 4, 10 and 100 times the learning rate of the demo's DPO."""
REWARDS = {"small": "train[:1000]", "large": "train[:4000]", "other": "train[4000:8000]"}
"""The comparisons of each reward model: the one that gets exploited, one that does not, and the watched one."""
METHODS: dict[str, dict[str, Any]] = {
    "ppo": {"batch_size": 64, "inner_epochs": 2, "minibatches": 2},
    "grpo": {"batch_size": 16, "group_size": 4},
    "rloo": {"batch_size": 16, "group_size": 4},
}
ONLINE = {"max_length": 128, "max_new_tokens": 40, "save_every": 100}
EXPLOITING = {"ppo": 3e-4, "grpo": 5e-4, "rloo": 5e-4}
"""The learning rate against the small reward model: PPO makes four updates with a step's samples, others one."""


def prepare(out: Path) -> dict[str, str]:
    """Make what all runs start from (fine-tuned model, comparisons, reward models); their paths by name."""
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
        penalized = {"reward": f"{at['large']} + 0 * cafe", "max_steps": 20, "kl_coefficient": 0.05}
        unpenalized = {"reward": f"{at['small']} + 0 * cafe", "max_steps": 30, "kl_coefficient": 0.001}
        exploiting = unpenalized | {"schedule": "constant"}
        yield f"rate-{method}", method, {"learning_rate": RATES, **seeds}, given | penalized
        yield f"hack-{method}", method, {"learning_rate": str(EXPLOITING[method]), **seeds}, given | exploiting
    pairs = {"data": at["comparisons"], "split": "train[:4000]", "batch_size": 32, "max_steps": 20, "max_length": 128}
    watch = {"watch": "cafe", "watch_data": at["some"], "watch_every": 2, "watch_tokens": 40, "save_every": 100}
    yield "rate-dpo", "dpo", {"learning_rate": OFFLINE_RATES, **seeds}, start | pairs | watch


def finished(out: Path, sweep: str) -> Iterator[tuple[Path, float, int]]:
    """The folder, learning rate and seed of each finished run of a sweep."""
    for model in sorted((out / sweep).glob("learning_rate-*/model")):
        settings = yaml.safe_load((model.parent / "config.yaml").read_text())
        yield model.parent, float(settings["learning_rate"]), int(settings["seed"])


def read(out: Path) -> list[Run]:
    """All finished runs of the methods that sample."""
    names = (f"{kind}-{method}" for kind in ("rate", "hack") for method in METHODS)
    return [Run(name, seed, rate, read_metrics(folder)) for name in names for folder, rate, seed in finished(out, name)]


def cells(out: Path, method: str) -> dict[float, list[SweepRun]]:
    """The runs of a method by learning rate, summarized and judged collapsed or not as `accord sweep` does."""
    found: dict[float, list[SweepRun]] = {}
    for folder, rate, seed in finished(out, f"rate-{method}"):
        measure = "watched" if method == "dpo" else GOLD
        run = run_of(folder, Stage(folder.name, method, {}), {"learning_rate": rate, "seed": seed}, measure, 0.1)
        found.setdefault(rate, []).append(run)
    return dict(sorted(found.items()))


def collapses(out: Path, console: Console, picture: Path) -> None:
    """Table and picture of the share of seeds that collapse, by learning rate as a multiple of the method's lowest."""
    table = Table("method", "rate", "times its own", "true reward at the end", "collapsed")
    colors = dict(zip((*METHODS, "dpo"), ("#2b6cb0", "#b7791f", "#2f855a", "#c53030"), strict=True))
    with matplotlib.rc_context({"font.size": 8.5, "axes.labelcolor": "#6b7280"}):
        figure = Figure(figsize=(6.4, 3.2), layout="constrained")
        axes = figure.subplots()
        for place, (method, color) in enumerate(colors.items()):
            of = cells(out, method)
            if not of:
                continue
            times = np.array(list(of)) / min(of)
            shares = [wilson(sum(run.collapsed for run in runs), len(runs)) for runs in of.values()]
            for (rate, runs), share in zip(of.items(), shares, strict=True):
                end = over_seeds([run.final or 0.0 for run in runs])
                table.add_row(method, f"{rate:g}", f"{rate / min(of):g}", f"{end:.3f}", f"{share:.0%} of {len(runs)}")
            at = times * 1.04 ** (place - 1.5)  # so that points do not overlap
            axes.plot(at, [s.estimate for s in shares], "o-", color=color, lw=1.4, ms=4.5, label=method)
            axes.vlines(at, [s.low for s in shares], [s.high for s in shares], color=color, lw=1.0, alpha=0.5)
        axes.set_xscale("log")
        axes.set_xticks([1, 2, 4, 10, 100], ["1", "2", "4", "10", "100"], minor=False)
        axes.minorticks_off()
        axes.set_xlabel("learning rate, in multiples of the method's own")
        axes.set_ylabel("share of seeds that collapse")
        axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
        figure.savefig(picture, dpi=170)
    console.print(table)


def main() -> None:
    """Run what is missing, print the tables and draw the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/trial"), help="folder of the runs")
    parser.add_argument("--picture", type=Path, default=Path("docs/images/alarms-trial.png"), help="file to draw")
    parser.add_argument("--only", choices=("run", "judge"), help="run only, or evaluate finished runs only")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    if options.only != "judge":
        for name, method, grid, given in sweeps(prepare(options.out)):
            measure = "watched" if method == "dpo" else GOLD
            accord.sweep(method, grid, options=given, out=str(options.out / name), measure=measure)
    if options.only != "run":
        console = Console(width=200)
        found = judge(read(options.out), console)
        collapses(options.out, console, options.picture.with_name("collapses.png"))
        draw(found, options.picture)


if __name__ == "__main__":
    main()
