"""Overoptimization: proxy and gold reward against sqrt(KL), for training and for best of n (Gao et al. 2022).

    python benchmarks/overoptimization.py [--seeds 0 1 2] [--studies data] [--out runs/overoptimization]

For each seed, benchmarks/overoptimization.yaml makes a fine-tuned model and 8,000 noisy comparisons of its answers:

    data         reward models of 250, 1,000 and 7,500 comparisons; PPO against each with almost no KL penalty, and
                 best of n with n up to 4,096
    capacity     a reward model of 7,500 comparisons with 0.08 M parameters instead of 1.1 M
    coefficient  1,000 comparisons, and a KL coefficient of .02, .05 or .1
    ensemble     four reward models of the same 1,000 comparisons with different seeds: their mean, and their minimum

The gold reward is watched and never trained on. Each command runs in a process of its own with one thread. Finished
runs are reused, so seeds and studies can be run one at a time, or in parallel by several processes. Prints the fits,
and draws the study of data (docs/images/overoptimization.png).
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from processes import mean_and_range, run_cli, study_parser
from rich.console import Console
from rich.table import Table

from accord.cli.pipeline import run_pipeline

SIZES = (250, 1000, 7500)
COEFFICIENTS = (0.02, 0.05, 0.1)
"""KL coefficients; a run is named by the hundredths of its own."""
ENSEMBLE = (0, 1, 2, 3)
"""Added to the seed, for each member."""

SHARED = {"max_length": 128, "warmup": 0.1}
REWARD = SHARED | {"command": "reward", "model": "{sft}", "data": "{comparisons}", "batch_size": 32, "epochs": 3}
REWARD |= {"learning_rate": 5e-4}
PPO = {"command": "ppo", "model": "{sft}", "data": "{prompts}", "watch": "cafe", "kl_coefficient": 0.001}
PPO |= {"batch_size": 64, "inner_epochs": 2, "minibatches": 2, "max_steps": 120, "learning_rate": 1.5e-4}
PPO |= {"schedule": "constant", "max_length": 128, "max_new_tokens": 40}
POOL = {"command": "sample", "model": "{sft}", "data": "{heldout}", "limit": 50, "n": 4096, "max_new_tokens": 40}
TRACE = {"command": "evaluate overoptimization"}
CHOSEN = TRACE | {"samples": "{pool}/samples.jsonl", "judge": "cafe"}
NARROW = {"world": {"command": "world", "width": 48}, "base": {"command": "pretrain"}, "sft": {"command": "sft"}}
NARROW["base"] |= {"model": "{narrow-world}/init", "data": "{corpus}", "batch_size": 32, "epochs": 1.5}
NARROW["base"] |= {"learning_rate": 4e-3, "max_length": 128}
NARROW["sft"] |= {"model": "{narrow-base}/model", "data": "{demonstrations}", "batch_size": 32, "epochs": 3}
NARROW["sft"] |= {"learning_rate": 1e-3, "max_length": 128}
MEMBERS = ", ".join(f"{{member-{k}}}/model" for k in ENSEMBLE)

Stages = dict[str, dict[str, Any]]


def traced(*names: str) -> dict[str, Any]:
    """The curves of finished training runs."""
    return TRACE | {"runs": {name: f"{{{name}}}" for name in names}}


STUDIES: dict[str, Stages] = {
    "data": {
        **{f"reward-{n}": REWARD | {"split": f"train[:{n}]"} for n in SIZES},
        **{f"ppo-{n}": PPO | {"reward": f"{{reward-{n}}}/model"} for n in SIZES},
        "pool": POOL | {"out": "{pool}/samples.jsonl"},
        **{f"best-{n}": CHOSEN | {"reward": f"{{reward-{n}}}/model"} for n in SIZES},
        "trained-data": traced(*(f"ppo-{n}" for n in SIZES)),
    },
    "capacity": {
        **{f"narrow-{name}": options for name, options in NARROW.items()},
        "narrow-reward": REWARD | {"model": "{narrow-sft}/model", "split": "train[:7500]"},
        "ppo-narrow": PPO | {"reward": "{narrow-reward}/model"},
        "trained-capacity": traced("ppo-7500", "ppo-narrow"),
    },
    "coefficient": {
        **{
            f"ppo-1000-kl{round(100 * beta):02}": PPO | {"reward": "{reward-1000}/model", "kl_coefficient": beta}
            for beta in COEFFICIENTS
        },
        "trained-coefficient": traced("ppo-1000", *(f"ppo-1000-kl{round(100 * beta):02}" for beta in COEFFICIENTS)),
    },
    "ensemble": {
        **{f"member-{k}": REWARD | {"split": "train[:1000]", "later": k, "center_coefficient": 0.01} for k in ENSEMBLE},
        **{f"ppo-1000-{how}": PPO | {"reward": f"{how}({MEMBERS})"} for how in ("mean", "min")},
        "trained-ensemble": traced("ppo-1000", "ppo-1000-mean", "ppo-1000-min"),
    },
}
"""The commands of each study; {name} is a folder or file of the shared stages, or another stage's folder."""


