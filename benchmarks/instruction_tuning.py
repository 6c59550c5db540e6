"""Instruction tuning in the shelf world: does it help on clusters of tasks that only the pretraining text describes?

    python benchmarks/instruction_tuning.py [STUDY ...] [--seeds 0 1 2] [--widths 48 96 192] [--out runs/instruction]

For each seed, a model of each width learns the shelf's text. Models tuned from it on some clusters of tasks, in some
formats, then do the clusters *color*, *remove* and *name*, on which none was tuned. The studies are listed in
`instruction_studies.py` (all by default); all but "sizes" use the largest width only, and all but "demonstrations" tune
for the same number of steps.

Prints a table per study with (score - chance) / (1 - chance), averaged over the three clusters: means over seeds with
Student's 95% intervals. `--picture` draws the studies. Finished runs are reused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from instruction_studies import HELD_OUT, SHOWN, STUDIES, Condition, Found, corrupt
from processes import run_cli, study_parser
from rich.console import Console
from rich.table import Table

from accord.evaluate.statistics import over_seeds
from accord.worlds import shelf

LEARNING = {"batch_size": 32, "max_length": 256, "save_every": 1000, "track": "none"}
BASE = LEARNING | {"epochs": 2, "learning_rate": 3e-3}
TUNED = LEARNING | {"max_steps": 450, "learning_rate": 5e-4, "warmup": 0.1, "schedule": "linear"}
ASKED = {"limit": 40, "max_new_tokens": 16}
FIRST = ("base", "1 cluster")


def main() -> None:
    """Run what is missing, print the tables and draw the picture."""
    parser = study_parser(__doc__, "runs/instruction")
    parser.add_argument("studies", nargs="*", help=f"which to run: {', '.join(STUDIES)}")
    parser.add_argument("--widths", type=int, nargs="+", default=[48, 96, 192], help="widths of the models")
    parser.add_argument("--picture", type=Path, help="file to draw")
    options = parser.parse_args()
    if unknown := set(options.studies) - set(STUDIES):
        parser.error(f"there is no study {', '.join(unknown)}; the studies are {', '.join(STUDIES)}.")
    found: dict[tuple[str, int, str], list[dict[str, float]]] = {}
    for study in options.studies or STUDIES:
        widths = options.widths if study == "sizes" else options.widths[-1:]
        for width in widths:
            for condition in STUDIES[study]:
                seeds = [run(condition, seed, width, options.out / f"seed-{seed}") for seed in options.seeds]
                found[study, width, condition.name] = seeds
        show(study, {(width, name): seeds for (s, width, name), seeds in over_orders(found).items() if s == study})
    if options.picture:
        from instruction_picture import draw

        draw(over_orders(found), options.picture)


def run(condition: Condition, seed: int, width: int, folder: Path) -> dict[str, float]:
    """Scores above chance: each cluster's by its name, and the mean of the held-out ones."""
    out = folder / f"{width}-{condition.name.replace(' ', '-').replace(',', '')}"
    tasks = folder / "world" / "tasks" / "tasks.yaml"
    if not (out / "evaluation.json").exists():
        if not tasks.exists():
            run_cli("world", {"name": "shelf", "out": folder / "world", "seed": seed})
        model = model_of(condition, seed, width, folder)
        clusters = {"clusters": ",".join(SHOWN), "held_out": ",".join(HELD_OUT)}
        asked = ASKED | clusters | condition.asked
        file = tasks.with_name(condition.file)
        run_cli("evaluate tasks", asked | {"tasks": file, "models": {"it": model}, "out": out, "seed": seed})
    result = json.loads((out / "evaluation.json").read_text())
    scores = {cluster["name"]: cluster["normalized"]["it"]["estimate"] for cluster in result["clusters"]}
    return scores | {"held out": sum(scores[name] for name in HELD_OUT) / len(HELD_OUT)}


def model_of(condition: Condition, seed: int, width: int, folder: Path) -> Path:
    """The model of a condition: tuned from the base model of a width or from random weights, or the base model."""
    world, base = folder / f"world-{width}", folder / f"base-{width}"
    if not (world / "init").exists():
        run_cli("world", {"name": "shelf", "out": world, "seed": seed, "width": width})
    if condition.pretrained and not (base / "model").exists():
        given = {"model": world / "init", "data": world / "corpus.jsonl", "out": base, "seed": seed}
        run_cli("pretrain", BASE | given)
    start = base / "model" if condition.pretrained else world / "init"
    if condition.mix is None:
        return start
    tuned = folder / f"tuned-{width}-{condition.recipe}"
    if not (tuned / "model").exists():
        mix = folder / f"mix-{condition.recipe}.jsonl"
        given = {"tasks": folder / "world" / "tasks" / "tasks.yaml", "leave_out": ",".join(HELD_OUT), "out": mix}
        run_cli("tasks", given | condition.mix | {"seed": seed + 1000 * condition.order})
        if condition.wrong:
            corrupt(mix, condition.wrong, seed)
        given = {"model": start, "data": mix, "out": tuned, "seed": seed}
        run_cli("sft", TUNED | condition.tuning | given)
    return tuned / "model"


def over_orders(found: Found) -> Found:
    """Join conditions that differ only in the order of clusters: the seeds of each order, one after another."""
    joined: dict[tuple[str, int, str], list[Mapping[str, float]]] = {}
    for (study, width, name), seeds in found.items():
        joined.setdefault((study, width, name.partition(", order ")[0]), []).extend(seeds)
    return joined


def show(study: str, found: Mapping[tuple[int, str], Sequence[Mapping[str, float]]]) -> None:
    """Print a row per condition: mean score on held-out clusters, its gain over the first condition, each cluster.

    The first condition is the base model, or the model tuned on fewest clusters in the same order.
    """
    bases = {width: seeds for (width, name), seeds in found.items() if name in FIRST}
    table = Table("parameters", "model", "held out", *(["above first"] if bases else []), *SHOWN, title=study)
    for (width, name), seeds in found.items():
        cells = [f"{over_seeds([seed[key] for seed in seeds]):.2f}" for key in ("held out", *SHOWN)]
        if width in bases:
            repeated = [*seeds] * (
                len(bases[width]) // len(seeds)
            )  # the model tuned on all clusters belongs to every order
            gains = [one["held out"] - base["held out"] for one, base in zip(repeated, bases[width], strict=True)]
            cells.insert(1, f"{over_seeds(gains):+.2f}")
        parameters = sum(p.numel() for p in shelf.new_model(0, width).parameters())
        table.add_row(f"{parameters / 1e6:.2f} M", name, *cells)
    Console(width=190).print(table)


if __name__ == "__main__":
    main()
