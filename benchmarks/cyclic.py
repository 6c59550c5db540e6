"""Preferences that run in a circle: where Nash-MD, IPO-MD and the route through a reward model lead.

    python benchmarks/cyclic.py [--steps 140] [--seed 0] [--out docs/images]

In the game of `examples.worlds.game` a model says rock, scissors or paper, and each is preferred to the next. All
methods start from the same reference, pay tau = 0.1 for a nat of divergence from it, and learn from their own samples
through the same engine; the policy's exact probabilities are noted at every step. The third route fits a reward model
to the preferences of all pairs of words, and climbs that reward with RLOO.

Prints where each arrives, and draws cyclic.png and cyclic.svg: the policies' ways through the triangle of all policies,
and how much a best response gains over them.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from torch import Tensor

from accord.engine.classifiers import Scorer
from accord.engine.fit import LossTerm, Optimizer
from accord.engine.models import Policy
from accord.engine.trees import Tree, pack
from accord.feedback.learned import LearnedReward
from accord.methods import IPOMD, RLOO, NashMD, RewardModel
from accord.methods.online import OnlineMethod, RewardMethod

sys.path.insert(0, str(Path(__file__).parents[1]))  # the examples are no part of the package
from examples.worlds.enumerable import kl_regularized_optimum
from examples.worlds.game import Game

GAME, TAU, MIXTURE = Game(), 0.1, 0.125
REFERENCE = torch.tensor(GAME.reference, dtype=torch.float64)
PROMPTS = [GAME.prompt] * 64  # in every step; each has samples of its own

INK, SOFT, FAINT = "#1b1f24", "#6b7280", "#d5d9df"
STYLE: dict[Any, object] = {
    "font.size": 8.5,
    "svg.fonttype": "none",
    "svg.hashsalt": "accord",
    "text.color": INK,
    "axes.labelcolor": SOFT,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
}


@dataclass(frozen=True)
class Way:
    """A method's way: its policy (3,) before every step and after the last, and where theory has it come to rest."""

    name: str
    color: str
    policies: list[Tensor]
    rest: Tensor
    seconds: float

    @property
    def distance(self) -> float:
        """How far, in the probability of any word, the policy ends from the rest."""
        return float((self.policies[-1] - self.rest).abs().max())

    @property
    def exploitability(self) -> list[float]:
        """What a best response gains over the policy, before every step and after the last."""
        return [GAME.exploitability(policy, TAU) for policy in self.policies]


class Watched:
    """A judge or a reward that notes the policy whenever its samples are compared or scored, which is once a step."""

    def __init__(self, feedback: Any, policy: Policy) -> None:
        self.feedback, self.policy, self.policies = feedback, policy, list[Tensor]()

    def note(self) -> None:
        """Keep how often the policy says each word."""
        with torch.no_grad():
            self.policies.append(GAME.distribution(self.policy.network).double())

    def __call__(self, samples: Sequence[Any]) -> Any:
        self.note()
        return self.feedback(samples)

    def samples(self, first: Sequence[Any], second: Sequence[Any]) -> Any:
        """Of a judge."""
        self.note()
        return self.feedback.samples(first, second)


