"""Where an exactly optimised policy turns over, by the comparisons its reward was fitted to: no training, no sampling.

    python benchmarks/sweep.py [--draws 60] [--picture docs/images/sweep.png]

In a world of 156 sequences everything is a finite sum. For each draw: a reference policy, a gold reward, and
comparisons of pairs from the reference whose labels agree with gold 73% of the time; Bradley-Terry scores fitted to
them are the proxy. Then pi_ref exp(proxy / beta) / Z is swept over beta, and the best of n over n, and gold is followed
exactly. Takes a few minutes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from accord.engine.forward import log_probabilities
from accord.engine.trees import Branch, Tree, pack
from accord.evaluate.gao import Array
from accord.evaluate.overoptimisation import sweep_path
from accord.evaluate.statistics import bootstrap_mean
from accord.feedback.simulated import temperature
from accord.objectives.preference import bradley_terry
from accord.objectives.segments import segment_sum
from accord.objectives.selection import best_of_n
from accord.worlds.enumerable import Enumerable

COMPARISONS = (100, 300, 1000, 3000, 10000)
AGREEMENT = 0.73
PENALTY = 0.1
"""A normal prior on the fitted scores, of this precision."""

WAYS = ("pi_ref exp(proxy / beta) / Z", "best of n")
NUMBERS = [1, 2, 3, 4, 6, 8, 12, *(2**k for k in range(4, 27))]
END = 2.0
DISTANCES = np.linspace(0.0, END, 101)


def main() -> None:
    """Print the table and draw the picture."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--draws", type=int, default=60)
    parser.add_argument("--picture", type=Path, default=Path("docs/images/sweep.png"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = {n: [optimised(n, draw) for draw in range(options.draws)] for n in COMPARISONS}
    for place, way in enumerate(WAYS):
        show(way, {n: np.stack([both[place] for both in draws]) for n, draws in found.items()})
    draw_picture({n: np.stack([both[0] for both in draws]) for n, draws in found.items()}, options.picture)


def optimised(comparisons: int, draw: int) -> tuple[Array, Array]:
    """By the sweep and by best of n, proxy's and gold's gain at `DISTANCES`, in gold's standard deviations, (2, K)."""
    world = Enumerable(6, 3, seed=draw)
    logp, gold = reference(world, draw), world.reward.numpy()
    p = np.exp(logp)
    proxy = fitted(p, gold, comparisons, draw)
    spread = np.sqrt(p @ (gold - p @ gold) ** 2)
    path = sweep_path(logp[None], proxy[None], gold[None], [np.inf, *np.geomspace(1e3, 1e-3, 400).tolist()])
    best = np.stack([best_of_n(torch.from_numpy(p), torch.from_numpy(proxy), n).numpy() for n in NUMBERS])
    kl = np.where(best > 0, best * (np.log(np.maximum(best, 1e-300)) - logp), 0.0).sum(-1)
    swept = at_distances(path.kl[0], np.stack([path.proxy[0], path.gold[0]]), spread)
    return swept, at_distances(kl, np.stack([best @ proxy, best @ gold]), spread)


def at_distances(kl: Array, scores: Array, spread: float) -> Array:
    """Gains (2, K) over the first of the scores (2, T), at `DISTANCES`; NaN beyond the farthest."""
    distance = np.sqrt(np.maximum(kl, 0))
    gains = [np.interp(DISTANCES, distance, score - score[0]) / spread for score in scores]
    return np.stack([np.where(distance.max() >= DISTANCES, gain, np.nan) for gain in gains])


@torch.no_grad()
def reference(world: Enumerable, seed: int) -> Array:
    """log pi of every sequence, (S,), through the engine."""
    trees = pack([Tree(world.prompt, tuple(Branch(s) for s in world.sequences))], 4096, torch.device("cpu"))
    found = []
    for batch in trees:
        logp, _ = log_probabilities(world.new_model(seed), batch)
        found.append(segment_sum(logp, batch.owner, batch.branches))
    return np.asarray(torch.cat(found).numpy())


def fitted(p: Array, gold: Array, comparisons: int, seed: int) -> Array:
    """Bradley-Terry scores of all sequences, fitted to noisy comparisons of pairs drawn from the reference."""
    generator = np.random.default_rng([seed, comparisons])
    first, second = generator.choice(len(p), size=(2, comparisons), p=p / p.sum())
    gaps = gold[first] - gold[second]
    wins = generator.random(comparisons) < 1 / (1 + np.exp(-gaps / temperature(gaps.tolist(), AGREEMENT)))
    chosen, rejected = (torch.from_numpy(np.where(wins, a, b)) for a, b in ((first, second), (second, first)))
    scores = torch.zeros(len(p), dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([scores], max_iter=50, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        loss = bradley_terry(scores[chosen], scores[rejected]).sum() + PENALTY / 2 * scores.square().sum()
        loss.backward()
        return loss

    optimiser.step(closure)
    return np.asarray(scores.detach().numpy())


def show(way: str, curves: dict[int, Array]) -> None:
    """Where gold is highest, and what is left of it at the end: means over the draws that get so far."""
    columns = ("comparisons", "gold is highest at d", "gain there", f"gain at d = {END:g}", f"proxy's at d = {END:g}")
    table = Table(*columns, "draws", title=way)
    for n, both in curves.items():
        reached = both[~np.isnan(both[:, 1]).any(-1)]
        if not len(reached):
            continue
        proxy, gold = reached[:, 0], reached[:, 1]
        turns = bootstrap_mean(DISTANCES[gold.argmax(-1)])
        table.add_row(
            f"{n:,}",
            f"{turns.estimate:.2f} [{turns.low:.2f}, {turns.high:.2f}]",
            f"{gold.max(-1).mean():.2f}",
            f"{gold[:, -1].mean():.2f}",
            f"{proxy[:, -1].mean():.2f}",
            str(len(reached)),
        )
    Console(width=120).print(table)


def draw_picture(curves: dict[int, Array], path: Path) -> None:
    """Gold's mean gain against the distance, a line for every number of comparisons."""
    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes = figure.subplots()
    for place, (n, both) in enumerate(curves.items()):
        mean = np.nanmean(both[:, 1], 0)
        colour = (0.1 + 0.12 * place, 0.35, 0.85 - 0.12 * place)
        axes.plot(DISTANCES, mean, color=colour, linewidth=2, label=f"{n:,}")
        axes.plot(DISTANCES[mean.argmax()], mean.max(), "o", color=colour, markersize=5)
    axes.set_xlabel("√KL from the reference (√nats)")
    axes.set_ylabel("gold reward gained (standard deviations)")
    axes.legend(title="comparisons", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    main()
