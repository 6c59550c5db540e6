"""Cyclic preferences: where Nash-MD, IPO-MD, and a reward model with RLOO converge.

    python benchmarks/cyclic.py [--steps 140] [--seed 0] [--out docs/images]

In the game of `examples.worlds.game` a model says rock, scissors or paper, and each is preferred to the next. All
methods start from the same reference with a KL penalty of tau = 0.1, and learn from their own samples through the
engine; the policy's exact probabilities are recorded at every step. The third one fits a reward model to preferences
between all pairs of words, and maximizes it with RLOO.

Prints where each converges, and theory's fixed points, and draws cyclic.png and cyclic.svg: the policies' paths through
the triangle of all policies, and their exploitability (what a best response gains). Takes some minutes.
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

sys.path.insert(0, str(Path(__file__).parents[1]))  # examples/ is not in the package
from examples.worlds.enumerable import kl_regularized_optimum
from examples.worlds.game import Game

GAME, TAU, MIXTURE = Game(), 0.1, 0.125
REFERENCE = torch.tensor(GAME.reference, dtype=torch.float64)
PROMPTS = [GAME.prompt] * 64  # of every step; each gets its own samples

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
class MethodPath:
    """The path of a method: its policy (3,) before every step and after the last, and its fixed point in theory."""

    name: str
    color: str
    policies: list[Tensor]
    rest: Tensor
    seconds: float

    @property
    def distance(self) -> float:
        """The largest difference in probability, over words, between the final policy and the fixed point."""
        return float((self.policies[-1] - self.rest).abs().max())

    @property
    def exploitability(self) -> list[float]:
        """What a best response gains over the policy, before every step and after the last."""
        return [GAME.exploitability(policy, TAU) for policy in self.policies]


class Recorded:
    """A judge or a reward that records the policy whenever samples are compared or scored: once a step."""

    def __init__(self, feedback: Any, policy: Policy) -> None:
        self.feedback, self.policy, self.policies = feedback, policy, list[Tensor]()

    def record(self) -> None:
        """Keep the probability of each word."""
        with torch.no_grad():
            self.policies.append(GAME.distribution(self.policy.network).double())

    def __call__(self, samples: Sequence[Any]) -> Any:
        self.record()
        return self.feedback(samples)

    def samples(self, first: Sequence[Any], second: Sequence[Any]) -> Any:
        """A judge's verdicts on samples."""
        self.record()
        return self.feedback.samples(first, second)