def main() -> None:
    """Run what is missing, print the tables and draw the picture."""
    parser = study_parser(__doc__, "runs/overoptimization")
    parser.add_argument("--studies", nargs="+", choices=tuple(STUDIES), default=["data"], help="which to run")
    parser.add_argument("--picture", type=Path, default=Path("docs/images/overoptimization.png"), help="file to draw")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    for seed in options.seeds:
        folder = options.out / f"seed-{seed}"
        run_pipeline(Path(__file__).with_suffix(".yaml"), folder / "shared", {"seed": seed})
        for study in ["data", *(s for s in options.studies if s != "data")]:  # the others build on its reward models
            for name, given in STUDIES[study].items():
                run_stage(name, given, seed, folder)
    folders = [options.out / f"seed-{seed}" for seed in options.seeds]
    for study in options.studies:
        show(study, folders)
    if "data" in options.studies:
        draw(folders, options.picture)


def run_stage(name: str, given: dict[str, Any], seed: int, folder: Path) -> None:
    """Run one command, unless it is finished."""
    out, shared = folder / name, folder / "shared"
    if (out / "cost.json").exists():
        return
    shutil.rmtree(out, ignore_errors=True)
    files = {"prompts": "world/prompts", "heldout": "world/heldout", "corpus": "world/corpus"}
    files |= {"demonstrations": "world/demonstrations", "comparisons": "comparisons/comparisons"}
    at = {stage: str(folder / stage) for stages in STUDIES.values() for stage in stages}
    at |= {"sft": str(shared / "sft/model")} | {key: f"{shared / file}.jsonl" for key, file in files.items()}
    options = {"out": str(out), "seed": seed} | given
    options["seed"] += options.pop("later", 0)
    command = options.pop("command")
    if command.startswith("evaluate"):
        del options["seed"]  # nothing is random
    cost = run_cli(command, {key: _placed(value, at) for key, value in options.items()})
    (out / "cost.json").write_text(json.dumps({"seconds": cost.seconds, "peak_gb": cost.peak_gb}))


def _placed(value: Any, at: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _placed(inner, at) for key, inner in value.items()}
    return value.format(**at) if isinstance(value, str) else value


def curves(study: str, folder: Path) -> dict[str, dict[str, Any]]:
    """The curves of a study by name: of training runs and, for the study of data, of best of n and the sweep."""
    found = {c["name"]: c for c in _read(folder / f"trained-{study}")}
    if study == "data":
        for n in SIZES:
            for curve in _read(folder / f"best-{n}"):
                found[f"{curve['source']}-{n}"] = curve
    return found


def _read(folder: Path) -> list[dict[str, Any]]:
    return list(json.loads((folder / "evaluation.json").read_text())["curves"])


def summary(curve: dict[str, Any]) -> dict[str, float | None]:
    """A curve in numbers: its fit, and without any fit where the gold reward is highest."""
    points, fit = curve["points"], curve["fit"]
    gold = [p["gold"] for p in points]
    top = int(np.argmax(gold))
    return {
        "a": fit["a"]["estimate"],
        "b": fit["b"]["estimate"],
        "turn": fit["turn"] and fit["turn"]["estimate"],
        "r2": fit["r2"],
        "highest at": points[top]["distance"],
        "gold: start": gold[0],
        "top": gold[top],
        "end": gold[-1],
        "proxy: start": points[0]["proxy"],
        "end of proxy": points[-1]["proxy"],
        "reach": max(p["distance"] for p in points),
    }


