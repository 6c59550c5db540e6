"""`accord evaluate frontier`: what methods earn for the distance they go, over their coefficients, beside best of n."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from rich.console import Console
from rich.table import Table

from accord.console import called
from accord.data import load_prompts
from accord.engine.load import load_model
from accord.engine.precision import compute_dtype
from accord.engine.sampling import Sampling
from accord.errors import InputError
from accord.evaluate.frontier import Point, best_of_n_points, family, warnings
from accord.evaluate.questions.entrants import Answering
from accord.evaluate.questions.pool import drawn, require_many
from accord.evaluate.questions.shared import tell, write
from accord.evaluate.statistics import bootstrap_mean
from accord.feedback.named import reward_named
from accord.feedback.reward import Reward, check_prompts
from accord.files import require_folder
from accord.records import EncodedPrompt, Prompt

COEFFICIENTS = ("kl_coefficient", "beta", "tau")
"""What a method's price of divergence is called in its run's config.yaml."""


def frontier(
    data: str,
    out: str,
    *,
    families: dict[str, str | list[str]],
    reference: str,
    judge: str,
    reward: str | None = None,
    best_of_n: int = 0,
    max_new_tokens: int = 64,
    temperature: float = 1.0,
    max_length: int = 512,
    split: str = "train",
    limit: int | None = None,
    seed: int = 0,
    dtype: Literal["auto", "float32", "bfloat16"] = "auto",
) -> Path:
    """Measure score and divergence of finished models on held-out prompts, method by method over their coefficients.

    Args:
        data: a file or Hub name of held-out prompts, or of rows that have prompts.
        out: the folder to write evaluation.json to.
        families: models by method, as --families.dpo runs/dpo/model, or several as "[runs/ppo-.02/model,
            runs/ppo-.1/model]"; what a nat of divergence cost a model is read from its run's config.yaml.
        reference: the model that divergence is measured from, which they all began as.
        judge: what scores the answers: a small world (cafe), or anything that can be a reward, trained on by none.
        reward: what --best-of-n chooses by, as the models' training did.
        best_of_n: also the best of 1, 2, 3, ... so many answers of the reference.
        max_new_tokens: answers are cut after so many tokens.
        temperature: divides the logits that answers are drawn from.
        max_length: rows whose prompts leave no room for an answer within so many tokens are left out.
        split: which rows, such as train, train[:100] or train[-100:].
        limit: only the first so many rows.
        seed: one seed gives the same answers again.
        dtype: precision of the models' matrix products; auto is bfloat16 where the processor has it. Reward models
            compute in float32.

    Raises:
        InputError: the options do not fit each other or the data.
    """
    require_folder(out)
    named = {name: [given] if isinstance(given, str) else given for name, given in families.items()}
    empty = [name for name, folders in named.items() if not folders]
    if empty:
        raise InputError(f"--families.{empty[0]} names no model; give one, or several in brackets.")
    if bool(best_of_n) != (reward is not None):
        raise InputError("--best-of-n and --reward go together: how many are drawn, and what the best is chosen by.")
    if best_of_n:
        require_many(best_of_n, temperature, "best-of-n")
    rows = load_prompts(data, split=split, limit=limit)
    score = reward_named(judge)
    check_prompts(score, [EncodedPrompt(row, (), i) for i, row in enumerate(rows)])
    sampling = Sampling(max_new_tokens, temperature, seed=seed)
    origin = load_model(reference)
    answering = Answering(sampling, compute_dtype(dtype), origin, (score,), 0)
    prompts = answering.prompts(origin, rows, max_length)
    kept = [prompt.prompt for prompt in prompts]
    result: dict[str, Any] = {
        "kind": "frontier",
        "judge": judge,
        "reference": reference,
        "prompts": len(prompts),
        "families": _families({called(reference): [reference]} | named, answering, kept, score),
        "best_of_n": [],
        "warnings": warnings(len(prompts)),
    }
    if reward is not None:
        pool = drawn(origin, prompts, best_of_n, sampling, dtype, reward, judge)
        result["best_of_n"] = best_of_n_points(pool.proxy, pool.gold)
    Console().print(as_table(result))
    tell(result["warnings"])
    return write(result, out)


def _families(
    families: Mapping[str, Sequence[str]], answering: Answering, rows: Sequence[Prompt], score: Reward
) -> list[dict[str, Any]]:
    """The points of every family; the reference is a family of its own, at distance 0."""
    found = []
    for name, folders in families.items():
        points = [_point(folder, answering, rows, score) for folder in folders]
        found.append({"name": name, "points": [point.as_json() for point in family(points)]})
    return found


def _point(folder: str, answering: Answering, rows: Sequence[Prompt], score: Reward) -> Point:
    policy = answering.prefill(folder)
    answers = answering.measured(answering.answers(folder, policy, answering.prompts(policy, rows, None)), policy)
    assert answers.kl is not None and not isinstance(answers.kl, float)
    kl, scores = bootstrap_mean(answers.kl.tolist()), bootstrap_mean(score(answers.samples).tolist())
    return Point(called(folder), coefficient(folder), kl, scores)


def coefficient(folder: str) -> float | None:
    """The price of divergence that a model was trained with, by the config.yaml beside it; None where it has none."""
    try:
        settings = yaml.safe_load((Path(folder).parent / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError):
        return None
    found = [settings[name] for name in COEFFICIENTS if name in settings] if isinstance(settings, Mapping) else []
    return float(found[0]) if found and isinstance(found[0], int | float) else None


def as_table(result: dict[str, Any]) -> Table:
    """The points for the terminal."""
    grid = Table(
        "method",
        "coefficient",
        "d",
        "KL",
        "score",
        title=f"score by {result['judge']}, divergence from {result['reference']}",
    )
    for line in result["families"]:
        for p in line["points"]:
            price = "" if p["coefficient"] is None else f"{p['coefficient']:g}"
            distance = max(p["kl"]["estimate"], 0.0) ** 0.5
            grid.add_row(line["name"], price, f"{distance:.2f}", _shown(p["kl"]), _shown(p["score"]))
    for p in result["best_of_n"]:
        kl = p["kl"]["estimate"]
        grid.add_row(f"best of {p['n']}", "", f"{kl**0.5:.2f}", f"{kl:.2f} <= {p['kl_bound']:.2f}", _shown(p["score"]))
    return grid


def _shown(interval: dict[str, float]) -> str:
    return f"{interval['estimate']:.3f} [{interval['low']:.3f}, {interval['high']:.3f}]"
