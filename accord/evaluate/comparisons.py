"""`accord evaluate comparisons`: a reward or preference model, a judge or a policy evaluated on held-out judgments."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import comb, inf, sqrt
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from accord import feedback
from accord.errors import InputError
from accord.evaluate.accuracy import (
    Predictions,
    by_length,
    by_margin,
    by_source,
    length_correlation,
    nearer_on_ties,
)
from accord.evaluate.calibration import calibration
from accord.evaluate.leads import ChatLeads, Leads, TestedModel, tested_policy, tested_reward
from accord.evaluate.options import ComparisonOptions, checked_by, takes
from accord.evaluate.probes import probe, probe_position
from accord.evaluate.statistics import FEW, Floats, bootstrap_mean, mean
from accord.evaluate.users import by_user
from accord.outputs import require_folder
from accord.records import Comparison, Text, Verdict
from accord.results.base import FILE
from accord.results.comparisons import ComparisonsResult, OnTies, RankingAgreement

if TYPE_CHECKING:
    from accord.data.judgments import Judgment


def _check(
    reward: str | None,
    policy: str | None,
    probes: int,
    beta: float | None,
    ceiling: float | None,
    form: str | None,
    columns: Mapping[str, str] | None,
) -> None:
    if probes < 0 or not (beta is None or 0 < beta < inf):
        raise InputError(f"--probes must be 0 or more and --beta above 0, not {probes} and {beta}.")
    if not (ceiling is None or 0.5 <= ceiling <= 1):
        raise InputError(f"--ceiling is an accuracy, from .5 to 1, not {ceiling}.")
    if (reward is None) == (policy is None):
        raise InputError(
            "give --reward, or --policy with --reference, to evaluate it, or --models and --judge to compare models' "
            "answers."
        )
    if form is not None and not columns:
        raise InputError("--form is for texts in --columns; rows in the usual columns need none: leave it out.")


@takes(ComparisonOptions)
@checked_by(_check)
def evaluate_comparisons(
    data: str,
    out: str,
    *,
    reward: str | None = None,
    policy: str | None = None,
    reference: str | None = None,
    beta: float | None = None,
    form: Literal["chat", "plain"] | None = None,
    probes: int = 200,
    max_length: int = 512,
    seed: int = 0,
    dtype: Literal["auto", "float32", "bfloat16"] = "auto",
    name: str | None = None,
    ceiling: float | None = None,
    **options: Any,
) -> ComparisonsResult:
    """Evaluate a reward or preference model, a judge, or a policy's implicit reward on held-out judgments.

    Measures how often it agrees with them, on which pairs, how well calibrated it is, and what can fool it. A policy's
    implicit reward is log pi - log ref.

    Args:
        data: a file or Hub name of held-out judgments: preferences, rankings, or with --columns rows of a prompt, first
            and second (or completions, several separated by commas), label, and perhaps source and annotator.
        out: the folder to write evaluation.json to.
        reward: the folder of a reward or preference model, or anything else that scores or judges: cafe,
            module:function, a URL, a formula, ai:MODEL.
        policy: the folder or name of a policy whose implicit reward is measured.
        reference: the folder or name of its reference; without one, log pi alone is measured.
        beta: the factor that turns scores into log-odds, like DPO's beta; without it, an implicit reward, or anything
            but a reward model, has no probabilities and so no calibration.
        form: how texts in --columns are read: chat, by the chat template of the model under test (the default where it
            has one), or plain.
        probes: how many answers of the data to alter to see what can fool the model; 0 for none.
        max_length: tokens of prompt and completion together. Longer completions are cut, rows with longer prompts left
            out.
        seed: seed that decides which answers are altered.
        dtype: precision of matrix products; auto is bfloat16 where the processor supports it.
        name: the name of the model under test in the report.
        ceiling: the highest accuracy that noise in the judgments allows, where it is known.
        options: the fields of `ComparisonOptions`.

    Raises:
        InputError: the options do not fit the data.
    """
    require_folder(out, data, reward, policy, reference, options, leaves=(FILE,))
    settings = ComparisonOptions(**options)
    _check(reward, policy, probes, beta, ceiling, form, settings.columns)
    judgments = settings.judgments(data)
    if all(j.label == 0.5 for j in judgments):
        raise InputError(f"{data} has only ties, so there is nothing to agree with.")
    how = (settings, beta, max_length, dtype)
    tested = tested_reward(reward, *how) if reward is not None else tested_policy(str(policy), reference, *how)
    tested = _reading(tested, form, settings, str(reward or policy))
    result = measured(judgments, tested, probes=probes, seed=seed)
    return result.model_copy(update={"name": name or tested.kind, "data": data, "ceiling": ceiling}).publish(out)


def _reading(tested: TestedModel, form: str | None, settings: ComparisonOptions, name: str) -> TestedModel:
    """The model under test, reading texts in --columns in that form."""
    if form == "chat" and not tested.has_template:
        raise InputError(f"--form chat needs a chat template, and {name} has none; --chat-template gives one.")
    if settings.columns and tested.has_template and form != "plain":
        return replace(tested, leader=ChatLeads(tested.leader))
    return tested


def measured(
    judgments: Sequence[Judgment], tested: TestedModel, *, probes: int = 0, seed: int = 0
) -> ComparisonsResult:
    """All measures of the model under test; `probes` answers are altered, drawn by the seed.

    Raises InputError where there is no verdict on any pair that people did not tie.
    """
    leads = tested.leader([Comparison(j.prompt, j.first, j.second, j.columns) for j in judgments])
    valid = ~np.isnan(leads.lead)
    predictions = Predictions(judgments, leads.lead).where(valid)
    accuracy = predictions.accuracy()
    if accuracy is None:
        raise InputError(f"the {tested.kind} gave no verdict on any pair that people did not tie.")
    chance = tested.chance(predictions.lead)
    probed = probe(judgments, tested.leader, most=probes, seed=seed) if probes else []
    if leads.orders:
        position = probe_position([o for o, v in zip(leads.orders, valid, strict=True) if v], predictions.clusters)
        probed += [position] if position else []
    invalid = int((leads.read & ~valid).sum())
    return ComparisonsResult(
        name=tested.kind,
        unit=tested.unit,
        rows=len({j.row for j in judgments}),
        accuracy=accuracy,
        ties=int((predictions.strict.lead == 0).sum()),
        invalid=invalid,
        left_out=int((~leads.read).sum()),
        labeled_ties=int((predictions.labels == 0.5).sum()),
        on_ties=_on_ties(predictions, chance),
        by_margin=by_margin(predictions),
        by_length=by_length(predictions),
        by_source=by_source(predictions),
        users=by_user(predictions),
        length_correlation=length_correlation(predictions),
        calibration=calibration(predictions, chance) if chance is not None else None,
        ranking=ranking_agreement(predictions),
        probes=probed,
        warnings=_warnings(predictions, leads, invalid),
    )


def _warnings(predictions: Predictions, leads: Leads, invalid: int) -> list[str]:
    lines = []
    pairs, clusters = len(predictions.strict.lead), len(np.unique(predictions.strict.clusters))
    if clusters < FEW:
        what = f"{pairs} pairs" if pairs == clusters else f"{pairs} pairs of {clusters} prompts"
        lines.append(f"The interval of the accuracy rests on {what}: fewer than {FEW} make it unreliable.")
    if (predictions.weights != 1).any():
        lines.append("The accuracy is weighted by sampling_weight; all other numbers are of the rows as drawn.")
    if invalid:
        lines.append(f"{invalid} of {len(leads.lead)} pairs have no valid verdict and are left out of other numbers.")
    unread = np.flatnonzero(~leads.read)
    if len(unread):
        first = ", ".join(str(i + 1) for i in unread[:5]) + (" ..." if len(unread) > 5 else "")
        lines.append(
            f"{len(unread)} of {len(leads.lead)} pairs are left out (the first: {first}): within --max-length the "
            "prompt leaves no room, or both completions are cut to the same text."
        )
    return lines


def _on_ties(predictions: Predictions, chance: Floats | None) -> OnTies | None:
    """How close to 1/2 the model is where people tied, and elsewhere; None without ties."""
    tied = predictions.labels == 0.5
    if not tied.any():
        return None
    far = np.abs(chance - 0.5) if chance is not None else np.empty(0)
    here, elsewhere = (
        mean(far[some], predictions.clusters[some]) if chance is not None else None for some in (tied, ~tied)
    )
    return OnTies(from_half=here, elsewhere=elsewhere, nearer=nearer_on_ties(predictions))


def ranking_agreement(predictions: Predictions) -> RankingAgreement | None:
    """Agreement on rows of several completions; None where there are none.

    The best completion has the most wins minus losses (Copeland), which exists even where judgments are not transitive.
    Any of several that people put first counts as right; several leading completions share the credit.
    """
    rows = list(_rows(predictions))
    if not rows:
        return None
    to_ranking = feedback.people.to_ranking
    cyclic = sum(to_ranking(row.pairs, [Verdict(label) for label in row.labels.tolist()]) is None for row in rows)
    tops = [(_best(row.standing(row.labels)), _best(row.standing(row.leads > 0, row.leads == 0))) for row in rows]
    decided = [
        (people, leading, row) for (people, leading), row in zip(tops, rows, strict=True) if len(people) < row.size
    ]
    hits = [len(people & leading) / len(leading) for people, leading, _ in decided]
    taus = [tau for row in rows if (tau := _tau_b(np.sign(row.labels - 0.5), np.sign(row.leads))) is not None]
    return RankingAgreement(
        rows=len(rows),
        cyclic=cyclic,
        top=bootstrap_mean(hits) if hits else None,
        chance=sum(len(people) / row.size for people, _, row in decided) / len(decided) if decided else None,
        tau=bootstrap_mean(taus) if taus else None,
    )


@dataclass(frozen=True)
class _Row:
    """All pairs of one row's completions."""

    pairs: list[Comparison]
    labels: np.ndarray
    leads: np.ndarray
    size: int

    def standing(self, wins: np.ndarray, ties: np.ndarray | float = 0.0) -> Mapping[Text, float]:
        """Every completion's number of wins, a tie counting half."""
        total: dict[Text, float] = defaultdict(float)
        for pair, won in zip(self.pairs, wins + 0.5 * np.asarray(ties), strict=True):
            total[pair.first] += float(won)
            total[pair.second] += 1 - float(won)
        return total


def _rows(predictions: Predictions) -> Iterator[_Row]:
    """The rows of three or more completions with all pairs."""
    indices: dict[int, list[int]] = defaultdict(list)
    for i, judgment in enumerate(predictions.judgments):
        indices[judgment.row].append(i)
    for some in indices.values():
        pairs = [Comparison(j.prompt, j.first, j.second) for j in (predictions.judgments[i] for i in some)]
        size = len({text for pair in pairs for text in (pair.first, pair.second)})
        if size > 2 and len({frozenset((p.first, p.second)) for p in pairs}) == len(pairs) == comb(size, 2):
            yield _Row(pairs, predictions.labels[some], predictions.lead[some], size)


def _best(standing: Mapping[Text, float]) -> set[Text]:
    most = max(standing.values())
    return {text for text, wins in standing.items() if wins == most}


def _tau_b(people: np.ndarray, leads: np.ndarray) -> float | None:
    """Kendall's tau-b of verdicts and leads (1, 0 or -1) on every pair: agreements minus disagreements, over untied."""
    untied = np.count_nonzero(people) * np.count_nonzero(leads)
    return float(people @ leads) / sqrt(untied) if untied else None
