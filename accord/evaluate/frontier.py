"""`accord evaluate frontier`: score against divergence of methods over their coefficients, and of best of n.

A point is a finished model: a judge's mean score against the divergence from the reference. A family is one method over
its coefficient. Best of n needs no training and is the baseline for training: its divergence from the model it samples
from is at most log n - (n - 1) / n.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accord import engine, feedback, objectives
from accord.errors import InputError
from accord.evaluate.curves import best_of_n_divergence, best_of_n_selection, best_of_n_sizes
from accord.evaluate.options import ScoredOptions, checked_by, takes
from accord.evaluate.statistics import FEW, Floats, bootstrap_mean
from accord.outputs import require_folder
from accord.parsing import read_yaml
from accord.records import EncodedPrompt, Prompt
from accord.results.base import FILE, called
from accord.results.frontier import BestOfNPoint, Family, FrontierPoint, FrontierResult

if TYPE_CHECKING:
    from accord.engine import Policy, Sampling
    from accord.evaluate.answers import Answering
    from accord.feedback.reward import Reward

COEFFICIENTS = ("kl_coefficient", "beta", "tau")
"""Names in config.yaml of a method's divergence coefficient."""


def _check(families: Mapping[str, str | list[str]], best_of_n: int, reward: str | None, temperature: float) -> None:
    from accord.evaluate.pool import require_many

    _named(families)
    if bool(best_of_n) != (reward is not None):
        raise InputError("--best-of-n and --reward go together: the number of answers, and the reward that chooses.")
    if best_of_n:
        require_many(best_of_n, temperature, "best-of-n")


@takes(ScoredOptions)
@checked_by(_check)
def evaluate_frontier(
    data: str,
    out: str,
    *,
    families: dict[str, str | list[str]],
    reference: str,
    judge: str,
    reward: str | None = None,
    best_of_n: int = 0,
    **options: Any,
) -> FrontierResult:
    """Measure score and divergence of finished models on held-out prompts, method by method over their coefficients.

    Args:
        data: a file or Hub name of held-out prompts, or of rows that have prompts.
        out: the folder to write evaluation.json to.
        families: models by method, as --families.dpo runs/dpo/model, or several as "[runs/ppo-.02/model,
            runs/ppo-.1/model]". A model's KL penalty is read from its run's config.yaml.
        reference: the model they all started from, from which divergence is measured.
        judge: what scores the answers: a small world (cafe), or any reward that none of them was trained on.
        reward: what --best-of-n chooses by: the reward the models were trained on.
        best_of_n: also score the best of 1, 2, 3, ... up to this many answers of the reference.
        options: the fields of `ScoredOptions`.

    Raises:
        InputError: the options do not fit each other or the data.
    """
    from accord.evaluate.answers import Answering, encoded

    require_folder(out, data, families, reference, options, leaves=(FILE,))
    settings = ScoredOptions(**options)
    _check(families, best_of_n, reward, settings.temperature)
    named = _named(families)
    rows = settings.prompts(data)
    scorers = settings.scorers(judge, *([reward] if reward else []))
    score = scorers[judge]
    feedback.reward.check_prompts(score, [EncodedPrompt(row, (), i) for i, row in enumerate(rows)])
    origin = settings.templated(engine.load.load_model(reference, dtype=settings.dtype))
    answering = Answering(settings, origin, (score,))
    prompts = encoded(origin, rows, settings, settings.max_length)
    kept, measured = [prompt.prompt for prompt in prompts], []
    for name, folders in ({called(reference): [reference]} | named).items():
        points = [_point(folder, answering, kept, score) for folder in folders]
        measured.append(Family(name=name, points=sorted(points, key=lambda point: point.kl.estimate)))
    best = []
    if reward:
        best = _best_of_n(origin, prompts, best_of_n, settings.sampling(), (reward, scorers[reward]), (judge, score))
    return FrontierResult(
        judge=judge,
        reference=reference,
        prompts=len(prompts),
        families=measured,
        best_of_n=best,
        warnings=_few(len(prompts)),
    ).publish(out)


def _few(prompts: int) -> list[str]:
    return [f"only {prompts} prompts: fewer than {FEW} make the intervals unreliable"] if prompts < FEW else []


def _named(families: Mapping[str, str | list[str]]) -> dict[str, list[str]]:
    named = {name: [value] if isinstance(value, str) else value for name, value in families.items()}
    empty = next((name for name, folders in named.items() if not folders), None)
    if empty is not None:
        raise InputError(f"--families.{empty} names no model; give one, or several in brackets.")
    return named


def _point(folder: str, answering: Answering, rows: Sequence[Prompt], score: Reward) -> FrontierPoint:
    from accord.evaluate.answers import encoded

    policy = answering.load(folder)
    prompts = encoded(policy, rows, answering.options)
    answers = answering.measured(answering.answers(folder, policy, prompts), policy)
    assert answers.kl is not None and not isinstance(answers.kl, float)
    kl, scores = bootstrap_mean(answers.kl.tolist()), bootstrap_mean(score(answers.samples).tolist())
    return FrontierPoint(name=called(folder), coefficient=coefficient(folder), kl=kl, score=scores)


def coefficient(folder: str) -> float | None:
    """A model's KL coefficient in training, from its run's config.yaml; None where there is none."""
    try:
        settings = read_yaml(Path(folder).parent / "config.yaml", "the settings")
    except InputError:
        return None
    values = [settings[name] for name in COEFFICIENTS if name in settings] if isinstance(settings, Mapping) else []
    return float(values[0]) if values and isinstance(values[0], int | float) else None


def _best_of_n(
    origin: Policy,
    prompts: Sequence[EncodedPrompt],
    n: int,
    sampling: Sampling,
    proxy: tuple[str, Reward],
    gold: tuple[str, Reward],
) -> list[BestOfNPoint]:
    from accord.evaluate.pool import sample_pool

    feedback.reward.listen(proxy[1], origin)
    pool = sample_pool(origin, prompts, n, sampling, proxy, gold)
    return best_of_n_points(pool.proxy, pool.gold)


def best_of_n_points(proxy: Floats, score: Floats) -> list[BestOfNPoint]:
    """The best of 1, 2, 3, 4, 6, ... N by the proxy, from N samples of P prompts, (P, N) each.

    `kl` subtracts the effect of ties among the samples from the bound `kl_bound`.
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
