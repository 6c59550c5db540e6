"""Accuracy on sums against tokens generated: beam search, majority vote, best of n and guided search.

    python benchmarks/search.py [--seeds 0 1 2] [--out runs/search] [--picture docs/images/search.png] [--models]

A 0.4 M parameter model that has seen few demonstrations adds numbers on a scratchpad. Here it adds held-out numbers of
3 and 4 digits: with beam search; by the majority of n samples; by any of n samples that is right (best of n with a
checker of the answer); and with a guided search that every 9 tokens, one column, keeps the best by a checker of the
columns so far (a process reward). Both checkers are exact programs, so that only the search differs.

--models adds learned models, fitted to pairs of right and wrong samples of the weak model for the same training sum:
outcome, on whole samples, and value, also on samples cut somewhere after they diverge. Prints accuracy with intervals
over seeds, tokens generated, and tokens read by a reward model, and draws the picture. Takes four minutes on one core
without --models; finished runs are reused.
"""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any, TypeAlias

import torch
from matplotlib.figure import Figure
from processes import run_cli, study_parser, train_weak_adder
from rich.console import Console
from rich.table import Table

from accord.data.encoding import encode_prompts
from accord.data.load import load_prompts
from accord.engine import Branch, Policy, Sampling, Tree
from accord.engine.load import load_model, load_reward_model
from accord.engine.search import Score, beam_search, guided_search
from accord.evaluate.passes import majority_is_right, pass_at_k
from accord.evaluate.statistics import over_seeds
from accord.feedback.learned import LearnedReward
from accord.feedback.verifiers import verifier_named
from accord.methods import RewardModel
from accord.records import EncodedPrompt, Sample
from accord.worlds.sums import Sum

DIGITS, PROBLEMS = (3, 4), 100
N = (1, 2, 4, 8, 16, 32)
BEAMS = (1, 4)
GUIDED = ((1, 2), (1, 4), (1, 8), (1, 16), (4, 2), (4, 4))
"""Beams, and continuations per beam."""
COLUMN, LONGEST = 9, 48
PAIRS, CUTS = 2, 2
"""Pairs per problem, and cuts per pair."""

Found: TypeAlias = list[dict[str, Any]]
"""A row per way to answer: accuracy, and tokens generated and read per problem."""


@dataclass(kw_only=True)
class ValueModel(RewardModel):
    """A reward model trained on whole pairs, and on pairs cut at one place after they diverge."""

    def encode(self, model: Any, rows: Any, left_out: Any) -> list[Tree]:
        generator = random.Random(self.seed)
        whole = super().encode(model, rows, left_out)
        return [tree for each in whole for tree in (each, *self._cut(each, generator))]

    def _cut(self, tree: Tree, generator: random.Random) -> list[Tree]:
        first, second = (branch.tokens for branch in tree.branches)
        shortest = min(len(first), len(second))
        diverge = next((i for i in range(shortest) if first[i] != second[i]), shortest)
        places = range(diverge + 1, shortest)  # lengths that keep the difference, and never both ends
        chosen = generator.sample(places, min(CUTS, len(places)))
        return [replace(tree, branches=(Branch(first[:place]), Branch(second[:place]))) for place in chosen]


def main() -> None:
    """Run what is missing, print the tables and draw the picture."""
    parser = study_parser(__doc__, "runs/search")
    parser.add_argument("--picture", type=Path, default=Path("docs/images/search.png"), help="file to draw")
    parser.add_argument("--models", action="store_true", help="also train and use an outcome and a value model")
    options = parser.parse_args()
    torch.set_num_threads(1)
    parts = {"checked": checked, **({"learned": learned} if options.models else {})}
    found: dict[int, list[Found]] = {digits: [] for digits in DIGITS}
    for seed in options.seeds:
        for digits in DIGITS:
            rows: Found = []
            for name, measure in parts.items():
                file = options.out / f"seed-{seed}" / f"{name}-{digits}.json"
                if not file.exists():
                    train_weak_adder(file.parent, seed)
                    file.write_text(json.dumps(measure(seed, file.parent, digits), indent=1))
                rows += json.loads(file.read_text())
            found[digits].append(rows)
    for digits, seeds in found.items():
        show(digits, seeds)
    draw(found, options.picture)


