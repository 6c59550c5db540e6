"""Length-controlled win rates: accord's definition against alpaca_eval's, which also models the difficulty of prompts.

    python benchmarks/length_control.py [--experiments 400]

alpaca_eval (Dubois et al. 2024, arXiv:2404.04475) fits P(win on x) = sigmoid(a + b tanh(d_x / s) + c g_x), where g_x is
the difficulty of prompt x, known from other models' verdicts, and reports the mean over prompts of sigmoid(a + c g_x).
accord has no g_x, and reports sigmoid(a). Here a simulated judge follows the whole formula on 400 prompts, and g_x is
known without error. The truth is the mean of sigmoid(a + c g_x) over all prompts. Left out of alpaca_eval: its lasso,
whose strength is cross-validated, and the two models that game lengths, which it adds at a fifth of the weight.

Prints the mean and standard deviation over experiments of the raw win rate, accord's and alpaca_eval's.
"""

from __future__ import annotations

import argparse

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.special import expit

from accord.evaluate.statistics import Floats, fit_logistic
from accord.evaluate.wins import length_controlled

PROMPTS, LONGER, SPREAD = 400, 20.0, 40.0
"""Number of prompts; mean and standard deviation of how many characters longer answers are."""


def win_rates(a: float, b: float, c: float, together: float, generator: np.random.Generator) -> tuple[float, ...]:
    """Raw, accord's and alpaca_eval's win rate in one experiment; `together` is the correlation of d and g."""
    hard = generator.normal(size=PROMPTS)
    longer = LONGER + SPREAD * (together * hard + np.sqrt(1 - together**2) * generator.normal(size=PROMPTS))
    bend = np.tanh(longer / longer.std())
    wins = (generator.random(PROMPTS) < expit(a + b * bend + c * hard)).astype(np.float64)
    controlled = length_controlled(wins, longer, resamples=2)
    assert controlled is not None
    design = np.stack([np.ones(PROMPTS), bend, hard], 1)
    intercept, _, slope = fit_logistic(design, wins[None], np.ones((1, PROMPTS)))[0]
    return wins.mean(), controlled.estimate, float(expit(intercept + slope * hard).mean())


def truth(a: float, c: float) -> float:
    """The win rate at equal length over all prompts."""
    hard: Floats = np.random.default_rng(0).normal(size=1_000_000)
    return float(expit(a + c * hard).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiments", type=int, default=400, help="experiments per row")
    experiments = parser.parse_args().experiments
    table = Table("weight of difficulty (c)", "correlation with length", "truth", "wins", "accord", "alpaca_eval")
    for c, together in ((0.0, 0.0), (1.0, 0.0), (2.0, 0.0), (1.0, 0.5), (2.0, 0.5)):
        generator = np.random.default_rng(1)
        every = np.array([win_rates(0.4, 0.9, c, together, generator) for _ in range(experiments)])
        cells = [f"{m:.1%} ± {s:.1%}" for m, s in zip(every.mean(0), every.std(0), strict=True)]
        table.add_row(f"{c:g}", f"{together:g}", f"{truth(0.4, c):.1%}", *cells)
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
