"""RLAIF against RLHF for the same money: few labels from people, or many from a cheap judge that errs more?

    python benchmarks/rlaif.py [--seeds 0 1 2] [--out runs/rlaif]

For each seed, benchmarks/overoptimization.yaml makes a fine-tuned model of the café and pairs of its answers. Labels
cost $0.67 from people, who agree with the gold reward nine times in ten, or $0.06 from a judge:

    RLHF          labels of people -> a reward model -> RLOO
    RLAIF         probabilities of a judge, in both orders -> a reward model -> RLOO
    direct RLAIF  RLOO with the judge as the reward: --reward beats:judge.yaml, against an answer of the initial model

The prices are assumptions, in about the ratio of Lee et al. 2023 (arXiv:2309.00267): more than ten. A judge is a
language model of the café, fine-tuned to reply A or B by the gold reward's verdicts on generated answers, none of them
from a policy; the cost of training it is not counted. One good and one weak judge serve all seeds, and their accuracy
is measured on answers of each seed. All arms have the same settings and steps, and see the same pairs.

Prediction, before it was run: reward models of the café learn next to nothing from a few hundred labels, so RLHF does
not improve up to $200, where RLAIF with the good judge is clearly ahead; RLHF draws level at $700 and is ahead at
$2,000, as the judge's errors do not average out; direct RLAIF is at least as good as RLAIF.

Prints a table of means over seeds with Student's 95% intervals, and draws docs/images/rlaif.png. Finished runs are
reused.
"""

from __future__ import annotations

import io
import json
import os
import random
import shutil
from collections import defaultdict
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import matplotlib
from cafe import HELD_OUT, evaluate_reward, fit_reward_model, gold_preferences, prepare_seed, with_interval
from matplotlib.figure import Figure
from processes import study_parser
from rich.console import Console
from rich.table import Table
from tokenizers import AddedToken
from transformers import AutoModelForCausalLM, AutoTokenizer

import accord
from accord.data import load_data
from accord.evaluate import evaluate_models
from accord.evaluate.statistics import mean_interval
from accord.files import write_rows
from accord.methods import RLOO, SFT
from accord.records import Demonstration, Message, Preference, show
from accord.worlds.cafe import demonstrations, gold

PRICES = {"people": 0.67, "good judge": 0.06, "weak judge": 0.06}
"""Dollars per label; a judge's label covers both orders."""
BUDGETS = {"people": (70, 200, 700, 2000), "good judge": (70, 200), "weak judge": (70,)}
JUDGES = {"good judge": 2000, "weak judge": 1150}
"""The number of comparisons that each judge is trained on."""
RIGHT = 0.9
"""How often people agree with the gold reward."""
POOL = {"people": 850, "good judge": 850, "weak judge": 300}
"""The prompts whose pairs are labeled, four pairs each; an arm gets the first labels that its budget buys."""

SHARED: dict[str, Any] = {"max_length": 128, "warmup": 0.1}
TAUGHT = SHARED | {"batch_size": 32, "epochs": 3, "learning_rate": 1e-3}
OPTIMIZED = SHARED | {"max_steps": 40, "batch_size": 16, "group_size": 4, "max_new_tokens": 40, "learning_rate": 3e-4}
OPTIMIZED |= {"schedule": "linear", "kl_coefficient": 0.05}
ASKED = OPTIMIZED["max_steps"] * OPTIMIZED["batch_size"] * OPTIMIZED["group_size"]
"""The labels that direct RLAIF needs: one per sample."""
TEMPLATE = "{prompt} A {first} B {second}"
"""The prompt of a judge; the café's vocabulary has no words for more."""


@dataclass(frozen=True)
class Arm:
    """One policy of one seed: who labeled, at what cost and accuracy, and its evaluation by the gold reward."""

    seed: int
    name: str
    dollars: float
    labels: int
    labels_right: float
    reward_right: float
    win_rate: float
    low: float
    high: float
    gold: float
    kl: float


def main() -> None:
    """Run what is missing, print the table, and draw the picture."""
    parser = study_parser(__doc__, "runs/rlaif")
    parser.add_argument("--picture", type=Path, default=Path("docs/images/rlaif.png"), help="file to draw")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    found: list[Arm] = []
    with redirect_stdout(io.StringIO()):
        judges = {name: train_judge(options.out, name) for name in JUDGES}
        for seed in options.seeds:
            found += run_arms(prepare_seed(options.out, seed), seed, judges)
    (options.out / "rlaif.json").write_text(json.dumps([asdict(arm) for arm in found], indent=1))
    by_arm: dict[tuple[str, float], list[Arm]] = defaultdict(list)
    for arm in found:
        by_arm[arm.name, arm.dollars].append(arm)
    show_table(by_arm)
    if len(options.seeds) > 1:
        draw(by_arm, options.picture)