def fit_models(seed: int, folder: Path) -> None:
    """Sample the training problems from the weak model, and fit both reward models."""
    weak, samples, pairs = folder / "weak" / "model", folder / "samples.jsonl", folder / "pairs.jsonl"
    if not samples.exists():
        given = {"model": weak, "data": folder / "world" / "train.jsonl", "n": 8, "reward": "number"}
        run_cli("sample", given | {"max_new_tokens": LONGEST, "out": samples, "seed": seed})
    if not pairs.exists():
        rows = [json.loads(line) for line in samples.read_text().splitlines()]
        pairs.write_text("".join(json.dumps(row) + "\n" for row in paired(rows, random.Random(seed))))
    settings = {"batch_size": 32, "epochs": 3, "learning_rate": 5e-4, "max_length": 96, "seed": seed}
    for name, method in (("outcome", RewardModel), ("value", ValueModel)):
        if not (folder / name / "model").exists():
            method(**settings).fit(str(weak), str(pairs), out=str(folder / name))


def paired(rows: Sequence[dict[str, Any]], generator: random.Random) -> list[dict[str, str]]:
    """Random pairs of a right and a wrong sample of the same problem."""
    by_problem: dict[str, tuple[list[str], list[str]]] = defaultdict(lambda: ([], []))
    for row in rows:
        by_problem[row["prompt"]][row["reward"] < 1].append(row["completion"])
    pairs = []
    for prompt, (right, wrong) in by_problem.items():
        both = [(a, b) for a in right for b in wrong if b]
        for chosen, rejected in generator.sample(both, min(PAIRS, len(both))):
            pairs.append({"prompt": prompt, "chosen": chosen, "rejected": rejected})
    return pairs


class Counted:
    """A score that counts the tokens it reads, and those generated between its calls."""

    def __init__(self, reward: Score, block: int) -> None:
        self.reward, self.block = reward, block
        self.drawn = self.read = self.calls = 0

    def __call__(self, samples: Sequence[Sample]) -> torch.Tensor:
        lengths = [len(sample.completion.tokens) for sample in samples]
        self.drawn += sum(lengths) - self.calls * self.block * len(samples)
        self.read += sum(lengths) + sum(len(sample.prompt_tokens) for sample in samples)
        self.calls += 1
        return self.reward(samples)


def setup(seed: int, folder: Path, digits: int) -> tuple[Policy, list[EncodedPrompt], Sampling]:
    """The weak model, the held-out sums, and the sampling settings."""
    policy = load_model(str(folder / "weak" / "model"), dtype="float32")
    rows = load_prompts(str(folder / "world" / f"heldout-{digits}.jsonl"), limit=PROBLEMS)
    prompts, _ = encode_prompts(policy.tokenizer, rows, room=LONGEST, context=policy.context, longest=None)
    return policy, prompts, Sampling(LONGEST, seed=seed)


def checked(seed: int, folder: Path, digits: int) -> Found:
    """Accuracy and cost of the ways to answer without learned models."""
    policy, prompts, sampling = setup(seed, folder, digits)
    return [
        *by_samples(policy, prompts, {}, sampling),
        *by_beams(policy, prompts, sampling),
        *by_search(policy, prompts, sound_so_far, "by columns", sampling),
    ]


def learned(seed: int, folder: Path, digits: int) -> Found:
    """Accuracy and cost of best of n and guided search by learned models."""
    fit_models(seed, folder)
    policy, prompts, sampling = setup(seed, folder, digits)
    rewards = {n: LearnedReward(load_reward_model(str(folder / n / "model")), policy) for n in ("outcome", "value")}
    chosen = [one for one in by_samples(policy, prompts, rewards, sampling) if one["way"].startswith("best")]
    return chosen + by_search(policy, prompts, rewards["value"], "value model", sampling)


def sound_so_far(samples: Sequence[Sample]) -> torch.Tensor:
    """1 if the text so far is a prefix of the right scratchpad, and all of it if the sample has ended."""
    return torch.tensor([float(_is_sound(s, scratchpad(str(s.prompt.prompt)))) for s in samples])


def _is_sound(sample: Sample, right: str) -> bool:
    return sample.text == right if sample.completion.stop == "end" else right.startswith(sample.text)


def scratchpad(prompt: str) -> str:
    first, second = prompt.rstrip("=").split("+")
    return Sum(int(first), int(second)).scratchpad


def row(way: str, size: str, right: float, drawn: float, read: float = 0.0) -> dict[str, Any]:
    return {"way": way, "size": size, "right": right, "drawn": drawn, "read": read}


