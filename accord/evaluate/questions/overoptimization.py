"""`accord evaluate overoptimization`: does the true reward turn over while the optimized one still rises, and where?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from accord.data import load_prompts
from accord.data.encoding import encode_prompts
from accord.engine.load import load_model
from accord.engine.sampling import Sampling
from accord.errors import InputError
from accord.evaluate.overoptimization import Curve, of_best_of_n, of_sweep, of_training
from accord.evaluate.questions.pool import Pool, drawn, read, require_many
from accord.evaluate.questions.shared import tell, write
from accord.files import require_folder
from accord.records import Prompt
from accord.train.run import read_metrics

SCORED = "scored.jsonl"
"""What is drawn is kept under this name beside the result."""


def overoptimization(
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
    max_new_tokens: int = 64,
    temperature: float = 1.0,
    max_length: int = 512,
    split: str = "train",
    limit: int | None = None,
    seed: int = 0,
    dtype: Literal["auto", "float32", "bfloat16"] = "auto",
) -> Path:
    """Trace proxy and gold reward against sqrt(KL), fit the gold one, and find where it turns over (Gao et al. 2022).

    From training runs, by their metrics; and from many samples of a model that a reward scores, without training: the
    best of n for every n, and the sweep of pi_ref exp(reward / beta).

    Args:
        out: the folder to write evaluation.json to, and scored.jsonl with the samples drawn.
        runs: folders of training runs by name, as --runs.ppo runs/ppo, whose metrics hold kl, proxy and gold.
        samples: a file of many samples a prompt, such as an earlier scored.jsonl, in place of --model and --data.
        model: a folder, Hub name or smollm2, to draw samples from.
        data: a file or Hub name of the prompts to draw them for, which no stage has seen.
        reward: the proxy that scores the samples; without it the column --proxy of --samples does.
        judge: the independent measure, as a small world (cafe) or another reward; without it the column --gold does.
        proxy: the column with the optimized reward, of metrics and of --samples.
        gold: the column with the independent measure, of metrics (as --watch writes it) and of --samples.
        n: samples drawn of each prompt; 256 unless given.
        max_new_tokens: samples are cut after so many tokens.
        temperature: divides the logits that samples are drawn from.
        max_length: prompts that leave no room for a sample within so many tokens are left out.
        split: which rows of --data, such as train, train[:100] or train[-100:].
        limit: only the first so many rows of --data.
        seed: one seed gives the same samples again.
        dtype: precision of the model's matrix products; auto is bfloat16 where the processor has it. Reward models
            compute in float32.

    Raises:
        InputError: there is nothing to trace, or the options do not fit each other or the data.
    """
    require_folder(out)
    given = {"model": model, "data": data, "reward": reward, "judge": judge}
    _check(runs, samples, given)
    if model is None and (n, limit) != (None, None):
        raise InputError("--n and --limit are for samples that are drawn; leave them out, or give --model and --data.")
    if (reward or proxy) == (judge or gold):
        raise InputError(f"{judge or gold!r} is both what is optimized and what is to watch it; name another measure.")
    curves = [of_training(name, _metrics(folder), proxy=proxy, gold=gold) for name, folder in (runs or {}).items()]
    pool = None
    if samples is not None:
        pool = read(samples, reward, judge, proxy, gold)
    elif model is not None and data is not None and reward is not None and judge is not None:
        sampling = Sampling(max_new_tokens, temperature, seed=seed)
        rows = load_prompts(data, split=split, limit=limit)
        pool = _drawn(model, rows, 256 if n is None else n, sampling, max_length, dtype, reward, judge)
        pool.write(Path(out) / SCORED, proxy, gold)
    curves += _untrained(pool)
    warnings = [line for curve in curves for line in curve.warnings]
    result = {
        "kind": "overoptimization",
        "proxy": reward or proxy,
        "gold": judge or gold,
        "curves": [curve.as_json() for curve in curves],
        "warnings": warnings,
    }
    Console().print(as_table(result))
    tell(warnings)
    return write(result, out)


def _drawn(
    model: str, rows: list[Prompt], n: int, sampling: Sampling, max_length: int, dtype: str, reward: str, judge: str
) -> Pool:
    """Samples of the model to the prompts for which there is room, scored by both."""
    require_many(n, sampling.temperature)
    policy = load_model(model)
    prompts, left_out = encode_prompts(
        policy.tokenizer, rows, room=sampling.max_new_tokens, context=policy.context, longest=max_length
    )
    tell(left_out)
    return drawn(policy, prompts, n, sampling, dtype, reward, judge)


def _check(runs: dict[str, str] | None, samples: str | None, given: Mapping[str, str | None]) -> None:
    """Raise InputError where the options leave nothing to trace, contradict each other, or would not be read."""
    if samples is not None and (given["model"] or given["data"]):
        raise InputError("--samples have been drawn; leave --model and --data out, or --samples.")
    if samples is not None:
        return
    absent = " and ".join(f"--{name}" for name, value in given.items() if value is None)
    if runs is None and len(absent.split(" and ")) == len(given):
        raise InputError("there is nothing to trace: give --runs.NAME FOLDER, --samples FILE, or --model and --data.")
    if absent and any(given.values()):
        raise InputError(f"to draw samples give {absent} too.")


def _metrics(folder: str) -> list[dict[str, Any]]:
    file = Path(folder) / "metrics.jsonl"
    if not file.exists():
        raise InputError(f"{folder} is no training run's folder: there is no metrics.jsonl in it.")
    try:
        return read_metrics(folder)
    except ValueError:
        raise InputError(f"{file} is not a JSON object a line; restore it.") from None


def _untrained(pool: Pool | None) -> list[Curve]:
    if pool is None:
        return []
    return [of_best_of_n("best of n", pool.proxy, pool.gold), of_sweep("sweep", pool.proxy, pool.gold)]


def as_table(result: dict[str, Any]) -> Table:
    """The fits for the terminal; the intervals of a and b are in evaluation.json."""
    grid = Table("curve", "a", "b", "turns at d", "gain", "r²", "reach", title=f"{result['gold']} against d")
    for column in grid.columns[1:]:
        column.no_wrap = True
    for curve in result["curves"]:
        fit = curve["fit"]
        found = [""] * 5 if fit is None else _shown(fit)
        grid.add_row(curve["name"], *found, f"{max(point['distance'] for point in curve['points']):.2f}")
    return grid


def _shown(fit: dict[str, Any]) -> list[str]:
    a, b = (f"{fit[name]['estimate']:.3f}" for name in ("a", "b"))
    if fit["turn"] is None:
        return [a, b, "not yet", "", f"{fit['r2']:.3f}"]
    turn = f"{fit['turn']['estimate']:.2f} [{fit['turn']['low']:.2f}, {fit['turn']['high']:.2f}]"
    return [a, b, turn, f"{fit['peak']['estimate']:.3f}", f"{fit['r2']:.3f}"]
