"""What the optimized reward says and what is true, against the distance from the start: in training, best of n, sweep.

A curve has points (d, proxy, gold) with d = sqrt(KL) in root nats, and the fit of its gold score by the form of Gao et
al. (`accord.evaluate.gao`). Training gives one as it proceeds; scored samples of the start give two without training,
by `best_of_n` and by `sweep`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

from accord.errors import InputError
from accord.evaluate import best_of_n, sweep
from accord.evaluate.gao import BEST_OF_N, RL, Array, Fit, over_prompts, over_steps
from accord.evaluate.statistics import bootstrap_mean

LEAST_STEPS = 8
"""Steps that a training curve needs for a fit."""

SHOWN = 40
"""Points kept of a training curve, each a mean over neighboring steps; the fit takes every step."""

Point: TypeAlias = dict[str, float | None]
"""`distance`, `proxy` and `gold`, perhaps with `_low` and `_high`, and what they lie `at`: a step, n or beta, which is
None where it is infinite."""


@dataclass(frozen=True)
class Curve:
    """Points of distance, proxy and gold in the order they were reached, and the fit of the gold score."""

    name: str
    source: Literal["training", "best of n", "sweep"]
    points: list[Point]
    fit: Fit | None
    warnings: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The curve as an object."""
        fit = self.fit.as_json() if self.fit else None
        return {"name": self.name, "source": self.source, "points": self.points, "fit": fit}


class Path(NamedTuple):
    """K places on the way from the start, which is the first, for P prompts: n or beta (K,), and (P, K) each."""

    at: list[float]
    kl: Array
    proxy: Array
    gold: Array


def best_of_n_path(proxy: Array, gold: Array) -> Path:
    """The best of 1, 2, 3, 4, 6, ... N by the proxy, of N samples of P prompts, (P, N) each."""
    n = best_of_n.sizes(proxy.shape[1])
    chosen = [best_of_n.selection(proxy, k) for k in n]
    kl = np.stack([best_of_n.divergence(proxy, k) for k in n], -1)
    means = [np.stack([(chance * score).sum(-1) for chance in chosen], -1) for score in (proxy, gold)]
    return Path([float(k) for k in n], kl, *means)


def sweep_path(reference_logp: Array, proxy: Array, gold: Array, betas: Sequence[float]) -> Path:
    """pi_ref exp(proxy / beta) / Z for every beta, of P prompts with V completions each, (P, V).

    Exact where the V are all there are; of samples of pi_ref, each of log-probability -log V, an estimate.
    """
    policies = [sweep.tilted(reference_logp, proxy, beta) for beta in betas]
    kl = np.stack([p.kl for p in policies], -1)
    means = [np.stack([(p.probabilities * score).sum(-1) for p in policies], -1) for score in (proxy, gold)]
    return Path(list(betas), kl, *means)


def of_best_of_n(name: str, proxy: Array, gold: Array) -> Curve:
    """The curve of best of n, from the proxy's and the gold score of N samples of P prompts, (P, N)."""
    return _of_path(name, "best of n", best_of_n_path(proxy, gold), ())


def of_sweep(name: str, proxy: Array, gold: Array) -> Curve:
    """The curve of pi_ref exp(proxy / beta) / Z, estimated from N samples of pi_ref for P prompts, (P, N).

    It ends where the weights rest on too few samples, and says where that is.
    """
    uniform = np.full(proxy.shape, -np.log(proxy.shape[1]))
    betas = sweep.betas(proxy)
    kept = betas[:1] + [beta for beta in betas[1:] if _rests_on(uniform, proxy, beta) >= sweep.EFFECTIVE]
    warning = (
        f"{name}: {len(betas) - len(kept)} points, below beta = {kept[-1]:.3g}, are left out of the sweep, as fewer "
        f"than {sweep.EFFECTIVE:g} of {proxy.shape[1]} samples a prompt would count."
    )
    path = sweep_path(uniform, proxy, gold, kept)
    return _of_path(name, "sweep", path, (warning,) if len(kept) < len(betas) else ())