def by_samples(
    policy: Policy, prompts: Sequence[EncodedPrompt], rewards: dict[str, LearnedReward], sampling: Sampling
) -> Found:
    """Any of n, majority of n, and best of n by each model, over disjoint groups of the same samples."""
    most, number = max(N), verifier_named("number")
    samples = policy.sample(prompts, most, sampling)
    right = [value >= 1 for value in number(samples).tolist()]
    said = [number.answer(sample.text) for sample in samples]
    scores = {name: reward(samples).tolist() for name, reward in rewards.items()}
    length = mean(len(sample.completion.tokens) for sample in samples)
    reads = length + mean(len(prompt.tokens) for prompt in prompts)
    each = [range(i, i + most) for i in range(0, len(samples), most)]
    found = []
    for n in N:
        groups = [range(i, i + n) for i in range(0, len(samples), n)]
        passes = mean(pass_at_k(most, sum(right[i] for i in of), n) for of in each)
        agreed = mean(majority_is_right([said[i] for i in g], [right[i] for i in g]) for g in groups)
        found += [row("any of n", str(n), passes, n * length), row("most of n", str(n), agreed, n * length)]
        for name, values in scores.items():
            best = mean(right[max(group, key=lambda i: values[i])] for group in groups)
            found.append(row(f"best of n, {name} model", str(n), best, n * length, n * reads))
    return found


def by_beams(policy: Policy, prompts: Sequence[EncodedPrompt], sampling: Sampling) -> Found:
    """The likeliest completion by beam search; every beam counts one token at every step."""
    found, number = [], verifier_named("number")
    for beams in BEAMS:
        samples = beam_search(policy, prompts, 1, sampling, beams=beams)
        length = mean(len(sample.completion.tokens) for sample in samples)
        found.append(row("beam search", str(beams), float(number(samples).ge(1).double().mean()), beams * length))
    return found


def by_search(policy: Policy, prompts: Sequence[EncodedPrompt], value: Score, name: str, sampling: Sampling) -> Found:
    """Guided search by a value, one column at a time."""
    found, number = [], verifier_named("number")
    for beams, branch in GUIDED:
        score = Counted(value, COLUMN)
        samples = guided_search(policy, prompts, 1, sampling, score=score, beams=beams, branch=branch, block=COLUMN)
        way = f"guided search {name}, {beams} beam{'s' * (beams > 1)}"
        right = float(number(samples).ge(1).double().mean())
        read = (
            score.read / len(prompts) if isinstance(value, LearnedReward) else 0.0
        )  # a program's reading is not counted
        found.append(row(way, f"{beams} x {branch}", right, score.drawn / len(prompts), read))
    return found


def show(digits: int, seeds: Sequence[Found]) -> None:
    """Print accuracy with its interval over seeds, and the cost."""
    table = Table(
        "way",
        "size",
        "right",
        "tokens drawn",
        "tokens read",
        title=f"{digits} digits, {len(seeds)} seeds, {PROBLEMS} sums each",
    )
    for of in zip(*seeds, strict=True):
        right = over_seeds([one["right"] for one in of])
        drawn, read = (mean(one[name] for one in of) for name in ("drawn", "read"))
        interval = f"{right.estimate:.3f} [{right.low:.3f}, {right.high:.3f}]"
        table.add_row(of[0]["way"], of[0]["size"], interval, f"{drawn:.0f}", f"{read:.0f}" if read else "")
    Console(width=120).print(table)


COLORS = {
    "any of n": "#999999",
    "most of n": "#1a7a4c",
    "beam search": "#b3304f",
    "guided search by columns, 1 beam": "#b7570d",
    "guided search by columns, 4 beams": "#2c68c0",
    "best of n, outcome model": "#7748b8",
    "best of n, value model": "#56707f",
    "guided search value model, 1 beam": "#8a6d1b",
    "guided search value model, 4 beams": "#0f8b8d",
}


def draw(found: dict[int, list[Found]], path: Path) -> None:
    """Accuracy against tokens generated, a panel for each number of digits."""
    figure = Figure(figsize=(9.6, 4.2), layout="constrained")
    for axes, (digits, seeds) in zip(figure.subplots(1, len(found), sharey=True), found.items(), strict=True):
        for way, color in COLORS.items():
            points = [of for of in zip(*seeds, strict=True) if of[0]["way"] == way]
            if not points:
                continue
            points.sort(key=lambda of: mean(one["drawn"] for one in of))
            drawn = [mean(one["drawn"] for one in of) for of in points]
            right = [over_seeds([one["right"] for one in of]) for of in points]
            style = "--" if way == "any of n" else "o-"
            axes.plot(drawn, [r.estimate for r in right], style, color=color, markersize=4, label=way)
            axes.fill_between(
                drawn, [r.low for r in right], [r.high for r in right], color=color, alpha=0.08, linewidth=0
            )
        axes.set(xscale="log", title=f"{digits} digits", xlabel="tokens drawn a sum", ylim=(0, 1.02))
        axes.spines[["top", "right"]].set_visible(False)
        if axes.get_subplotspec().is_first_col():
            axes.set_ylabel("right answers")
        else:
            axes.legend(frameon=False, fontsize=8, loc="upper left")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    main()