def train_judge(out: Path, name: str) -> Path:
    """Train a judge, the café's base model with the words A and B, to name the better answer; its YAML file.

    Its training data are answers of the café's grammar, in both orders, to questions not used in evaluation.
    """
    folder = out / name.replace(" ", "-")
    if not (folder / "judge.yaml").exists():
        base = prepare_seed(out, 0) / "shared/base/model"
        shutil.rmtree(folder, ignore_errors=True)
        network, tokenizer = AutoModelForCausalLM.from_pretrained(base), AutoTokenizer.from_pretrained(base)
        tokenizer.add_tokens([AddedToken(letter, normalized=False, single_word=True) for letter in "AB"])
        network.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        network.save_pretrained(folder / "init")
        tokenizer.save_pretrained(folder / "init")
        write_rows(folder / "lessons.jsonl", lessons(JUDGES[name]))
        SFT(**TAUGHT, seed=0).fit(str(folder / "init"), str(folder / "lessons.jsonl"), out=folder / "run")
        asked = {"model": str((folder / "run/model").resolve()), "template": TEMPLATE}
        (folder / "judge.yaml").write_text(json.dumps(asked))
    return folder / "judge.yaml"


def lessons(count: int) -> list[Demonstration]:
    """Training data of a judge: `count` pairs of answers, in both orders, with the letter of the better one."""
    draw = random.Random(0)
    answers: dict[Any, list[str]] = defaultdict(list)
    for row in demonstrations(100, 40_000):
        answers[row.prompt].append(show(row.completion))
    pairs = [(p, *pair) for p, said in answers.items() for pair in zip(said[::2], said[1::2], strict=False)]
    pairs = [(p, a, b) for p, a, b in pairs if gold(p, a) != gold(p, b)]
    draw.shuffle(pairs)
    rows = []
    for prompt, *both in pairs[:count]:
        for first, second in (both, both[::-1]):
            asked = TEMPLATE.format(prompt=show(prompt), first=first, second=second)
            letter = "A" if gold(prompt, first) > gold(prompt, second) else "B"
            rows.append(Demonstration((Message("user", asked),), letter))
    draw.shuffle(rows)
    return rows


def run_arms(folder: Path, seed: int, judges: dict[str, Path]) -> list[Arm]:
    """Run every arm of one seed: labels, reward model, policy, and its evaluation by the gold reward."""
    pool, held_out, answers = files(folder)
    trials = {
        name: evaluate_reward(file, held_out, folder / f"check-{file.parent.name}", 500)
        for name, file in judges.items()
    }
    rows: dict[str, dict[str, Any]] = {}
    models = {"sft": str(folder / "shared/sft/model")}
    for name, budgets in BUDGETS.items():
        labels = labeled(folder, name, pool, judges.get(name), seed)
        for dollars in budgets:
            bought = labels[: int(dollars / PRICES[name])]
            out = folder / f"{name.replace(' ', '-')}-{dollars}"
            write_rows(folder / f"{out.name}.jsonl", bought)
            reward = fit_reward_model(folder, folder / f"{out.name}.jsonl", out / "reward", seed)
            check = evaluate_reward(reward, held_out, out / "check")
            models[out.name] = optimized(folder, str(reward), answers, out, seed)
            right = sum(gold(x.prompt, x.chosen) > gold(x.prompt, x.rejected) for x in bought) / len(bought)
            rows[out.name] = {"name": name, "dollars": dollars, "labels": len(bought), "labels_right": right}
            rows[out.name] |= {"reward_right": check["accuracy"]["estimate"]}
    for name, file in judges.items():
        out = folder / f"direct-{file.parent.name}"
        models[out.name] = optimized(folder, f"beats:{file}", answers, out, seed)
        right = trials[name]["accuracy"]["estimate"]
        rows[out.name] = {"name": f"direct, {name}", "dollars": ASKED * PRICES[name], "labels": ASKED}
        rows[out.name] |= {"labels_right": right, "reward_right": right}
    won = evaluated(folder, models, seed)
    return [Arm(seed=seed, **row, **won[key]) for key, row in rows.items()]


def files(folder: Path) -> tuple[dict[str, list[dict[str, Any]]], Path, Path]:
    """Samples to compare by prompt, held-out gold preferences, and one answer of the initial model per prompt."""
    samples: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for line in (folder / "shared/samples/samples.jsonl").read_text().splitlines():
        row = json.loads(line)
        samples[json.dumps(row["prompt"])].append({"prompt": row["prompt"], "completion": row["completion"]})
    write_rows(folder / "answers.jsonl", [said[0] for said in samples.values()])
    held_out = gold_preferences(folder)[-HELD_OUT:]
    write_rows(folder / "held-out.jsonl", held_out)
    known = {row.prompt for row in held_out}
    pool = {p: said for p, said in samples.items() if (Message(**json.loads(p)[0]),) not in known}
    return pool, folder / "held-out.jsonl", folder / "answers.jsonl"