def _rests_on(reference_logp: Array, proxy: Array, beta: float) -> float:
    """The harmonic mean over prompts of the effective number of samples."""
    weights = sweep.tilted(reference_logp, proxy, beta).probabilities
    return float(1 / (1 / sweep.effective(weights)).mean())


def _of_path(name: str, source: Literal["best of n", "sweep"], path: Path, warnings: tuple[str, ...]) -> Curve:
    """The means over prompts with their intervals, and the fit.

    Both sources leave the start in a straight line, as d (a - b d) does and d (a - b log d) does not: near it the gain
    is the standard deviation of the reward times d sqrt(2).
    """
    distance = np.sqrt(np.maximum(path.kl.mean(0), 0))
    points: list[Point] = []
    for k, at in enumerate(path.at):
        point: Point = {"distance": float(distance[k]), "at": at if np.isfinite(at) else None}
        for which, scores in (("proxy", path.proxy), ("gold", path.gold)):
            interval = bootstrap_mean(scores[:, k])
            point |= {which: interval.estimate, f"{which}_low": interval.low, f"{which}_high": interval.high}
        points.append(point)
    fit = over_prompts(BEST_OF_N, path.kl, path.gold) if len(points) >= 3 else None
    return Curve(name, source, points, fit, (*warnings, *_said(name, source, fit, len(points))))


def of_training(name: str, metrics: Sequence[Mapping[str, float]], *, proxy: str, gold: str) -> Curve:
    """The curve of a training run, from the rows of its metrics.

    Args:
        name: of the curve.
        metrics: a row a step, with `kl` in nats a completion and the two columns; rows that lack one are passed by.
        proxy: the column of the reward that was optimized.
        gold: the column of the independent measure.

    Raises:
        InputError: no row has these columns.
    """
    rows = [row for row in metrics if {"kl", proxy, gold} <= row.keys()]
    if not rows:
        raise InputError(_lacking(name, metrics, ("kl", proxy, gold)))
    kl, proxies, golds = (np.array([row[c] for row in rows], dtype=np.float64) for c in ("kl", proxy, gold))
    distance = np.sqrt(np.maximum(kl, 0))
    fit = over_steps(RL, distance, golds) if len(rows) >= LEAST_STEPS and distance.max() > 0 else None
    points: list[Point] = [
        {
            "distance": float(np.sqrt(max(0.0, kl[part].mean()))),
            "at": float(np.mean([rows[i]["step"] for i in part])),
            "proxy": float(proxies[part].mean()),
            "gold": float(golds[part].mean()),
        }
        for part in np.array_split(np.arange(len(rows)), min(SHOWN, len(rows)))
    ]
    return Curve(name, "training", points, fit, _said(name, "training", fit, len(rows)))


def _said(name: str, source: str, fit: Fit | None, points: int) -> tuple[str, ...]:
    """Why a curve has no fit, or its fit no turn."""
    if fit is None:
        return (f"{name}: {points} points of its {source} curve are too few for a fit.",)
    if fit.turn is not None:
        return ()
    why = "" if fit.b.low > 0 else "; b's interval includes 0" if fit.b.high >= 0 else "; b is below 0"
    return (f"{name}: gold has not turned within d <= {fit.reach:.2f} by {source}{why}.",)


def _lacking(name: str, metrics: Sequence[Mapping[str, float]], wanted: Sequence[str]) -> str:
    there = sorted({column for row in metrics for column in row})
    absent = " and ".join(repr(column) for column in wanted if column not in there) or "a row with all of them"
    hint = "train with --watch, which writes the independent measure as 'watched', or name a column by --gold"
    if "kl" not in there:
        hint = "a run measures its divergence where its --kl-coefficient is above 0"
    return f"the metrics of {name} lack {absent}: {hint}; there are {', '.join(there) or 'no rows'}."
