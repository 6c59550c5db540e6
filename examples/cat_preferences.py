"""The cat on the grid learns from preferences: `python examples/cat_preferences.py [--seeds 0 1 2 3 4]`.

The cat is not told the reward of a move. A labeler compares two stretches (segments) of its episodes, and from many
such verdicts a reward r(s, a) is fitted: the probability that stretch 1 is preferred is the logistic function of the
sum of its rewards minus that of stretch 2 (Christiano et al. 2017, arXiv:1706.03741, eq. 1). The policy then learns
from r alone, with the same `ppo` as in `cat_grid`. The grid can be solved for any reward, so the table has the exact
value, by the true reward, of the best policy for the learned one. It is compared with hand-written rewards:

    nearer      1 for every move that ends nearer to the meat, so that stepping back and forth pays
    shaped      truth + gamma phi(next) - phi(here), phi the nearness: keeps the optimal policy (Ng et al. 1999)

Needs `pip install gymnasium`; takes a few minutes. docs/grid-world.md explains the output.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))  # examples/ is not in the package
from accord.evaluate.statistics import over_seeds
from accord.objectives.preference import bradley_terry
from accord.objectives.segments import segment_sum
from accord.results.intervals import Interval
from examples.cat_grid import EPISODES, GAMMA, MOVES, Cat, CatGrid, Steps, evaluate, optimum, ppo, sample, transitions

COMPARISONS = (100, 400, 1600, 6400, 25600)
SEEN = 256  # episodes of a random policy, whose stretches are compared
LENGTH = 5  # moves per stretch
PRIOR = 0.1  # the precision of a normal prior on every r(s, a), which decides r where there are no data
UPDATES = 80
REFITS = 16  # how often the policy's own stretches are compared during training
PROXY_UPDATES = 160
PROMISED = "what r says of asked before"


class Stretches(NamedTuple):
    """Concatenated stretches of episodes: cells, moves and true rewards (N,), and the stretch of each step."""

    cells: Tensor
    actions: Tensor
    rewards: Tensor
    owner: Tensor

    @property
    def count(self) -> int:
        return int(self.owner[-1]) + 1

    def sums(self, rewards: Tensor) -> Tensor:
        """The sum of the rewards (S, A) of each stretch's moves, (stretches,)."""
        return segment_sum(rewards[self.cells, self.actions], self.owner, self.count)


class Comparisons(NamedTuple):
    """Verdicts: counts of each move in the preferred stretch minus those in the other, (P, S * A)."""

    moves: Tensor

    def __add__(self, other: object) -> Comparisons:
        assert isinstance(other, Comparisons)
        return Comparisons(torch.cat([self.moves, other.moves]))


Label = Callable[[CatGrid, Stretches], Tensor]
"""The utility by which a labeler compares: a number for every stretch, (stretches,)."""


def by_moves(env: CatGrid, stretches: Stretches) -> Tensor:
    """A labeler who judges moves by their expected reward, which r(s, a) can express."""
    return stretches.sums(transitions(env)[1])


def by_outcomes(env: CatGrid, stretches: Stretches) -> Tensor:
    """A labeler who judges outcomes, including slips, which r(s, a) cannot express."""
    return segment_sum(stretches.rewards, stretches.owner, stretches.count)


def stretches_of(steps: Steps, length: int = LENGTH) -> Stretches:
    """Cut every episode into stretches of `length` steps, the last of which may be shorter."""
    place = torch.arange(len(steps.owner))
    first = place[steps.owner.diff(prepend=steps.owner[:1] - 1) != 0]  # the first step of every episode
    begins = (place - first[steps.owner]) % length == 0
    return Stretches(steps.cells, steps.actions, steps.rewards, begins.cumsum(0) - 1)


def compared(env: CatGrid, stretches: Stretches, pairs: int, label: Label, generator: torch.Generator) -> Comparisons:
    """Random pairs of stretches, with the verdicts of a Bradley-Terry labeler by its utility."""
    counts = torch.zeros(stretches.count, len(env.tiles) * len(MOVES), dtype=torch.float64)
    moves = stretches.cells * len(MOVES) + stretches.actions
    counts.index_put_((stretches.owner, moves), torch.ones(len(moves), dtype=torch.float64), accumulate=True)
    first, second = torch.randint(stretches.count, (2, pairs), generator=generator)
    worth = label(env, stretches)
    wins = torch.rand(pairs, generator=generator, dtype=torch.float64) < (worth[first] - worth[second]).sigmoid()
    better, worse = torch.where(wins, first, second), torch.where(wins, second, first)
    return Comparisons(counts[better] - counts[worse])


