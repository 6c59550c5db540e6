"""`accord evaluate comparisons`: a model of preferences on trial."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from rich.console import Console

from accord.cli.label import score_trees
from accord.data.judgments import Judgment, load_judgments
from accord.engine.load import load_model
from accord.engine.models import Policy, PreferenceNetwork
from accord.engine.precision import compute_dtype
from accord.engine.trees import Tree
from accord.errors import InputError
from accord.evaluate.accuracy import Part, Trial, by_length, by_margin, by_source, length_correlation, nearer_on_ties
from accord.evaluate.calibration import Calibration, calibration
from accord.evaluate.leads import JudgeLeads, Leader, Leads, ModelLeads, ScoreLeads
from accord.evaluate.probes import Position, Probe, position, probes
from accord.evaluate.questions.shared import require_same_vocabulary, tell, write
from accord.evaluate.questions.tables import trial_tables
from accord.evaluate.rankings import RankingAgreement, ranking_agreement
from accord.evaluate.statistics import Floats, Interval, as_json, mean
from accord.feedback.ai import with_progress
from accord.feedback.judge import RewardJudge, ScoreJudge
from accord.feedback.learned import Learned, LearnedJudge
from accord.feedback.named import judge_named, reward_named
from accord.feedback.reward import score_texts
from accord.files import require_folder
from accord.records import Comparison

Unit = Literal["log-odds", "score", "probability"]

FEW = 20
"""With fewer pairs, or prompts that they belong to, an interval is not to be trusted."""


@dataclass(frozen=True)
class Contender:
    """What is on trial: what the report calls it, what its leads are measured in, and what gives them."""

    kind: str
    unit: Unit
    leader: Leader

    def chance(self, lead: Floats) -> Floats | None:
        """The probability that each lead gives to the first completion, where it means one."""
        if self.unit == "score":
            return None
        return lead + 0.5 if self.unit == "probability" else torch.from_numpy(lead).sigmoid().numpy()


def comparisons(
    data: str,
    out: str,
    *,
    reward: str | None = None,
    policy: str | None = None,
    reference: str | None = None,
    beta: float | None = None,
    columns: dict[str, str] | None = None,
    probes: int = 200,
    max_length: int = 512,
    split: str = "train",
    limit: int | None = None,
    seed: int = 0,
    dtype: Literal["auto", "float32", "bfloat16"] = "auto",
    name: str | None = None,
    ceiling: float | None = None,
) -> Path:
    """Put a reward or preference model, a judge, or a policy's implicit reward on trial on held-out judgments.

    How often it agrees with them, on which pairs, how well calibrated it is, and what it can be fooled by. A policy's
    implicit reward is log pi - log ref.

    Args:
        data: a file or Hub name of held-out judgments: preferences, rankings, or rows with --columns.
        out: the folder to write evaluation.json to.
        reward: the folder of a reward or preference model, or anything else that scores or judges: cafe,
            module:function, a URL, a formula, ai:MODEL.
        policy: the folder or name of a policy whose implicit reward is measured.
        reference: the folder or name of its reference; without it log pi alone is measured.
        beta: what turns scores into log-odds, as DPO's beta does; without it an implicit reward, or what is no reward
            model, has no probabilities and so no calibration.
        columns: the data's columns by what they hold, as --columns.first output_1 --columns.second output_2: prompt,
            first and second (or completions, several separated by commas), label, source, annotator.
        probes: so many answers of the data are altered to see what the model can be fooled by; 0 for none.
        max_length: tokens of prompt and completion; longer completions are cut, rows with longer prompts left out.
        split: which rows, such as train, train[:100] or train[-100:].
        limit: only the first so many rows.
        seed: decides which answers are altered.
        dtype: precision of matrix products; auto is bfloat16 where the processor has it.
        name: what the report calls what is measured.
        ceiling: the accuracy that noise in the judgments allows, where it is known.

    Raises:
        InputError: the options do not fit the data.
    """
    require_folder(out)
    if probes < 0 or (beta is not None and beta <= 0):
        raise InputError(f"--probes must be 0 or more and --beta above 0, not {probes} and {beta}.")
    if (reward is None) == (policy is None):
        raise InputError(
            "give --reward, or --policy with --reference, to put it on trial, or --models and --judge to compare "
            "models' answers."
        )
    judgments = load_judgments(data, columns=columns, split=split, limit=limit)
    if all(j.label == 0.5 for j in judgments):
        raise InputError(f"{data} prefers no completion to another, so there is nothing to agree with.")
    precision = partial(compute_dtype, dtype)
    contender = (
        _judging(reward, beta, max_length, dtype)
        if reward is not None
        else _implicit(str(policy), reference, beta, max_length, precision)
    )
    result: dict[str, Any] = {"kind": "comparisons", "name": name or contender.kind, "data": data, "ceiling": ceiling}
    result |= tried(judgments, contender, probes, seed)
    for table in trial_tables(result):
        Console().print(table)
    tell(result["warnings"])
    return write(result, out)


def tried(judgments: Sequence[Judgment], contender: Contender, most: int, seed: int) -> dict[str, Any]:
    """Everything that is measured, as JSON has it."""
    leads = contender.leader([Comparison(j.prompt, j.first, j.second) for j in judgments])
    valid = ~np.isnan(leads.lead)
    trial = Trial(judgments, leads.lead).where(valid)
    accuracy = trial.accuracy()
    if accuracy is None:
        raise InputError(f"the {contender.kind} gave no verdict on any pair that people did not tie.")
    chance = contender.chance(trial.lead)
    found = probes(judgments, contender.leader, most=most, seed=seed) if most else []
    place = (
        position([o for o, v in zip(leads.orders, valid, strict=False) if v], trial.clusters) if leads.orders else None
    )
    invalid = int((leads.read & ~valid).sum())
    return {
        "unit": contender.unit,
        "rows": len({j.row for j in judgments}),
        "accuracy": as_json(accuracy),
        "ties": int((trial.strict.lead == 0).sum()),
        "invalid": invalid,
        "left_out": int((~leads.read).sum()),
        "labeled_ties": int((trial.labels == 0.5).sum()),
        "on_ties": _on_ties(trial, chance),
        "by_margin": _parts(by_margin(trial)),
        "by_length": _parts(by_length(trial)),
        "by_source": _parts(by_source(trial)),
        "length_correlation": _interval(length_correlation(trial)),
        "calibration": _calibration(calibration(trial, chance)) if chance is not None else None,
        "ranking": _ranking(ranking_agreement(trial)),
        "probes": [_probe(p) for p in found] + ([_position(place)] if place else []),
        "warnings": _warnings(trial, leads, invalid),
    }


def _judging(reward: str, beta: float | None, max_length: int, dtype: str) -> Contender:
    """A reward or preference model, any other reward, or a judge of two texts."""
    judge = with_progress(judge_named(reward))
    scores: Unit = "score" if beta is None else "log-odds"
    if isinstance(judge, RewardJudge | ScoreJudge):
        scorer = judge.reward if isinstance(judge, RewardJudge) else reward_named(reward)
        return Contender("reward", scores, ScoreLeads(lambda texts: (beta or 1.0) * score_texts(scorer, texts)))
    if beta is not None:
        raise InputError(f"--beta turns scores into log-odds, and {reward} has probabilities of its own; leave it out.")
    if isinstance(judge, LearnedJudge):
        model = judge.model
        learned = Learned(model.in_dtype(dtype))
        kind = "preference model" if isinstance(model, PreferenceNetwork) else "reward model"
        return Contender(kind, "log-odds", ModelLeads(model, learned.of_trees, max_length))
    return Contender("judge", "probability", JudgeLeads(judge))


def _implicit(policy: str, reference: str | None, beta: float | None, max_length: int, precision: Any) -> Contender:
    """A policy's implicit reward."""
    pi, ref = load_model(policy), load_model(reference) if reference else None
    require_same_vocabulary(pi, ref)

    def sums(model: Policy, trees: Sequence[Tree]) -> torch.Tensor:
        rows = score_trees(model, trees, precision(model.device))
        return torch.tensor([logp for logps, _ in rows for logp in logps], dtype=torch.float64)

    def outputs(trees: Sequence[Tree]) -> torch.Tensor:
        gained = sums(pi, trees) if ref is None else sums(pi, trees) - sums(ref, trees)
        return (beta or 1.0) * gained[:, None]

    unit: Unit = "score" if beta is None else "log-odds"
    return Contender("implicit reward", unit, ModelLeads(pi, outputs, max_length))


