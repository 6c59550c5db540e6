"""Where an exactly optimized policy overoptimizes, by the number of comparisons, capacity and ensembles of its reward.

    python benchmarks/sweep.py [--draws 60] [--picture docs/images/sweep.png]

Nothing is trained or sampled: in a world of 156 sequences all expectations are finite sums. Each draw has a reference
policy, a gold reward, and comparisons of pairs from the reference whose labels agree with gold 73% of the time;
Bradley-Terry scores fitted to them are the proxy. The policy pi_ref exp(proxy / beta) / Z is swept over beta, and best
of n over n, and the gold reward is computed exactly: by the number of comparisons and, at one number, by the proxy's
capacity and for ensembles, whose members are fitted to resampled comparisons.

Prints a table for each way to optimize, and draws the gain in gold reward against the distance. Takes a few minutes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from torch import Tensor

from accord.engine.forward import log_probabilities
from accord.engine.trees import Branch, Tree, pack
from accord.evaluate.overoptimization import sweep_path
from accord.evaluate.statistics import Floats, bootstrap_mean
from accord.feedback.people import temperature
from accord.objectives.preference import bradley_terry
from accord.objectives.segments import segment_sum
from accord.objectives.selection import best_of_n

sys.path.insert(0, str(Path(__file__).parents[1]))  # examples/ is not in the package
from examples.worlds.enumerable import Enumerable

COMPARISONS = (100, 300, 1000, 3000, 10000)
MIDDLE = 1000
"""The number of comparisons where capacity or ensembles vary."""
MEMBERS = 5
AGREEMENT = 0.73
PENALTY = 0.1
"""The precision of a normal prior on the fitted parameters."""

WAYS = ("pi_ref exp(proxy / beta) / Z", "best of n")
NUMBERS = [1, 2, 3, 4, 6, 8, 12, *(2**k for k in range(4, 27))]
END = 2.0
DISTANCES = np.linspace(0.0, END, 101)

Proxy = Callable[[Tensor, Tensor, Enumerable, int], Floats]
"""Fits scores of all sequences (S,) to comparisons: chosen and rejected sequences (P,), the world, a seed."""


def main() -> None:
    """Print the tables and draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=60, help="number of random worlds")
    parser.add_argument("--picture", type=Path, default=Path("docs/images/sweep.png"), help="file to draw")
    options = parser.parse_args()
    torch.set_num_threads(1)
    by_data = {
        f"{n:,} comparisons": [optimized(by_sequence, n, draw) for draw in range(options.draws)] for n in COMPARISONS
    }
    by_kind = {name: [optimized(kind, MIDDLE, draw) for draw in range(options.draws)] for name, kind in KINDS.items()}
    for found in (by_data, by_kind):
        for place, way in enumerate(WAYS):
            show(way, {name: np.stack([both[place] for both in draws]) for name, draws in found.items()})
    draw_picture({name: np.stack([both[0] for both in draws]) for name, draws in by_data.items()}, options.picture)


def optimized(proxy_of: Proxy, comparisons: int, draw: int) -> tuple[Floats, Floats]:
    """Gains of proxy and gold (2, K) at `DISTANCES`, in gold's standard deviations: by the sweep, and by best of n."""
    world = Enumerable(6, 3, seed=draw)
    logp, gold = reference(world, draw), world.reward.numpy()
    p = np.exp(logp)
    proxy = proxy_of(*compared(p, gold, comparisons, draw), world, draw)
    spread = np.sqrt(p @ (gold - p @ gold) ** 2)
    path = sweep_path(logp[None], proxy[None], gold[None], [np.inf, *np.geomspace(1e3, 1e-3, 400).tolist()])
    best = np.stack([best_of_n(torch.from_numpy(p), torch.from_numpy(proxy), n).numpy() for n in NUMBERS])
    kl = np.where(best > 0, best * (np.log(np.maximum(best, 1e-300)) - logp), 0.0).sum(-1)
    swept = at_distances(path.kl[0], np.stack([path.proxy[0], path.gold[0]]), spread)
    return swept, at_distances(kl, np.stack([best @ proxy, best @ gold]), spread)


def at_distances(kl: Floats, scores: Floats, spread: float) -> Floats:
    """Gains (2, K) over the first of the scores (2, T), at `DISTANCES`; NaN beyond the farthest."""
    distance = np.sqrt(np.maximum(kl, 0))
    gains = [np.interp(DISTANCES, distance, score - score[0]) / spread for score in scores]
    return np.stack([np.where(distance.max() >= DISTANCES, gain, np.nan) for gain in gains])


