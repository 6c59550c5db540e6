"""`accord evaluate frontier`: what a method earns for the distance it goes, over its coefficients, and best of n.

A point on the frontier is a finished model: a judge's mean score against the divergence from the reference. A family is
one method over its coefficient. Best of n needs no training and is the line that training should beat: its divergence
from the model it draws from is log n - (n - 1) / n at most.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import yaml

from accord import engine, feedback, objectives
from accord.errors import InputError
from accord.evaluate.curves import best_of_n_divergence, best_of_n_selection, best_of_n_sizes
from accord.evaluate.statistics import FEW, Floats, bootstrap_mean
from accord.files import require_folder
from accord.records import EncodedPrompt, Prompt
from accord.results.base import called
from accord.results.frontier import BestOfNPoint, Family, FrontierPoint, FrontierResult

if TYPE_CHECKING:
    from accord.evaluate.answers import Answering
    from accord.feedback.reward import Reward

COEFFICIENTS = ("kl_coefficient", "beta", "tau")
"""What a run's config.yaml calls the coefficient of its method's divergence."""


def evaluate_frontier(
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
) -> FrontierResult:
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
    from accord.data.load import load_prompts
    from accord.evaluate.answers import Answering, require_many, sample_pool

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
    score = feedback.named.reward_named(judge)
    feedback.reward.check_prompts(score, [EncodedPrompt(row, (), i) for i, row in enumerate(rows)])
    sampling = engine.sampling.Sampling(max_new_tokens, temperature, seed=seed)
    origin = engine.load.load_model(reference, dtype=dtype)
    answering = Answering(sampling, dtype, origin, (score,))
    prompts = answering.prompts(origin, rows, max_length)
    kept = [prompt.prompt for prompt in prompts]
    measured = _families({called(reference): [reference]} | named, answering, kept, score)
    best: list[BestOfNPoint] = []
    if reward is not None:
        pool = sample_pool(origin, prompts, best_of_n, sampling, reward, judge)
        best = best_of_n_points(pool.proxy, pool.gold)
    few = f"{len(prompts)} prompts are few: the intervals mean little below {FEW}"
    result = FrontierResult(
        judge=judge,
        reference=reference,
        prompts=len(prompts),
        families=measured,
        best_of_n=best,
        warnings=[few] if len(prompts) < FEW else [],
    )
    return result.publish(out)


def _families(
    families: Mapping[str, Sequence[str]], answering: Answering, rows: Sequence[Prompt], score: Reward
) -> list[Family]:
    """Every family, its nearest model to the reference first; the reference is one of its own, at distance 0."""
    measured = []
    for name, folders in families.items():
        points = [_point(folder, answering, rows, score) for folder in folders]
        measured.append(Family(name=name, points=sorted(points, key=lambda point: point.kl.estimate)))
    return measured


def _point(folder: str, answering: Answering, rows: Sequence[Prompt], score: Reward) -> FrontierPoint:
    policy = answering.load(folder)
    answers = answering.measured(answering.answers(folder, policy, answering.prompts(policy, rows)), policy)
    assert answers.kl is not None and not isinstance(answers.kl, float)
    kl, scores = bootstrap_mean(answers.kl.tolist()), bootstrap_mean(score(answers.samples).tolist())
    return FrontierPoint(name=called(folder), coefficient=coefficient(folder), kl=kl, score=scores)


def coefficient(folder: str) -> float | None:
    """What a nat of divergence cost a model in training, by the config.yaml of its run; None where it has none."""
    try:
        settings = yaml.safe_load((Path(folder).parent / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError):
        return None
    values = [settings[name] for name in COEFFICIENTS if name in settings] if isinstance(settings, Mapping) else []
    return float(values[0]) if values and isinstance(values[0], int | float) else None


def best_of_n_points(proxy: Floats, score: Floats) -> list[BestOfNPoint]:
    """The best of 1, 2, 3, 4, 6, ... N by the proxy, from N samples of P prompts, (P, N) each.

    `kl` takes off the bound what ties among the samples take off it; `kl_bound` does not.
    """
    return [
        BestOfNPoint(
            n=n,
            kl_bound=objectives.selection.best_of_n_kl_bound(n),
            kl=bootstrap_mean(best_of_n_divergence(proxy, n)),
            score=bootstrap_mean((best_of_n_selection(proxy, n) * score).sum(-1)),
        )
        for n in best_of_n_sizes(proxy.shape[1])
    ]