def show(study: str, folders: list[Path]) -> None:
    """Print means over seeds with the range, and the number of seeds in which the gold reward turns within reach."""
    found = [{name: summary(curve) for name, curve in curves(study, folder).items()} for folder in folders]
    columns = list(next(iter(found[0].values())))
    table = Table("curve", *columns, title=f"{study}, {len(folders)} seeds: mean (lowest to highest)")
    for name in found[0]:
        rows = [seed[name] for seed in found]
        cells = [[row[c] for row in rows if row[c] is not None] for c in columns]
        shown = [mean_and_range(values, 2) for values in cells]
        turned = len(cells[columns.index("turn")])
        shown[columns.index("turn")] += f", {turned} of {len(rows)}"
        table.add_row(name, *shown)
    console = Console(width=230)
    console.print(table)
    if study == "data":
        for source in ("ppo", "best of n"):
            print_order(console, source, found)


def print_order(console: Console, source: str, found: list[dict[str, dict[str, float | None]]]) -> None:
    """Print for each seed whether more comparisons move the turn to larger distances, where the fit has one."""
    for seed in found:
        turns = [seed[f"{source}-{n}"]["turn"] for n in SIZES]
        known = [turn for turn in turns if turn is not None]
        shown = ", ".join(f"{n}: {'none' if t is None else f'{t:.2f}'}" for n, t in zip(SIZES, turns, strict=True))
        verdict = "" if len(known) < 2 else ": further with more" if known == sorted(known) else ": not in order"
        console.print(f"{source}: turns {shown}{verdict}")


INK, SOFT, GOLD, PROXY = "#1b1f24", "#6b7280", "#b7791f", "#2b6cb0"


def draw(folders: list[Path], file: Path) -> None:
    """A panel for each size of data and way to optimize: proxy dashed, gold solid, fit thin, turn marked."""
    found = [curves("data", folder) for folder in folders]
    ways = {"ppo": "PPO, as it trains", "best of n": "best of n, n up to 4,096"}
    with matplotlib.rc_context({"font.size": 8.5, "text.color": INK, "axes.labelcolor": SOFT}):
        figure = Figure(figsize=(9.5, 5.4), layout="constrained")
        grid = figure.subplots(len(ways), len(SIZES), sharex="row", sharey="row")
        for row, (source, title) in zip(grid, ways.items(), strict=True):
            for axes, n in zip(row, SIZES, strict=True):
                panel(axes, [seed[f"{source}-{n}"] for seed in found])
                axes.set_title(f"{title}: {n:,} comparisons", loc="left", fontsize=8.5)
            row[0].set_ylabel("gold reward")
        figure.legend(handles=_legend(), loc="outside lower center", ncols=4, frameon=False)
        for axes in grid[-1]:
            axes.set_xlabel("d = √KL from the fine-tuned model, √nats")
        file.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(file, dpi=170)


def _legend() -> list[Line2D]:
    return [
        Line2D([], [], color=GOLD, lw=1.4, label="gold, a line a seed"),
        Line2D([], [], color=PROXY, ls="--", lw=0.9, label="proxy, from its lowest to its highest"),
        Line2D([], [], color=INK, lw=0.6, label="fit of gold"),
        Line2D([], [], color=INK, marker="o", ms=4, ls="", label="where the fit turns"),
    ]


def panel(axes: Axes, seeds: list[dict[str, Any]]) -> None:
    """The curves of all seeds; the proxy, whose scale is arbitrary, is drawn from its lowest to its highest value."""
    other = axes.twinx()
    for curve in seeds:
        points, fit = curve["points"], curve["fit"]
        distance = np.array([p["distance"] for p in points])
        order = np.argsort(distance)
        proxy = np.array([p["proxy"] for p in points])
        axes.plot(distance[order], np.array([p["gold"] for p in points])[order], color=GOLD, lw=1.4, alpha=0.8)
        other.plot(
            distance[order], ((proxy - proxy.min()) / np.ptp(proxy))[order], "--", color=PROXY, lw=0.9, alpha=0.7
        )
        x = np.linspace(0, distance.max(), 200)
        a, b, start = fit["a"]["estimate"], fit["b"]["estimate"], fit["start"]
        bend = x * np.log(np.where(x > 0, x, 1)) if fit["form"] == "rl" else x**2
        axes.plot(x, start + a * x - b * bend, color=INK, lw=0.6)
        if fit["turn"]:
            axes.plot(fit["turn"]["estimate"], start + fit["peak"]["estimate"], "o", color=INK, ms=4)
    other.set_yticks([])
    for side in (axes, other):
        side.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=SOFT)


if __name__ == "__main__":
    main()