def _warnings(trial: Trial, leads: Leads, invalid: int) -> list[str]:
    """What makes the numbers less sure than they look."""
    found = []
    pairs, clusters = len(trial.strict.lead), len(np.unique(trial.strict.clusters))
    if clusters < FEW:
        what = f"{pairs} pairs" if pairs == clusters else f"{pairs} pairs of {clusters} prompts"
        found.append(f"The interval of the accuracy rests on {what}: with fewer than {FEW} it says little.")
    if invalid:
        found.append(f"{invalid} of {len(leads.lead)} pairs have no valid verdict and are in no number but this one.")
    unread = np.flatnonzero(~leads.read)
    if len(unread):
        places = ", ".join(str(i + 1) for i in unread[:5]) + (" ..." if len(unread) > 5 else "")
        found.append(
            f"{len(unread)} of {len(leads.lead)} pairs are left out (the first: {places}): within --max-length their "
            "prompt leaves no room, or both completions begin alike."
        )
    return found


def _on_ties(trial: Trial, chance: Floats | None) -> dict[str, Any] | None:
    """How near 1/2 the model is where people tied, and elsewhere; None where nobody did."""
    tied = trial.labels == 0.5
    if not tied.any():
        return None
    far = np.abs(chance - 0.5) if chance is not None else np.empty(0)
    here, elsewhere = (mean(far[some], trial.clusters[some]) if chance is not None else None for some in (tied, ~tied))
    return {
        "from_half": _interval(here),
        "elsewhere": _interval(elsewhere),
        "nearer": _interval(nearer_on_ties(trial)),
    }


def _parts(parts: Sequence[Part]) -> list[dict[str, Any]]:
    return [{"label": part.label, "accuracy": as_json(part.accuracy)} for part in parts]


def _calibration(found: Calibration | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {
        "bins": [{"confidence": b.confidence, "frequency": as_json(b.frequency)} for b in found.bins],
        "ece": as_json(found.ece),
        "plain_ece": found.plain,
        "if_calibrated": found.if_calibrated,
        "slope": _interval(found.slope),
    }


def _ranking(found: RankingAgreement | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {
        "rows": found.rows,
        "cyclic": found.cyclic,
        "top": _interval(found.top),
        "chance": found.chance,
        "tau": _interval(found.tau),
    }


def _probe(probe: Probe) -> dict[str, Any]:
    return {
        "name": probe.name,
        "what": probe.what,
        "preferred": as_json(probe.preferred),
        "shift": as_json(probe.shift),
        "n": probe.n,
        "invalid": probe.invalid,
    }


def _position(found: Position) -> dict[str, Any]:
    return {
        "name": "position",
        "what": "the answer stands first instead of second",
        "preferred": as_json(found.first_wins),
        "shift": None,
        "n": found.changed.n,
        "changed": as_json(found.changed),
    }


def _interval(interval: Interval | None) -> dict[str, float] | None:
    return None if interval is None else as_json(interval)
