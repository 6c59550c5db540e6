"""`accord evaluate judge`: a judge measured before it is trusted, on comparisons that people judged.

**Position.** Asked in both orders, a judge says p = P(first wins) and q = P(second wins, standing first). Where what
stands first has b added to its log-odds, logit p = s + b and logit q = b - s, so that

    b = (logit p + logit q) / 2    and    s = (logit p - logit q) / 2,

of which s is the verdict of both orders (`accord.feedback.judge`): such a bias is removed exactly. b is the mean over
comparisons; how often whatever stands first wins says the same of judges whose verdicts are 0 or 1.

**Length.** People prefer longer answers too, so that a judge is compared with them: how often the longer answer wins
by either, and the slope d of a logistic regression of its verdicts, both orders together,

    P(judge prefers the first) = sigmoid(c y + d log2(l_1 / l_2))

with y = 1 where people preferred the first and -1 where they preferred the second, l the lengths in characters: given
what people say, twice the length adds d to the log-odds. It has no intercept, as neither answer is the first in both
orders.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy

from accord import feedback
from accord.console import status
from accord.errors import InputError
from accord.evaluate.accuracy import Trial, by_source
from accord.evaluate.options import RowOptions, takes
from accord.evaluate.probes import probe_position
from accord.evaluate.statistics import FEW, Floats, bootstrap, fit_logistic, mean, rate
from accord.feedback.options import JudgesOptions
from accord.outputs import require_folder
from accord.records import Comparison
from accord.results.base import FILE, Interval
from accord.results.comparisons import Part
from accord.results.judge import JudgeResult

if TYPE_CHECKING:
    from accord.data.judgments import Judgment
    from accord.feedback.judge import Judge, Orders

LENGTHS = 4
"""Parts of equal size by how much longer the preferred answer is."""


@dataclass(kw_only=True)
class JudgedOptions(JudgesOptions, RowOptions):
    """Which judgments of people are read, and what may be said of the judge."""


@takes(JudgedOptions)
def evaluate_judge(data: str, out: str, *, judge: str, seed: int | None = None, **options: Any) -> JudgeResult:
    """Measure a judge on comparisons that people judged: its agreement with them, its biases of position and length.

    A judge that might favor a position is asked in both orders. What a language model replies is kept in --journal, or
    in the folder: the same command goes on where it was ended.

    Args:
        data: a file or Hub name of people's judgments: preferences, rankings, or with --columns rows of a prompt, first
            and second (or completions, several separated by commas), label, and perhaps source.
        out: the folder to write evaluation.json to.
        judge: ai:MODEL or the YAML file of an AI judge, module:function, the folder of a reward or preference model, or
            any reward.
        seed: seed of the principles drawn (default: 0).
        options: the fields of `JudgedOptions`.

    Raises:
        InputError: the options do not fit the data, people preferred nothing, or the judge has no valid verdict.
    """
    require_folder(out, data, judge, options, leaves=(FILE,))
    asked = JudgedOptions(**options)
    judgments = asked.judgments(data)
    if all(j.label == 0.5 for j in judgments):
        raise InputError(f"{data} prefers no completion to another, so there is nothing to agree with.")
    given = asked.of_models(options) | ({} if seed is None else {"seed": seed})
    [named] = feedback.named.judges_named([judge], given, journal=str(Path(out) / "journal")).values()
    asked.allow([named])
    try:
        result = measured(judgments, named, judge)
    finally:
        for asker in feedback.asking.askers_in(named):
            for line in asker.outcome_lines():
                status(line)
    return result.model_copy(update={"data": data}).publish(out)


def measured(judgments: Sequence[Judgment], judge: Judge, name: str = "judge") -> JudgeResult:
    """What is measured of a judge, asked in both orders unless it cannot tell them apart.

    Raises InputError where it has no valid verdict on any pair that people did not tie.
    """
    pairs = [Comparison(j.prompt, j.first, j.second, j.columns) for j in judgments]
    orders = feedback.judge.BothOrders(judge).of_texts(pairs)
    chances = np.array([nan if (p := o.verdict.first_wins) is None else p for o in orders])
    valid, every = ~np.isnan(chances), Trial(judgments, chances - 0.5)
    trial = every.where(valid)
    agreement = trial.accuracy()
    if agreement is None:
        raise InputError(f"{name} has no valid verdict on any comparison that people did not tie.")
    invalid = rate((~valid).astype(np.float64), every.clusters)
    assert invalid is not None  # there are judgments
    position = probe_position(orders, every.clusters)
    result = JudgeResult(
        name=name,
        pairs=len(judgments),
        agreement=agreement,
        by_source=by_source(trial),
        by_length=by_gap(trial),
        ties=int((trial.lead == 0).sum()),
        labeled_ties=int((every.labels == 0.5).sum()),
        invalid=invalid,
        faults=dict(feedback.judge.faults(o.verdict for o in orders).most_common()),
        first_wins=position.preferred if position else None,
        order_bias=order_bias(orders, every.clusters),
        inconsistent=position.changed if position else None,
    ).model_copy(update=length_bias(trial.strict))
    return result.model_copy(update={"warnings": _warnings(result)})


def order_bias(orders: Sequence[Orders], clusters: np.ndarray) -> Interval | None:
    """The mean of b, where both orders have finite log-odds; None where none has. `clusters` (P,) are the pairs'."""
    both = [[o.forward.first_wins, o.swapped.first_wins if o.swapped else None] for o in orders]
    finite = np.array([all(p is not None and 0 < p < 1 for p in pair) for pair in both], dtype=bool)
    if not finite.any():
        return None
    odds = scipy.special.logit(np.array([pair for pair, known in zip(both, finite, strict=True) if known], dtype=float))
    return mean(odds.mean(1), clusters[finite])


