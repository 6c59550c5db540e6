"""Coverage of the interval for the turning point of overoptimization, if a run's steps are autocorrelated.

    python benchmarks/turn_coverage.py [--experiments 1000]

In simulated runs the gold reward follows the form of Gao et al., which turns at d = exp(.35 / .2 - 1) = 2.12, plus
normal noise of standard deviation .06 with autocorrelation rho between steps. accord's interval is compared with the
one it replaced, a moving-block bootstrap of the residuals in blocks of sqrt(T) steps (Künsch 1989). A run has a turn
only if its bend is significantly above 0.

Prints for both, by number of steps and rho, the share of intervals that contain the true turn, their median width, and
the share of runs that have a turn.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import numpy as np
from rich.console import Console
from rich.table import Table

from accord.evaluate import curves
from accord.evaluate.statistics import Floats, percentile
from accord.results.intervals import Interval

A, B, NOISE, REACH = 0.35, 0.2, 0.06, 4.0
TURN = float(np.exp(A / B - 1))


def runs(steps: int, rho: float, experiments: int) -> Iterator[tuple[Floats, Floats]]:
    """Distances, which grow ever slower, and noisy gold rewards of each run."""
    generator = np.random.default_rng(0)
    distance = REACH * np.linspace(0.02, 1, steps) ** 0.6
    truth = curves.curve(curves.RL, np.array([A, B, 0.45]), distance)
    for _ in range(experiments):
        noise = generator.normal(size=steps)
        noise[1:] *= np.sqrt(1 - rho**2)
        for t in range(1, steps):
            noise[t] += rho * noise[t - 1]
        yield distance, truth + NOISE * noise


def by_blocks(distance: Floats, score: Floats, seed: int, resamples: int = 400) -> Interval | None:
    """The turn with the interval of a moving-block bootstrap."""
    steps, block = len(distance), max(1, round(len(distance) ** 0.5))
    estimate = curves.coefficients(curves.RL, distance, score, None)
    fitted = curves.curve(curves.RL, estimate, distance)
    starts = np.random.default_rng(seed).integers(steps, size=(resamples, -(-steps // block)))
    drawn = (starts[..., None] + np.arange(block)).reshape(resamples, -1)[:, :steps] % steps
    residuals = score - fitted
    again = fitted + (residuals - residuals.mean())[drawn]
    repeated = curves.coefficients(curves.RL, np.broadcast_to(distance, again.shape), again, None)
    turn = float(curves.RL.turn(estimate[0], estimate[1]))
    if percentile(float(estimate[1]), repeated[:, 1], steps).low <= 0 or turn > REACH:
        return None
    bends = np.maximum(repeated[:, 1], np.finfo(np.float64).tiny)
    return percentile(turn, curves.RL.turn(repeated[:, 0], bends), steps)


def summary(turns: list[Interval | None]) -> list[str]:
    """The share of intervals that contain the true turn, their median width, and the share of runs with a turn."""
    found = [turn for turn in turns if turn is not None]
    if not found:
        return ["", "", "0%"]
    held = sum(turn.low <= TURN <= turn.high for turn in found) / len(found)
    width = float(np.median([turn.high - turn.low for turn in found]))
    return [f"{held:.1%}", f"{width:.2f}", f"{len(found) / len(turns):.0%}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiments", type=int, default=1000, help="runs per row")
    experiments = parser.parse_args().experiments
    table = Table(
        "steps", "rho", "contains the turn", "width", "runs with a turn", "with blocks", "width", "runs with a turn"
    )
    for steps in (24, 60, 120):
        for rho in (0.0, 0.4, 0.7, 0.9):
            both: tuple[list[Interval | None], list[Interval | None]] = ([], [])
            for seed, (distance, score) in enumerate(runs(steps, rho, experiments)):
                both[0].append(curves.over_steps(curves.RL, distance, score, draws=1000, seed=seed).turn)
                both[1].append(by_blocks(distance, score, seed))
            table.add_row(str(steps), str(rho), *summary(both[0]), *summary(both[1]))
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
