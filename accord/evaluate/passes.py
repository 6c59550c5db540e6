"""`accord evaluate passes`: correctness of models' samples: pass@k and the majority answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import comb
from typing import Any, TypeVar

from accord import engine, feedback
from accord.errors import InputError
from accord.evaluate.options import AnswerOptions, checked_by, takes
from accord.evaluate.statistics import mean_of
from accord.feedback.options import RewardOptions
from accord.outputs import require_folder
from accord.records import Prompt
from accord.results.base import FILE
from accord.results.intervals import Interval
from accord.results.passes import PassesResult, PassRow

T = TypeVar("T")


@dataclass(kw_only=True)
class LongAnswerOptions(RewardOptions, AnswerOptions):
    """Options for models that reason before they answer."""

    max_new_tokens: int = 256

    def __post_init__(self) -> None:
        RewardOptions.__post_init__(self)
        AnswerOptions.__post_init__(self)


def _check(model: str | None, models: Mapping[str, str] | None, n: int, temperature: float) -> None:
    if (model is None) == (models is None):
        raise InputError("`accord evaluate passes` needs --model, or several by --models.NAME, and not both.")
    if n < 1:
        raise InputError(f"--n must be at least 1, not {n}.")
    if n > 1 and temperature == 0:
        raise InputError("--temperature 0 gives the same sample every time: use --n 1.")


@takes(LongAnswerOptions)
@checked_by(_check)
def evaluate_passes(
    data: str,
    out: str,
    verifier: str,
    *,
    model: str | None = None,
    models: dict[str, str] | None = None,
    n: int = 8,
    **options: Any,
) -> PassesResult:
    """Measure how often models answer prompts correctly, by a verifier.

    pass@k is the probability that at least one of k samples is correct, estimated without bias from all n; majority@n
    is how often the most frequent answer among n samples is correct, several that lead sharing the credit. Each is a
    mean over prompts with a 95% interval.

    Args:
        data: a file, Hub name or reasoning-gym:NAME whose rows have prompts and answers.
        out: the folder to write evaluation.json to.
        verifier: what checks answers: exact, number, math, regex:PATTERN, reasoning-gym or constraints, each with
            @COLUMN where the right answer is in another column than `answer`; or any reward, where 1 or more is right.
        model: a folder, a Hugging Face Hub name, or smollm2.
        models: several models by name, as --models.before base --models.after runs/star/model, or a mapping in YAML.
        n: samples per prompt.
        options: the fields of `LongAnswerOptions`.

    Raises:
        InputError: no model is given, or a row lacks what the verifier reads.
    """
    require_folder(out, data, model, models, options, leaves=(FILE,))
    settings = LongAnswerOptions(**options)
    _check(model, models, n, settings.temperature)
    rows = settings.prompts(data)
    named = models or {str(model): str(model)}
    measured = [_measured(name, source, rows, verifier, n, settings) for name, source in named.items()]
    result = PassesResult(
        data=data,
        verifier=verifier,
        prompts=len(rows),
        samples=n,
        sampling=settings.drawing(),
        models=measured,
    )
    return result.publish(out)


def _measured(
    name: str, source: str, rows: list[Prompt], verifier: str, n: int, settings: LongAnswerOptions
) -> PassRow:
    from accord.evaluate.answers import Answers, encoded, sampled

    policy = settings.templated(engine.load.load_model(source, dtype=settings.dtype))
    prompts = encoded(policy, rows, settings)
    reward = feedback.named.reward_named(verifier, policy)
    settings.allow([reward])
    feedback.reward.check_prompts(reward, prompts)
    answers = Answers(name, sampled(policy, prompts, n, settings.sampling(), by=settings))
    right = _groups([score >= 1 for score in reward(answers.samples).tolist()], n)
    answers_of = None
    if isinstance(reward, feedback.verifiers.Verifier):
        answers_of = _groups([reward.answer(sample.text) for sample in answers.samples], n)
    return PassRow(
        name=name,
        model=source,
        passes=passes(right),
        majority=majority(answers_of, right) if answers_of else None,
        length=answers.length,
        ended=answers.ended,
    )


def _groups(values: list[T], n: int) -> list[list[T]]:
    return [values[i : i + n] for i in range(0, len(values), n)]


def pass_at_k(n: int, right: int, k: int) -> float:
    """The unbiased estimate of pass@k from n samples, `right` of them correct.

    1 - C(n - right, k) / C(n, k) (Chen et al. 2021, arXiv:2107.03374, equation 1)

    Raises ValueError where more are correct than there are samples, or k is not between 1 and n.
    """
    if not 0 <= right <= n or not 1 <= k <= n:
        raise ValueError(f"pass@{k} of {right} right samples among {n} has no meaning")
    return 1 - comb(n - right, k) / comb(n, k)


def majority_is_right(answers: Sequence[str | None], right: Sequence[bool]) -> float:
    """Whether the most frequent answer to one prompt is correct, 1 or 0; if several lead, the share of them that are.

    That share is the probability that a random leader is correct. An answer is None where a sample has none; 0 if all
    are.
    """
    verdict = dict(zip(answers, right, strict=True))
    ahead, _ = feedback.verifiers.leaders(answers)
    return sum(verdict[answer] for answer in ahead) / max(1, len(ahead))


def passes(right: Sequence[Sequence[bool]]) -> dict[int, Interval]:
    """pass@k over prompts, for k = 1, 2, 4, ... and n; `right` says which of each prompt's n samples are correct."""
    n = len(right[0])
    ks = sorted({n, *(2**i for i in range(n.bit_length()))})
    return {k: mean_of([pass_at_k(n, sum(row), k) for row in right]) for k in ks if k <= n}


def majority(answers: Sequence[Sequence[str | None]], right: Sequence[Sequence[bool]]) -> Interval:
    """How often the majority answer is correct, over prompts; see `majority_is_right`."""
    return mean_of([majority_is_right(a, r) for a, r in zip(answers, right, strict=True)])