def main() -> None:
    """Run the three methods, print the table, and draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=140, help="steps of each method")
    parser.add_argument("--seed", type=int, default=0, help="seed of the samples")
    parser.add_argument("--out", type=Path, default=Path("docs/images"), help="folder of the pictures")
    options = parser.parse_args()
    common: dict[str, Any] = {"batch_size": len(PROMPTS), "max_new_tokens": 1, "max_steps": options.steps}
    common |= {"beta1": 0.0, "warmup": 0.0, "dtype": "float32", "seed": options.seed}
    nash = NashMD(learning_rate=8e-4, group_size=8, opponents=8, kl_coefficient=TAU, mixture=MIXTURE, **common)
    ipo = IPOMD(learning_rate=8e-4, group_size=16, tau=TAU, mixture=MIXTURE, max_grad_norm=1e3, **common)
    rloo = RLOO(learning_rate=3e-3, group_size=8, kl_coefficient=TAU, **common)
    rest = GAME.equilibrium(TAU, MIXTURE)
    reward = reward_model()
    climbed = kl_regularized_optimum(REFERENCE.log(), scores(reward), TAU)
    paths = [
        follow("Nash-MD", "#0072b2", nash, GAME.judge(), rest),
        follow("IPO-MD", "#e08a00", ipo, GAME.judge(), rest),
        follow("reward model, RLOO", "#b3245c", rloo, reward, climbed),
    ]
    report(paths)
    draw(paths, options.out)


def reward_model() -> LearnedReward:
    """A Bradley-Terry reward model fitted to the choices of 10 people on each pair of words."""
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
    """The centered reward of each word, (3,)."""
    scores = reward.of_trees([GAME.tree]).squeeze(1).double()
    return scores - scores.mean()


def follow(name: str, color: str, method: OnlineMethod, feedback: Any, rest: Tensor) -> MethodPath:
    """Run the method from the reference."""
    policy, start = GAME.policy(), time.perf_counter()
    recorded = Recorded(feedback, policy)
    given: dict[str, Any] = {"reward" if isinstance(method, RewardMethod) else "judge": recorded}
    with tempfile.TemporaryDirectory() as folder:
        method.fit(policy, PROMPTS, out=Path(folder) / "run", **given)
    recorded.record()
    return MethodPath(name, color, recorded.policies, rest, time.perf_counter() - start)


def report(paths: Sequence[MethodPath]) -> None:
    """Print where every method ended, and where theory says it should."""
    table = Table("", *GAME.words, "exploitability", "distance from theory", "seconds", title="the cyclic game")

    def row(name: str, policy: Tensor, *rest: str) -> None:
        table.add_row(name, *(f"{p:.4f}" for p in policy.tolist()), f"{GAME.exploitability(policy, TAU):.4f}", *rest)

    row("reference", REFERENCE)
    row("equilibrium", GAME.equilibrium(TAU))
    table.add_section()
    for path in paths:
        row(path.name, path.policies[-1], f"{path.distance:.4f}", f"{path.seconds:.0f}")
        row("  in theory", path.rest)
    Console(width=100).print(table)


def draw(paths: Sequence[MethodPath], folder: Path) -> None:
    """Draw the picture, as PNG and as SVG."""
    folder.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.4, 3.3), layout="constrained")
        triangle, curves = figure.subplots(1, 2, width_ratios=(1.08, 1.0))
        draw_triangle(triangle, paths)
        draw_exploitability(curves, paths)
        figure.savefig(folder / "cyclic.png", dpi=200)
        figure.savefig(folder / "cyclic.svg", metadata={"Date": None})


def draw_triangle(axes: Axes, paths: Sequence[MethodPath]) -> None:
    """The triangle of all policies with lines of equal exploitability, and the methods' paths through it."""
    corners = place(torch.eye(3, dtype=torch.float64))
    contours(axes)
    axes.fill(*corners.T, fill=False, edgecolor=SOFT, linewidth=0.9, joinstyle="round")
    for corner, word, align, below in zip(corners, GAME.words, ("left", "center", "right"), (-11, 5, -11), strict=True):
        axes.annotate(f"always {word}", corner, (0, below), textcoords="offset points", ha=align, color=SOFT)
    for path in paths:
        axes.plot(*place(torch.stack(path.policies)).T, color=path.color, linewidth=1.2, solid_joinstyle="round")
    mark(axes, REFERENCE, "o", 5, "reference", (-46, 4))
    mark(axes, paths[0].rest, "*", 10, "fixed point of\nNash-MD and IPO-MD", (6, -24))
    mark(axes, paths[-1].rest, "D", 4.5, "optimum of the\nbest-fitting reward", (9, -4))
    axes.set_aspect("equal")
    axes.set_axis_off()


def mark(axes: Axes, policy: Tensor, marker: str, size: float, name: str, offset: tuple[float, float]) -> None:
    """Mark and name one policy."""
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


def draw_exploitability(axes: Axes, paths: Sequence[MethodPath]) -> None:
    """What a best response gains over the policy, over steps."""
    for path in paths:
        end = len(path.policies) - 1
        axes.plot(path.exploitability, color=path.color, linewidth=1.4)
        axes.plot(end, path.exploitability[-1], "o", color=path.color, markersize=3.5, clip_on=False)
    axes.set_ylim(0, None)
    axes.set_xlabel("step")
    axes.set_title("exploitability: what a best response gains", loc="left", fontsize=9, color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(length=0)
    axes.grid(axis="y", color=FAINT, linewidth=0.5)
    handles = [axes.plot([], [], color=path.color, label=path.name)[0] for path in paths]
    axes.legend(handles=handles, frameon=False, loc="center right", fontsize=8)


def place(policies: Tensor) -> np.ndarray:
    """Coordinates (..., 2) of policies (..., 3) in the triangle: the first word left, second top, third right."""
    corners = torch.tensor([[0.0, 0.0], [0.5, 3**0.5 / 2], [1.0, 0.0]], dtype=torch.float64)
    return np.asarray(policies @ corners)


if __name__ == "__main__":
    main()