def labeled(
    folder: Path, name: str, pool: dict[str, list[dict[str, Any]]], judge: Path | None, seed: int
) -> list[Preference]:
    """Labels of people, or of a judge, for the pairs of the pool's first prompts."""
    out = folder / f"{name.replace(' ', '-')}.jsonl"
    if not out.exists():
        data = folder / f"pool-{POOL[name]}.jsonl"
        write_rows(data, [row for said in list(pool.values())[: POOL[name]] for row in said])
        who: dict[str, Any] = {"judge": str(judge), "soft": True} if judge else {"judge": "cafe", "agreement": RIGHT}
        accord.label(str(data), str(out), pairs=4, seed=seed, **who)
    return load_data(str(out))


def optimized(folder: Path, reward: str, answers: Path, out: Path, seed: int) -> str:
    """Train the fine-tuned model with RLOO by a reward; the policy's folder."""
    run = out / "policy"
    if not (run / "model").exists():
        shutil.rmtree(run, ignore_errors=True)
        RLOO(**OPTIMIZED, seed=seed).fit(str(folder / "shared/sft/model"), str(answers), reward=reward, out=run)
    return str(run / "model")


def evaluated(folder: Path, models: dict[str, str], seed: int) -> dict[str, dict[str, float]]:
    """Evaluate every model's answers to held-out questions by the gold reward."""
    out = folder / "evaluation"
    if not (out / "evaluation.json").exists():
        data = str(folder / "shared/world/heldout.jsonl")
        settings: dict[str, Any] = {"max_new_tokens": 40, "max_length": 128, "seed": seed}
        evaluate_models(str(out), judge="cafe", data=data, models=models, against="sft", reference="sft", **settings)
    rows = {row["name"]: row for row in json.loads((out / "evaluation.json").read_text())["models"]}
    return {
        name: {
            "win_rate": rows[name]["win_rate"]["estimate"],
            "low": rows[name]["win_rate"]["low"],
            "high": rows[name]["win_rate"]["high"],
            "gold": rows[name]["scores"]["cafe"]["estimate"],
            "kl": rows[name]["kl"]["estimate"],
        }
        for name in models
        if name != "sft"
    }


def show_table(found: dict[tuple[str, float], list[Arm]]) -> None:
    """Print means over seeds with Student's intervals, and RLAIF's win rate minus RLHF's at every budget."""
    table = Table("who", "dollars", "labels", "labels right", "reward right", "win rate over sft", "gold reward", "KL")
    for (name, dollars), runs in found.items():
        numbers = [[getattr(r, c) for r in runs] for c in ("labels_right", "reward_right", "win_rate", "gold", "kl")]
        table.add_row(name, f"{dollars:,.0f}", f"{runs[0].labels:,}", *(with_interval(values) for values in numbers))
    console = Console(width=150)
    console.print(table)
    for (name, dollars), runs in found.items():
        for price in BUDGETS["people"] if name != "people" else ():
            gap = [a.win_rate - b.win_rate for a, b in zip(runs, found["people", price], strict=True)]
            console.print(f"{name} for {dollars:,.0f} - people for {price:,}: {with_interval(gap)}", highlight=False)


INK, SOFT = "#1b1f24", "#6b7280"
COLORS = {"people": "#b7791f", "good judge": "#2b6cb0", "weak judge": "#9f7aea"}


def draw(found: dict[tuple[str, float], list[Arm]], file: Path) -> None:
    """Gold win rate by dollars: a line per kind of labeler, diamonds for direct RLAIF."""
    with matplotlib.rc_context({"font.size": 8.5, "text.color": INK, "axes.labelcolor": SOFT}):
        figure = Figure(figsize=(6.4, 3.8), layout="constrained")
        axes = figure.subplots()
        for name, color in COLORS.items():
            points = {d: [r.win_rate for r in runs] for (who, d), runs in found.items() if who == name}
            direct = {d: [r.win_rate for r in runs] for (who, d), runs in found.items() if who == f"direct, {name}"}
            for marks, style in ((points, "o-"), (direct, "D")):
                if marks:
                    means = [mean_interval(values) for values in marks.values()]
                    reach = [[m.estimate - m.low for m in means], [m.high - m.estimate for m in means]]
                    label = name if marks is points else f"{name}, as the reward itself"
                    heights = [m.estimate for m in means]
                    axes.errorbar(list(marks), heights, reach, fmt=style, color=color, ms=5, lw=1.2, label=label)
        axes.axhline(0.5, color=SOFT, lw=0.6, ls=":")
        axes.set_xscale("log")
        axes.set_xticks(BUDGETS["people"], [f"{dollars:,}" for dollars in BUDGETS["people"]])
        axes.minorticks_off()
        axes.set_ylim(0, 1)
        axes.set_xlabel("dollars for labels")
        axes.set_ylabel("win rate over the start, by the gold reward")
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(colors=SOFT)
        axes.legend(frameon=False, loc="lower right")
        file.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(file, dpi=170)


if __name__ == "__main__":
    main()
