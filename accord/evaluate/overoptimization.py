"""`accord evaluate overoptimization`: whether the true reward turns down while the optimized one rises, and where.

A curve has points (d, proxy, gold) with d = sqrt(KL) in root nats, and a fit of its gold scores by the form of Gao et
al. (`accord.evaluate.curves`). Training gives one curve over its steps; scored samples of the starting model give two
without training, best of n and the sweep.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from accord import engine
from accord.errors import InputError
from accord.evaluate import curves
from accord.evaluate.curves import BEST_OF_N, RL, over_prompts, over_steps
from accord.evaluate.options import ScoredOptions, checked_by, takes
from accord.evaluate.statistics import Floats, bootstrap_mean
from accord.outputs import require_folder
from accord.results.base import FILE
from accord.results.overoptimization import Curve, CurvePoint, Fit, OveroptimizationResult, Source

if TYPE_CHECKING:
    from accord.evaluate.pool import Pool

SCORED = "scored.jsonl"
"""The file of drawn samples beside the result."""

LEAST_STEPS, LEAST_POINTS = 8, 3
"""Minimum numbers of steps to fit a training curve, of its different distances, and of points to fit another curve."""

DRAWN = 256
"""Samples drawn of a prompt, unless --n says otherwise."""

SHOWN = 40
"""Points kept of a training curve, each a mean over neighboring steps; the fit uses every step."""


def _check(
    runs: Mapping[str, str] | None,
    samples: str | None,
    model: str | None,
    data: str | None,
    reward: str | None,
    judge: str | None,
    proxy: str,
    gold: str,
    n: int | None,
    limit: int | None,
    temperature: float,
) -> None:
    from accord.evaluate.pool import require_many

    if samples is not None and (model or data):
        raise InputError("--samples are drawn already: leave out --model and --data, or --samples.")
    if model is None and (n is not None or limit is not None):
        raise InputError("--n and --limit are for drawing samples: leave them out, or give --model and --data.")
    if samples is None:
        given = {"model": model, "data": data, "reward": reward, "judge": judge}
        absent = [f"--{name}" for name, value in given.items() if value is None]
        if runs is None and len(absent) == len(given):
            raise InputError(
                "there is nothing to trace: give --runs.NAME FOLDER, --samples FILE, or --model and --data."
            )
        if absent and any(given.values()):
            raise InputError(f"to draw samples give {' and '.join(absent)} too.")
        if not absent:
            require_many(DRAWN if n is None else n, temperature)
    if (reward or proxy) == (judge or gold):
        raise InputError(f"{judge or gold!r} is both the optimized reward and the independent measure; name another.")


@takes(ScoredOptions)
@checked_by(_check)
def evaluate_overoptimization(
    out: str,
    *,
    runs: dict[str, str] | None = None,
    samples: str | None = None,
    model: str | None = None,
    data: str | None = None,
    reward: str | None = None,
    judge: str | None = None,
    proxy: str = "reward",
    gold: str = "watched",
    n: int | None = None,
    **options: Any,
) -> OveroptimizationResult:
    """Trace proxy and gold reward against sqrt(KL), fit gold, and find where it turns down (Gao et al. 2022).

    From training runs, by their metrics; and from many samples of a model, scored by a reward, without training: the
    best of n for every n, and the sweep of pi_ref exp(reward / beta).

    Args:
        out: the folder to write evaluation.json to, and scored.jsonl with the samples.
        runs: folders of training runs by name, as --runs.ppo runs/ppo, whose metrics hold kl, proxy and gold.
        samples: a file with many samples per prompt, such as an earlier scored.jsonl, instead of --model and --data.
        model: a folder, Hub name or smollm2, to draw samples from.
        data: a file or Hub name of prompts to sample for, which no stage has seen.
        reward: the optimized reward, which scores the samples (default: the column --proxy of --samples).
        judge: the independent measure, such as a small world (cafe) or another reward (default: the column --gold of
            --samples).
        proxy: the column of metrics and of --samples with the optimized reward.
        gold: the column of metrics (as --watch writes it) and of --samples with the independent measure.
        n: samples per prompt (default: 256).
        options: the fields of `ScoredOptions`.

    Raises:
        InputError: there is nothing to trace, or the options do not fit each other or the data.
    """
    from accord.evaluate.pool import read_pool

    require_folder(out, runs, samples, model, data, options, leaves=(FILE, SCORED) if model else (FILE,))
    settings = ScoredOptions(**options)
    _check(runs, samples, model, data, reward, judge, proxy, gold, n, settings.limit, settings.temperature)
    traced = [of_training(name, _metrics(folder), proxy=proxy, gold=gold) for name, folder in (runs or {}).items()]
    pool = None
    if samples is not None:
        pool = read_pool(samples, settings, reward, judge, proxy, gold)
    elif model is not None and data is not None and reward is not None and judge is not None:
        pool = _sampled_pool(model, data, DRAWN if n is None else n, settings, reward, judge)
        pool.write(Path(out) / SCORED, proxy, gold)
    else:
        settings.allow([])
    if pool is not None:
        traced.append(_of_trace("best of n", "best of n", best_of_n_path(pool.proxy, pool.gold), ()))
        traced.append(of_sweep("sweep", pool.proxy, pool.gold))
    warnings = [line for curve in traced for line in curve.warnings]
    result = OveroptimizationResult(proxy=reward or proxy, gold=judge or gold, curves=traced, warnings=warnings)
    return result.publish(out)


def _sampled_pool(model: str, data: str, n: int, settings: ScoredOptions, reward: str, judge: str) -> Pool:
    from accord.evaluate.answers import encoded
    from accord.evaluate.pool import sample_pool

    rows = settings.prompts(data)
    policy = settings.templated(engine.load.load_model(model, dtype=settings.dtype))
    prompts = encoded(policy, rows, settings, settings.max_length)
    proxy, gold = settings.scorers(reward, judge, policy=policy.in_dtype("float32")).items()
    return sample_pool(policy, prompts, n, settings.sampling(), proxy, gold, settings)


def _metrics(folder: str) -> list[dict[str, Any]]:
    file = Path(folder) / "metrics.jsonl"
    if not file.is_file():
        raise InputError(f"{folder} is no training run's folder: there is no metrics.jsonl in it.")
    try:
        lines = file.read_text(encoding="utf-8").split("\n")[:-1]  # the last line may be torn by a kill
        return [dict(json.loads(line)) for line in lines]
    except (ValueError, TypeError, RecursionError):
        raise InputError(f"{file} does not hold one JSON object per line; restore it.") from None


class Trace(NamedTuple):
    """K points from the start (the first) on, for P prompts: n or beta (K,), and values (P, K) each."""

    at: list[float]
    kl: Floats
    proxy: Floats
    gold: Floats


def best_of_n_path(proxy: Floats, gold: Floats) -> Trace:
    """The best of 1, 2, 3, 4, 6, ... N by the proxy, from N samples of P prompts, (P, N) each."""
    n = curves.best_of_n_sizes(proxy.shape[1])
    chosen = [curves.best_of_n_selection(proxy, k) for k in n]
    kl = np.stack([curves.best_of_n_divergence(proxy, k) for k in n], -1)
    means = [np.stack([(chance * score).sum(-1) for chance in chosen], -1) for score in (proxy, gold)]
    return Trace([float(k) for k in n], kl, *means)


def sweep_path(reference_logp: Floats, proxy: Floats, gold: Floats, betas: Sequence[float]) -> Trace:
    """pi_ref exp(proxy / beta) / Z for every beta, for P prompts with V completions each, (P, V).

    Exact where the V completions are all there are; an estimate for samples of pi_ref with log-probability -log V each.
    """
    policies = [curves.tilted(reference_logp, proxy, beta) for beta in betas]
    kl = np.stack([p.kl for p in policies], -1)
    means = [np.stack([(p.probabilities * score).sum(-1) for p in policies], -1) for score in (proxy, gold)]
    return Trace(list(betas), kl, *means)


def of_sweep(name: str, proxy: Floats, gold: Floats) -> Curve:
    """The curve of pi_ref exp(proxy / beta) / Z, estimated from N samples of pi_ref for P prompts, (P, N).

    It ends where too few samples carry the weight, and a warning says where.
    """
    n, least = proxy.shape[1], curves.EFFECTIVE
    uniform = np.full(proxy.shape, -np.log(n))
    betas = curves.betas(proxy)
    kept = betas[:1] + [beta for beta in betas[1:] if _rests_on(uniform, proxy, beta) >= least]
    lost = len(betas) - len(kept)
    warning = ""
    if len(betas) == 1:
        warning = f"{name}: the samples of each prompt all have the same proxy, so there is nothing to optimize."
    elif n <= least:
        warning = (
            f"{name}: with {n} samples per prompt the sweep is its start alone, since any further point needs more "
            f"than {least:g}: draw more, such as --n 64."
        )
    elif lost:
        gone = "all points but the start" if len(kept) == 1 else f"{lost} points below beta = {kept[-1]:.3g}"
        warning = (
            f"{name}: {gone} are left out of the sweep, where fewer than {least:g} of {n} samples per prompt would "
            "carry the weight."
        )
    return _of_trace(name, "sweep", sweep_path(uniform, proxy, gold, kept), (warning,) if warning else ())


def _rests_on(reference_logp: Floats, proxy: Floats, beta: float) -> float:
    """The harmonic mean over prompts of the effective number of samples."""
    weights = curves.tilted(reference_logp, proxy, beta).probabilities
    return float(1 / (1 / curves.effective(weights)).mean())


def _of_trace(name: str, source: Source, trace: Trace, warnings: tuple[str, ...]) -> Curve:
    """Means over prompts with their intervals, and the fit.

    Both sources leave the start linearly, as d (a - b d) does and d (a - b log d) does not: near it the gain is the
    standard deviation of the reward times d sqrt(2).
    """
    distance = np.sqrt(np.maximum(trace.kl.mean(0), 0))
    points = []
    for at, d, *scores in zip(trace.at, distance.tolist(), trace.proxy.T, trace.gold.T, strict=True):
        proxy, gold = map(bootstrap_mean, scores)
        ends = {"proxy_low": proxy.low, "proxy_high": proxy.high, "gold_low": gold.low, "gold_high": gold.high}
        known = at if np.isfinite(at) else None
        points.append(CurvePoint(distance=d, at=known, proxy=proxy.estimate, gold=gold.estimate, **ends))
    fit = over_prompts(BEST_OF_N, trace.kl, trace.gold) if len(points) >= LEAST_POINTS else None
    lines = [*warnings, *_doubts(name, source, fit, f"{len(points)} of the {LEAST_POINTS} points")]
    return Curve(name=name, source=source, points=points, fit=fit, warnings=lines)


def of_training(name: str, metrics: Sequence[Mapping[str, float]], *, proxy: str, gold: str) -> Curve:
    """The curve of a training run, from its metrics: `kl` in nats per completion, and the two columns.

    Rows that lack one of the three are skipped. Raises InputError where no row has all.
    """
    rows = [row for row in metrics if {"kl", proxy, gold} <= row.keys()]
    if not rows:
        raise InputError(_lacking(name, metrics, ("kl", proxy, gold)))
    kl, proxies, golds = (np.array([row[c] for row in rows], dtype=np.float64) for c in ("kl", proxy, gold))
    distance = np.sqrt(np.maximum(kl, 0))
    apart = len(np.unique(distance))
    is_enough = len(rows) >= LEAST_STEPS and apart >= LEAST_POINTS  # for three coefficients
    fit = over_steps(RL, distance, golds) if is_enough else None
    points = [
        CurvePoint(
            distance=float(np.sqrt(max(0.0, kl[part].mean()))),
            at=float(np.mean([rows[i]["step"] for i in part])),
            proxy=float(proxies[part].mean()),
            gold=float(golds[part].mean()),
        )
        for part in np.array_split(np.arange(len(rows)), min(SHOWN, len(rows)))
    ]
    steps = f"{len(rows)} of the {LEAST_STEPS} steps"
    few = steps if len(rows) < LEAST_STEPS else f"{apart} of the {LEAST_POINTS} different distances"
    doubts = _doubts(name, "training", fit, few)
    return Curve(name=name, source="training", points=points, fit=fit, warnings=doubts)


def _doubts(name: str, source: str, fit: Fit | None, few: str) -> list[str]:
    if fit is None:
        return [f"{name}: its {source} curve has {few} that a fit needs."]
    if fit.turn is not None:
        return []
    why = "" if fit.b.low > 0 else "; b's interval includes 0" if fit.b.high >= 0 else "; b is below 0"
    return [f"{name}: gold does not turn down within d <= {fit.reach:.2f} by {source}{why}."]


def _lacking(name: str, metrics: Sequence[Mapping[str, float]], wanted: Sequence[str]) -> str:
    there = sorted({column for row in metrics for column in row})
    absent = " and ".join(repr(column) for column in wanted if column not in there) or "a row with all of them"
    hint = "train with --watch, which writes the independent measure as 'watched', or name a column by --gold"
    if "kl" not in there:
        hint = "a run measures its divergence where its --kl-coefficient is above 0"
    return f"the metrics of {name} lack {absent}: {hint}; there are {', '.join(there) or 'no rows'}."
