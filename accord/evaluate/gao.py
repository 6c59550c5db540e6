"""How the true reward rises and falls with the distance from the start: the curves of Gao et al. and where they turn.

With d = sqrt(KL(policy || start)), in root nats, the gold reward gained since d = 0 is close to

    best of n              R(d) = d (a - b d)          turns at d = a / 2b              at a height of a^2 / 4b
    reinforcement learning R(d) = d (a - b log d)      turns at d = exp(a / b - 1)      at a height of b d

(Gao, Schulman and Hilton 2022, arXiv:2210.10760, section 3.1). a and b enter linearly, so least squares finds them at
once; intervals are bootstrap percentiles, over prompts or over blocks of steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from accord.evaluate.statistics import Interval, as_json, bootstrap_values, percentile

Array: TypeAlias = NDArray[np.float64]

RESAMPLES = 1000


@dataclass(frozen=True, slots=True)
class Form:
    """R(d) = a d - b bend(d), with the place and the height of its peak as functions of a and b."""

    name: str
    bend: Callable[[Array], Array]
    turn: Callable[[Array, Array], Array]
    height: Callable[[Array, Array], Array]


def _d_log_d(distance: Array) -> Array:
    return distance * np.log(np.where(distance > 0, distance, 1.0))


def _rl_turn(a: Array, b: Array) -> Array:
    return np.exp(np.minimum(a / b - 1, 700.0))


BEST_OF_N = Form("best of n", np.square, lambda a, b: a / (2 * b), lambda a, b: a * a / (4 * b))
RL = Form("rl", _d_log_d, _rl_turn, lambda a, b: b * _rl_turn(a, b))


@dataclass(frozen=True, slots=True)
class Fit:
    """A fitted curve `start + d a - b bend(d)`.

    `turn` is the distance at which it peaks and `peak` the gain there; both are None where b's interval includes 0 or
    the peak does not lie within (0, `reach`], the distances that were measured.
    """

    form: str
    a: Interval
    b: Interval
    start: float
    turn: Interval | None
    peak: Interval | None
    r2: float
    reach: float

    def as_json(self) -> dict[str, Any]:
        """The fit as an object."""
        intervals = {"a": self.a, "b": self.b, "turn": self.turn, "peak": self.peak}
        found = {name: None if i is None else as_json(i) for name, i in intervals.items()}
        return {"form": self.form, **found, "start": self.start, "r2": self.r2, "reach": self.reach}


def coefficients(form: Form, distance: Array, score: Array, start: Array | None) -> Array:
    """Least squares, of many curves at once: (..., 3) of a, b and the score at d = 0.

    Args:
        form: the curve's form.
        distance: (..., K), of K points, 0 or more.
        score: (..., K), at these points.
        start: (...,), the score at d = 0 where it is known; None fits it too.
    """
    columns = [distance, -form.bend(distance)]
    if start is not None:
        found = np.linalg.pinv(np.stack(columns, -1)) @ (score - start[..., None])[..., None]
        return np.concatenate([found[..., 0], start[..., None]], -1)
    found = np.linalg.pinv(np.stack([*columns, np.ones_like(distance)], -1)) @ score[..., None]
    return np.asarray(found[..., 0])


def over_prompts(form: Form, kl: Array, score: Array, *, resamples: int = RESAMPLES, seed: int = 0) -> Fit:
    """The fit to means over prompts, with intervals by a bootstrap over the prompts.

    Args:
        form: the curve's form.
        kl: (P, K), the divergence of P prompts at K points, of which the first has d = 0.
        score: (P, K), the expected score there.
        resamples: how many fits the intervals are read from.
        seed: of the resampling.
    """
    prompts = len(kl)

    def means(weights: Array) -> tuple[Array, Array]:
        return np.sqrt(np.maximum(weights @ kl, 0) / prompts), weights @ score / prompts

    def fitted(weights: Array) -> Array:
        distance, gold = means(weights)
        return coefficients(form, distance, gold, gold[:, 0])

    (distance,), (gold,) = means(np.ones((1, prompts)))
    repeated = bootstrap_values(fitted, prompts, resamples=resamples, seed=seed)
    return _fit(form, fitted(np.ones((1, prompts)))[0], repeated, distance, gold, prompts)


def over_steps(form: Form, distance: Array, score: Array, *, resamples: int = RESAMPLES, seed: int = 0) -> Fit:
    """The fit to the steps of a training run, with intervals by a moving-block bootstrap.

    The score at d = 0 is fitted too: one step's samples know it too little. The residuals are resampled in blocks of
    about sqrt(T) neighboring steps, which depend on each other, and are added to the fitted curve (Künsch 1989; blocks
    that reach the end go on at the beginning, as in Politis and Romano 1992).

    Args:
        form: the curve's form.
        distance: (T,), of every step.
        score: (T,), of its samples.
        resamples: how many fits the intervals are read from.
        seed: of the resampling.
    """
    steps, block = len(distance), max(1, round(len(distance) ** 0.5))
    found = coefficients(form, distance, score, None)
    fitted = curve(form, found, distance)
    starts = np.random.default_rng(seed).integers(steps, size=(resamples, -(-steps // block)))
    places = (starts[..., None] + np.arange(block)).reshape(resamples, -1)[:, :steps] % steps
    residuals = score - fitted
    again = fitted + (residuals - residuals.mean())[places]
    repeated = coefficients(form, np.broadcast_to(distance, again.shape), again, None)
    return _fit(form, found, repeated, distance, score, steps)


def curve(form: Form, coefficients: Array, distance: Array) -> Array:
    """The score at distances (K,) by a, b and the score at 0, (3,)."""
    a, b, start = coefficients
    return np.asarray(start + a * distance - b * form.bend(distance))


def _fit(form: Form, found: Array, repeated: Array, distance: Array, score: Array, n: int) -> Fit:
    """The fit, from the coefficients of the data, (3,), and of B resamples of n observations, (B, 3)."""
    a, b = (percentile(float(found[i]), repeated[:, i], n) for i in (0, 1))
    reach, missed = float(distance.max()), score - curve(form, found, distance)
    spread = ((score - score.mean()) ** 2).sum()
    turn = peak = None
    if b.low > 0 and 0 < form.turn(found[0], found[1]) <= reach:
        bends = np.maximum(repeated[:, 1], np.finfo(np.float64).tiny)
        turn, peak = (
            percentile(float(place(found[0], found[1])), place(repeated[:, 0], bends), n)
            for place in (form.turn, form.height)
        )
    r2 = float(1 - (missed**2).sum() / spread) if spread else 0.0
    return Fit(form.name, a, b, float(found[2]), turn, peak, r2, reach)
