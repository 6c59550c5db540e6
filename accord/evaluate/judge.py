"""`accord evaluate judge`: a judge evaluated on comparisons that people judged, before it is relied on.

**Position.** Asked in both orders, a judge says p = P(first wins) and q = P(second wins, shown first). If being shown
first adds b to the log-odds, logit p = s + b and logit q = b - s, so

    b = (logit p + logit q) / 2    and    s = (logit p - logit q) / 2,

where s is the verdict over both orders (`accord.feedback.judge`): such a bias cancels exactly. b is averaged over
comparisons; for judges whose verdicts are 0 or 1, how often the answer shown first wins measures the same.

**Length.** People prefer longer answers too, so the judge is compared with them: how often the longer answer wins by
either, and the slope d of a logistic regression of its verdicts over both orders,

    P(judge prefers the first) = sigmoid(c y + d log2(l_1 / l_2))

with y = 1 where people preferred the first, -1 where they preferred the second, and lengths l in characters: given
people's preference, doubling the length adds d to the log-odds. There is no intercept, since both orders enter.
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
from accord.evaluate.accuracy import Predictions, by_source
from accord.evaluate.options import RowOptions, takes
from accord.evaluate.probes import probe_position
from accord.evaluate.statistics import FEW, Floats, bootstrap, fit_logistic, mean, rate
from accord.feedback.options import JudgesOptions
from accord.outputs import require_folder
from accord.records import Comparison
from accord.results.base import FILE
from accord.results.comparisons import Part
from accord.results.intervals import Interval
from accord.results.judge import JudgeResult

if TYPE_CHECKING:
    from accord.data.judgments import Judgment
    from accord.feedback.judge import Judge, Orders

LENGTHS = 4
"""Number of equal parts by difference in length."""


@dataclass(kw_only=True)
class JudgedOptions(JudgesOptions, RowOptions):
    """Which human judgments are read, and options of the judge."""

    def __post_init__(self) -> None:
        JudgesOptions.__post_init__(self)
        RowOptions.__post_init__(self)


@takes(JudgedOptions)
def evaluate_judge(data: str, out: str, *, judge: str, seed: int | None = None, **options: Any) -> JudgeResult:
    """Measure a judge on comparisons that people judged: its agreement with them, its biases of position and length.

    A judge that might favor a position is asked in both orders. Replies of a language model are kept in --journal, or
    in the folder, so the same command resumes where it stopped.

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
    settings = JudgedOptions(**options)
    judgments = settings.judgments(data)
    if all(j.label == 0.5 for j in judgments):
        raise InputError(f"{data} has only ties, so there is nothing to agree with.")
    model_options = settings.of_models(options) | ({} if seed is None else {"seed": seed})
    [named] = feedback.named.judges_named([judge], model_options, journal=str(Path(out) / "journal")).values()
    settings.allow([named])
    try:
        result = measured(judgments, named, judge)
    finally:
        for asker in feedback.asking.askers_in(named):
            for line in asker.outcome_lines():
                status(line)
    begun = [day for asker in feedback.asking.askers_in(named) if (day := getattr(asker.model, "begun", None))]
    dated = {"date": begun[0].isoformat()} if begun else {}  # of the journal, on which all chats go on being dated
    return result.model_copy(update={"data": data, **dated}).publish(out)


def measured(judgments: Sequence[Judgment], judge: Judge, name: str = "judge") -> JudgeResult:
    """All measures of a judge, asked in both orders unless it cannot distinguish them.

    Raises InputError where it has no valid verdict on any pair that people did not tie.
    """
    pairs = [Comparison(j.prompt, j.first, j.second, j.columns) for j in judgments]
    orders = feedback.judge.BothOrders(judge).of_texts(pairs)
    chances = np.array([nan if (p := o.verdict.first_wins) is None else p for o in orders])
    valid, every = ~np.isnan(chances), Predictions(judgments, chances - 0.5)
    predictions = every.where(valid)
    agreement = predictions.accuracy()
    if agreement is None:
        raise InputError(f"{name} has no valid verdict on any comparison that people did not tie.")
    invalid = rate((~valid).astype(np.float64), every.clusters)
    assert invalid is not None  # judgments exist
    position = probe_position(orders, every.clusters)
    result = JudgeResult(
        name=name,
        pairs=len(judgments),
        agreement=agreement,
        by_source=by_source(predictions),
        by_length=by_gap(predictions),
        ties=int((predictions.lead == 0).sum()),
        labeled_ties=int((every.labels == 0.5).sum()),
        invalid=invalid,
        faults=dict(feedback.judge.faults(o.verdict for o in orders).most_common()),
        first_wins=position.preferred if position else None,
        order_bias=order_bias(orders, every.clusters),
        inconsistent=position.changed if position else None,
    ).model_copy(update=length_bias(predictions.strict))
    return result.model_copy(update={"warnings": _warnings(result)})


def order_bias(orders: Sequence[Orders], clusters: np.ndarray) -> Interval | None:
    """The mean of b over pairs with finite log-odds in both orders, clustered by `clusters` (P,); None without any."""
    both = [[o.forward.first_wins, o.swapped.first_wins if o.swapped else None] for o in orders]
    finite = np.array([all(p is not None and 0 < p < 1 for p in pair) for pair in both], dtype=bool)
    if not finite.any():
        return None
    odds = scipy.special.logit(np.array([pair for pair, known in zip(both, finite, strict=True) if known], dtype=float))
    return mean(odds.mean(1), clusters[finite])


def by_gap(predictions: Predictions, parts: int = LENGTHS) -> list[Part]:
    """Agreement by how many characters longer the preferred answer is, in parts of equal size."""
    strict = predictions.strict
    gap = (strict.lengths[:, 0] - strict.lengths[:, 1]) * np.sign(strict.labels - 0.5)
    shares = [share for share in np.array_split(np.argsort(gap, kind="stable"), parts) if len(share)]
    labels = [f"{gap[share[0]]:+.0f} to {gap[share[-1]]:+.0f}" for share in shares]
    rates = [(label, strict.where(share).accuracy()) for label, share in zip(labels, shares, strict=True)]
    return [Part(label=label, accuracy=accuracy) for label, accuracy in rates if accuracy]


def length_bias(strict: Predictions) -> dict[str, Interval | None]:
    """How often the longer answer wins by judge and by people, and the slope d; empty if all lengths are equal.

    The slope's interval is by bootstrap over prompts; `fit_logistic` has a small penalty.
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
        lines.append(f"The agreement rests on {result.agreement.n} pairs: fewer than {FEW} make it unreliable.")
    if result.agreement.low <= 0.5:
        lines.append("The interval of the agreement includes 1/2: the judge may be no better than chance.")
    first, more = result.first_wins, result.longer_more
    if first and not first.low <= 0.5 <= first.high:
        lines.append(
            f"The judge favors the answer shown {'first' if first.estimate > 0.5 else 'second'}. Asking in both orders "
            "cancels a constant bias of the log-odds; of verdicts without probabilities, those that differ become ties."
        )
    if more and not more.low <= 0 <= more.high:
        than = "more" if more.estimate > 0 else "less"
        lines.append(f"The judge prefers the longer answer {than} often than people do.")
    if result.invalid.estimate:
        lines.append(f"{result.invalid:.1%} of the comparisons have no valid verdict, and no other number has them.")
    return lines