def main() -> None:
    """Run the three methods, print the table, and draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--steps", type=int, default=140)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    options = parser.parse_args()
    common: dict[str, Any] = {"batch_size": len(PROMPTS), "max_new_tokens": 1, "max_steps": options.steps}
    common |= {"beta1": 0.0, "warmup": 0.0, "dtype": "float32", "seed": options.seed}
    nash = NashMD(learning_rate=8e-4, group_size=8, opponents=8, kl_coefficient=TAU, mixture=MIXTURE, **common)
    ipo = IPOMD(learning_rate=8e-4, group_size=16, tau=TAU, mixture=MIXTURE, max_grad_norm=1e3, **common)
    rloo = RLOO(learning_rate=3e-3, group_size=8, kl_coefficient=TAU, **common)
    rest = GAME.equilibrium(TAU, MIXTURE)
    reward = reward_model()
    climbed = kl_regularized_optimum(REFERENCE.log(), scores(reward), TAU)
    ways = [
        follow("Nash-MD", "#0072b2", nash, GAME.judge(), rest),
        follow("IPO-MD", "#e08a00", ipo, GAME.judge(), rest),
        follow("reward model, RLOO", "#b3245c", rloo, reward, climbed),
    ]
    report(ways)
    draw(ways, options.out)


def reward_model() -> LearnedReward:
    """The reward model of Bradley and Terry for the labels of 10 people on each pair of words."""
    method = RewardModel(learning_rate=1e-2, schedule="cosine", dtype="float32")
    scorer, branches = Scorer.on(GAME.policy()), GAME.tree.branches
    trees = [
        Tree(GAME.tree.prompt, (branches[i], branches[j]), (0, 1))
        for i, j in permutations(range(len(branches)), 2)
        for _ in range(round(10 * GAME.preferences[i][j]))
    ]
    work = LossTerm(method.objective(scorer), pack(trees, method.tokens_per_pass), method.per)
    optimizer = Optimizer({"model": scorer.network}, method, 200)
    for step in range(optimizer.total):
        optimizer.update(step, work)
    return LearnedReward(scorer)


def scores(reward: LearnedReward) -> Tensor:
    """Of the words, (3,), centered."""
    scores = reward.of_trees([GAME.tree]).squeeze(1).double()
    return scores - scores.mean()


def follow(name: str, color: str, method: OnlineMethod, feedback: Any, rest: Tensor) -> Way:
    """A run of the method from the reference."""
    policy, start = GAME.policy(), time.perf_counter()
    watched = Watched(feedback, policy)
    given: dict[str, Any] = {"reward" if isinstance(method, RewardMethod) else "judge": watched}
    with tempfile.TemporaryDirectory() as folder:
        method.fit(policy, PROMPTS, out=Path(folder) / "run", **given)
    watched.note()
    return Way(name, color, watched.policies, rest, time.perf_counter() - start)


def report(ways: Sequence[Way]) -> None:
    """Print where every method ended, and where it should have."""
    table = Table("", *GAME.words, "exploitability", "farthest from theory", "seconds", title="the cyclic game")

    def row(name: str, policy: Tensor, *rest: str) -> None:
        table.add_row(name, *(f"{p:.4f}" for p in policy.tolist()), f"{GAME.exploitability(policy, TAU):.4f}", *rest)

    row("reference", REFERENCE)
    row("equilibrium", GAME.equilibrium(TAU))
    table.add_section()
    for way in ways:
        row(way.name, way.policies[-1], f"{way.distance:.4f}", f"{way.seconds:.0f}")
        row("  in theory", way.rest)
    Console(width=100).print(table)


def draw(ways: Sequence[Way], folder: Path) -> None:
    """The picture, as PNG and as SVG."""
    folder.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.4, 3.3), layout="constrained")
        triangle, curves = figure.subplots(1, 2, width_ratios=(1.08, 1.0))
        draw_triangle(triangle, ways)
        draw_exploitability(curves, ways)
        figure.savefig(folder / "cyclic.png", dpi=200)
        figure.savefig(folder / "cyclic.svg", metadata={"Date": None})


def draw_triangle(axes: Axes, ways: Sequence[Way]) -> None:
    """All policies as a triangle with lines of equal exploitability, and the methods' ways through it."""
    corners = place(torch.eye(3, dtype=torch.float64))
    contours(axes)
    axes.fill(*corners.T, fill=False, edgecolor=SOFT, linewidth=0.9, joinstyle="round")
    for corner, word, align, below in zip(corners, GAME.words, ("left", "center", "right"), (-11, 5, -11), strict=True):
        axes.annotate(f"always {word}", corner, (0, below), textcoords="offset points", ha=align, color=SOFT)
    for way in ways:
        axes.plot(*place(torch.stack(way.policies)).T, color=way.color, linewidth=1.2, solid_joinstyle="round")
    mark(axes, REFERENCE, "o", 5, "reference", (-46, 4))
    mark(axes, ways[0].rest, "*", 10, "fixed point of\nNash-MD and IPO-MD", (6, -24))
    mark(axes, ways[-1].rest, "D", 4.5, "optimum of the\nbest-fitting reward", (9, -4))
    axes.set_aspect("equal")
    axes.set_axis_off()


def mark(axes: Axes, policy: Tensor, marker: str, size: float, name: str, offset: tuple[float, float]) -> None:
    """A policy of note."""
    axes.plot(*place(policy), marker, color="white", markeredgecolor=INK, markeredgewidth=0.9, markersize=size)
    ground = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}
    axes.annotate(name, place(policy), offset, textcoords="offset points", fontsize=7.5, linespacing=1.1, bbox=ground)


def contours(axes: Axes) -> None:
    """Lines of equal exploitability, with their values."""
    x, y = np.meshgrid(np.linspace(0, 1, 161), np.linspace(0, 3**0.5 / 2, 141))
    second = y / (3**0.5 / 2)
    third = x - second / 2
    policies = np.stack([1 - second - third, second, third], -1)
    inside = policies.min(-1) > 1e-4
    values = np.full(x.shape, np.nan)
    values[inside] = [GAME.exploitability(torch.from_numpy(p), TAU) for p in policies[inside]]
    lines = axes.contour(x, y, values, levels=[0.003, 0.01, 0.03, 0.1, 0.2], colors=FAINT, linewidths=0.7)
    axes.clabel(lines, levels=[0.01, 0.03, 0.1, 0.2], fontsize=6, colors=SOFT, inline_spacing=2)


def draw_exploitability(axes: Axes, ways: Sequence[Way]) -> None:
    """What a best response gains over the policy, over steps."""
    for way in ways:
        end = len(way.policies) - 1
        axes.plot(way.exploitability, color=way.color, linewidth=1.4)
        axes.plot(end, way.exploitability[-1], "o", color=way.color, markersize=3.5, clip_on=False)
    axes.set_ylim(0, None)
    axes.set_xlabel("step")
    axes.set_title("exploitability: what a best response gains", loc="left", fontsize=9, color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(length=0)
    axes.grid(axis="y", color=FAINT, linewidth=0.5)
    handles = [axes.plot([], [], color=way.color, label=way.name)[0] for way in ways]
    axes.legend(handles=handles, frameon=False, loc="center right", fontsize=8)


def place(policies: Tensor) -> np.ndarray:
    """Where policies (..., 3) lie in the triangle, (..., 2): the first word left, the second above, the third right."""
    corners = torch.tensor([[0.0, 0.0], [0.5, 3**0.5 / 2], [1.0, 0.0]], dtype=torch.float64)
    return np.asarray(policies @ corners)


if __name__ == "__main__":
    main()