@torch.no_grad()
def reference(world: Enumerable, seed: int) -> Floats:
    """log pi of every sequence, (S,), through the engine."""
    trees = pack([Tree(world.prompt, tuple(Branch(s) for s in world.sequences))], 4096, torch.device("cpu"))
    found = []
    for batch in trees:
        logp, _ = log_probabilities(world.new_model(seed), batch)
        found.append(segment_sum(logp, batch.owner, batch.branches))
    return np.asarray(torch.cat(found).numpy())


def compared(p: Floats, gold: Floats, comparisons: int, seed: int) -> tuple[Tensor, Tensor]:
    """Noisy comparisons of pairs drawn from the reference: indices of the chosen and rejected sequences, (P,)."""
    generator = np.random.default_rng([seed, comparisons])
    first, second = generator.choice(len(p), size=(2, comparisons), p=p / p.sum())
    gaps = gold[first] - gold[second]
    wins = generator.random(comparisons) < 1 / (1 + np.exp(-gaps / temperature(gaps.tolist(), AGREEMENT)))
    chosen, rejected = (torch.from_numpy(np.where(wins, a, b)) for a, b in ((first, second), (second, first)))
    return chosen, rejected


def fit_linear(chosen: Tensor, rejected: Tensor, features: Tensor) -> Floats:
    """Bradley-Terry scores of all sequences that are linear in the features (S, F)."""
    weights = torch.zeros(features.shape[1], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=50, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        scores = features @ weights
        loss = bradley_terry(scores[chosen], scores[rejected]).sum() + PENALTY / 2 * weights.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return np.asarray((features @ weights).detach().numpy())


def by_sequence(chosen: Tensor, rejected: Tensor, world: Enumerable, seed: int) -> Floats:
    """A separate score for every sequence."""
    return fit_linear(chosen, rejected, torch.eye(len(world.sequences), dtype=torch.float64))


def by_features(width: int, chosen: Tensor, rejected: Tensor, world: Enumerable, seed: int) -> Floats:
    """Scores that sum a weight for every run of `width` tokens at its position."""
    runs = [{(i, s[i : i + width]) for i in range(max(1, len(s) - width + 1))} for s in world.sequences]
    known = sorted(set().union(*runs))
    return fit_linear(chosen, rejected, torch.tensor([[run in r for run in known] for r in runs], dtype=torch.float64))


def ensemble(worst: bool, chosen: Tensor, rejected: Tensor, world: Enumerable, seed: int) -> Floats:
    """The mean of the members' scores, or their minimum."""
    generator = torch.Generator().manual_seed(seed)
    draws = [torch.randint(len(chosen), (len(chosen),), generator=generator) for _ in range(MEMBERS)]
    members = np.stack([by_sequence(chosen[some], rejected[some], world, seed) for some in draws])
    return np.asarray(members.min(0) if worst else members.mean(0))


KINDS: dict[str, Proxy] = {
    "a weight per token and position": partial(by_features, 1),
    "a weight per two tokens and position": partial(by_features, 2),
    "a score per sequence": by_sequence,
    f"mean of {MEMBERS}": partial(ensemble, False),
    f"minimum of {MEMBERS}": partial(ensemble, True),
}


def show(way: str, curves: dict[str, Floats]) -> None:
    """Print where gold is highest, and its gain there and at the end: means over the draws that reach the end."""
    columns = ("proxy", "gold is highest at d", "gain there", f"gain at d = {END:g}", f"proxy's gain at d = {END:g}")
    table = Table(*columns, "draws", title=way)
    for name, both in curves.items():
        reached = both[~np.isnan(both[:, 1]).any(-1)]
        if not len(reached):
            continue
        proxy, gold = reached[:, 0], reached[:, 1]
        turns = bootstrap_mean(DISTANCES[gold.argmax(-1)])
        table.add_row(
            name,
            f"{turns.estimate:.2f} [{turns.low:.2f}, {turns.high:.2f}]",
            f"{gold.max(-1).mean():.2f}",
            f"{gold[:, -1].mean():.2f}",
            f"{proxy[:, -1].mean():.2f}",
            str(len(reached)),
        )
    Console(width=120).print(table)


def draw_picture(curves: dict[str, Floats], path: Path) -> None:
    """The mean gain of gold against the distance, a line for each number of comparisons."""
    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes = figure.subplots()
    for place, (name, both) in enumerate(curves.items()):
        mean = np.nanmean(both[:, 1], 0)
        color = (0.1 + 0.12 * place, 0.35, 0.85 - 0.12 * place)
        axes.plot(DISTANCES, mean, color=color, linewidth=2, label=name)
        axes.plot(DISTANCES[mean.argmax()], mean.max(), "o", color=color, markersize=5)
    axes.set_xlabel("√KL from the reference (√nats)")
    axes.set_ylabel("gold reward gained (standard deviations)")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    main()