def comparison_losses(rewards: Tensor, comparisons: Comparisons) -> Tensor:
    """-log sigmoid of the preferred stretch's sum of r(s, a) minus the other's, (P,)."""
    margin = comparisons.moves @ rewards.flatten()
    return bradley_terry(margin, torch.zeros_like(margin))


def fitted(env: CatGrid, comparisons: Comparisons) -> Tensor:
    """The most likely rewards r (S, A) given the verdicts, under a normal prior: a convex problem."""
    rewards = torch.zeros(len(env.tiles), len(MOVES), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([rewards], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = comparison_losses(rewards, comparisons).sum() + PRIOR / 2 * rewards.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return rewards.detach()


def learn_from(
    env: CatGrid, reward_at: Callable[[int, Steps], Tensor], *, updates: int, seed: int
) -> Iterator[tuple[Cat, Tensor]]:
    """PPO with the reward (S, A) current at every update; yields the cat and that reward after each."""
    cat = Cat(env)
    optimizer = torch.optim.Adam(cat.parameters(), lr=0.1)
    env.reset(seed=seed)
    for update in range(updates):
        steps = sample(env, cat.policy(), EPISODES)
        rewards = reward_at(update, steps)
        for losses in ppo(cat, steps._replace(rewards=rewards[steps.cells, steps.actions])):
            optimizer.zero_grad()
            (losses.sum() / EPISODES).backward()
            optimizer.step()
        yield cat, rewards


def asked_before(env: CatGrid, pairs: int, label: Label, seed: int) -> Tensor:
    """A reward fitted to comparisons of a random policy's stretches."""
    env.reset(seed=seed)
    stretches = stretches_of(sample(env, Cat(env).policy(), SEEN))
    return fitted(env, compared(env, stretches, pairs, label, torch.Generator().manual_seed(seed)))


def asked_meanwhile(env: CatGrid, pairs: int, label: Label, seed: int) -> tuple[Tensor, Tensor]:
    """The policy (S, A) and reward of a cat whose own stretches are compared during training, with r refitted.

    The comparisons are spread evenly over the first half of the updates.
    """
    generator, every = torch.Generator().manual_seed(seed), UPDATES // 2 // REFITS
    known = Comparisons(torch.zeros(0, len(env.tiles) * len(MOVES), dtype=torch.float64))
    rewards = torch.zeros(len(env.tiles), len(MOVES), dtype=torch.float64)

    def reward_at(update: int, steps: Steps) -> Tensor:
        nonlocal known, rewards
        turn = update // every
        if update % every == 0 and turn < REFITS:
            more = pairs * (turn + 1) // REFITS - pairs * turn // REFITS
            known = known + compared(env, stretches_of(steps), more, label, generator)
            rewards = fitted(env, known)
        return rewards

    *_, (cat, rewards) = learn_from(env, reward_at, updates=UPDATES, seed=seed)
    return cat.policy(), rewards


def nearness(env: CatGrid) -> Tensor:
    """phi (S,): minus the distance of every cell to the meat."""
    meat = env.tiles.index("M")
    cells = torch.arange(len(env.tiles))
    rows, columns = cells // env.columns - meat // env.columns, cells % env.columns - meat % env.columns
    return -(rows.abs() + columns.abs()).double()


def nearer(env: CatGrid) -> Tensor:
    """The reward (S, A) "nearer": 1 if a move ends nearer to the meat, in expectation over slips."""
    phi = nearness(env)
    rewards = torch.zeros(len(env.tiles), len(MOVES), dtype=torch.float64)
    for cell in range(len(env.tiles)):
        for action in range(len(MOVES)):
            for probability, reached, _, _ in env.outcomes(cell, action):
                rewards[cell, action] += probability * bool(phi[reached] > phi[cell])
    return rewards


def shaped(env: CatGrid) -> Tensor:
    """The true reward plus a potential: R(s, a) + E[gamma phi(next) - phi(s)], phi being 0 where an episode ends."""
    onward, rewards = transitions(env)
    phi = nearness(env)
    return rewards + GAMMA * onward @ phi - phi[:, None]


def value(env: CatGrid, pi: Tensor, rewards: Tensor | None = None) -> float:
    """The exact value of the start under a policy, by the true reward or another one."""
    return float(evaluate(env, pi, rewards)[env.start])


def by_comparisons(env: CatGrid, seeds: Sequence[int]) -> dict[str, list[Interval]]:
    """The true value of learned policies by number of comparisons, over seeds; and the value that r predicts."""
    found: dict[str, list[Interval]] = {}
    for pairs in COMPARISONS:
        values: dict[str, list[float]] = {}
        for seed in seeds:
            before = asked_before(env, pairs, by_moves, seed)
            policies = {
                "asked before": optimum(env, before),
                "asked before, by outcomes": optimum(env, asked_before(env, pairs, by_outcomes, seed)),
            }
            policies["asked meanwhile"], meanwhile = asked_meanwhile(env, pairs, by_moves, seed)
            policies["asked meanwhile, best for r"] = optimum(env, meanwhile)
            for name, pi in policies.items():
                values.setdefault(name, []).append(value(env, pi))
            values.setdefault(PROMISED, []).append(value(env, policies["asked before"], before))
        for name, of_seeds in values.items():
            found.setdefault(name, []).append(over_seeds(of_seeds))
    return found


def by_updates(env: CatGrid, rewards: Tensor, seed: int) -> tuple[list[float], list[float]]:
    """PPO with a reward: the value of the start by that reward, and by the true one, after every update."""
    states = learn_from(env, lambda update, steps: rewards, updates=PROXY_UPDATES, seed=seed)
    both = [(value(env, cat.policy(), rewards), value(env, cat.policy())) for cat, _ in states]
    return [proxy for proxy, _ in both], [true for _, true in both]


def main() -> None:
    """Print the tables and draw the picture."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--picture", type=Path, default=Path("docs/images/cat-preferences.png"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    env = CatGrid()
    best, still = value(env, optimum(env)), value(env, Cat(env).policy())
    print(f"exact value of the start: {best:.3f} at best, {still:.3f} walking about at random\n")
    learned = by_comparisons(env, options.seeds)
    table = Table("comparisons", *learned, title=f"true value of the start, {len(options.seeds)} seeds (95% interval)")
    for place, pairs in enumerate(COMPARISONS):
        table.add_row(str(pairs), *(shown(of[place]) for of in learned.values()))
    Console(width=160).print(table)
    written = {"the truth": transitions(env)[1], "shaped": shaped(env), "nearer": nearer(env)}
    curves = {name: [by_updates(env, r, seed) for seed in options.seeds] for name, r in written.items()}
    columns = ("best by it", "its best, truly", "PPO by it", "PPO's, truly", "PPO's highest, truly")
    table = Table("reward", *columns, title=f"rewards that are written down, PPO after {PROXY_UPDATES} updates")
    for name, rewards in written.items():
        exact = optimum(env, rewards)
        proxies, truths = (([run[which] for run in curves[name]]) for which in (0, 1))
        ends = (over_seeds([run[-1] for run in some]) for some in (proxies, truths))
        exactly = (f"{value(env, exact, rewards):.3f}", f"{value(env, exact):.3f}")
        table.add_row(name, *exactly, *map(shown, ends), shown(over_seeds([max(run) for run in truths])))
    Console(width=160).print(table)
    draw(learned, curves["nearer"], best, options.picture)


def shown(interval: Interval) -> str:
    return f"{interval.estimate:.2f} [{interval.low:.2f}, {interval.high:.2f}]"


def draw(
    learned: dict[str, list[Interval]], hacked: list[tuple[list[float], list[float]]], best: float, path: Path
) -> None:
    """Left: true value by number of comparisons; right: proxy and true value as PPO optimizes a hand-written reward."""
    figure = Figure(figsize=(9.6, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.axhline(best, color="gray", linewidth=1, linestyle="--", label="best there is")
    colors = ("#2c68c0", "#b7570d", "#1a7a4c", "#7748b8")
    for color, (name, intervals) in zip(colors, ((n, i) for n, i in learned.items() if n != PROMISED), strict=True):
        left.plot(COMPARISONS, [i.estimate for i in intervals], "o-", color=color, markersize=4, label=name)
        low, high = ([getattr(i, end) for i in intervals] for end in ("low", "high"))
        left.fill_between(COMPARISONS, low, high, color=color, alpha=0.12, linewidth=0)
    left.set(xscale="log", xlabel="comparisons", ylabel="true value of the start", ylim=(-4, best + 0.6))
    left.set_xticks(COMPARISONS, [str(n) for n in COMPARISONS])
    left.minorticks_off()
    left.legend(frameon=False, fontsize=8)
    for color, name, which in (("#b7570d", "the reward “nearer”", 0), ("#2c68c0", "the true reward", 1)):
        runs = torch.tensor([run[which] for run in hacked])
        right.plot(runs.mean(0), color=color, linewidth=2, label=f"by {name}")
        right.fill_between(range(runs.shape[1]), runs.amin(0), runs.amax(0), color=color, alpha=0.15, linewidth=0)
    right.set(xlabel="updates of PPO by the reward “nearer”", ylabel="value of the start")
    right.legend(frameon=False, fontsize=8)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    main()