def by_gap(trial: Trial, parts: int = LENGTHS) -> list[Part]:
    """The agreement by how many characters longer the preferred answer is, in parts of equal size."""
    strict = trial.strict
    gap = (strict.lengths[:, 0] - strict.lengths[:, 1]) * np.sign(strict.labels - 0.5)
    shares = [share for share in np.array_split(np.argsort(gap, kind="stable"), parts) if len(share)]
    labels = [f"{gap[share[0]]:+.0f} to {gap[share[-1]]:+.0f}" for share in shares]
    found = [(label, strict.where(share).accuracy()) for label, share in zip(labels, shares, strict=True)]
    return [Part(label=label, accuracy=accuracy) for label, accuracy in found if accuracy]


def length_bias(strict: Trial) -> dict[str, Interval | None]:
    """How often the longer answer wins by the judge and by people, of unequal ones, and the slope d; none for no pairs.

    The slope's intervals are by bootstrap over prompts; `fit_logistic` has a small penalty.
    """
    unequal = strict.where(strict.lengths[:, 0] != strict.lengths[:, 1])
    if not len(unequal.lead):
        return {}
    side = np.sign(unequal.lengths[:, 0] - unequal.lengths[:, 1])
    judge, people = (0.5 + 0.5 * side * np.sign(v) for v in (unequal.lead, unequal.labels - 0.5))
    ratio = np.log2(np.maximum(unequal.lengths, 1))
    design = np.stack([np.sign(unequal.labels - 0.5), ratio[:, 0] - ratio[:, 1]], 1)
    chance = unequal.lead + 0.5

    def slope(weights: Floats) -> Floats:
        return fit_logistic(design, weights * chance, weights)[:, 1]

    return {
        "longer": rate(judge, unequal.clusters),
        "people_longer": rate(people, unequal.clusters),
        "longer_more": mean(judge - people, unequal.clusters),
        "length_slope": bootstrap(slope, unequal.clusters),
    }


def _warnings(result: JudgeResult) -> list[str]:
    lines = []
    if result.agreement.n < FEW:
        lines.append(f"The agreement rests on {result.agreement.n} pairs: with fewer than {FEW} it says little.")
    if result.agreement.low <= 0.5:
        lines.append("The interval of the agreement holds a coin's: these comparisons do not tell the judge from one.")
    first, more = result.first_wins, result.longer_more
    if first and not first.low <= 0.5 <= first.high:
        lines.append(
            f"Whichever answer stands {'first' if first.estimate > 0.5 else 'second'} is favored. Both orders together "
            "take out what this adds to the log-odds; of verdicts without any, those that differ become ties."
        )
    if more and not more.low <= 0 <= more.high:
        than = "more" if more.estimate > 0 else "less"
        lines.append(f"It prefers the longer answer {than} often than people do.")
    if result.invalid.estimate:
        lines.append(f"{result.invalid:.1%} of the comparisons have no valid verdict, and are in no other number.")
    return lines
