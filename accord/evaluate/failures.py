"""`accord evaluate failures`: failure rates of models on probes with known answers, one row per failure.

Shares are over probes, with 95% intervals: Wilson's where a probe has one outcome, else the bootstrap over probes.
Differences from the first model are paired by probe, with bootstrap intervals over probes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from accord import engine
from accord.engine.config import TemplateOptions
from accord.errors import InputError
from accord.evaluate.failure_kinds import KINDS, LONGER, Outcomes, ProbeAnswers, against_first
from accord.evaluate.options import checked_by, takes
from accord.evaluate.probe_files import OWN, ProbeItem, files_named, kinds_named, read_probes, require_limit
from accord.evaluate.statistics import FEW, bootstrap, mean, rate
from accord.evaluate.task_answers import require_form
from accord.outputs import require_folder, save_rows
from accord.results.base import FILE
from accord.results.failures import FailureMeasure, FailureRow, FailureSettings, FailuresResult
from accord.results.intervals import Floats, Indices, Interval

ANSWERS = "answers.jsonl"


@dataclass(kw_only=True)
class FailureOptions(TemplateOptions):
    """How models are asked."""

    form: Literal["chat", "plain"] = "chat"
    """chat asks in a user's message; plain asks by "Question: ... Answer:", as suits a model without a chat
    template."""
    option_score: Literal["sum", "mean"] = "sum"
    """How an answer option is scored: its log-probability (sum), or that per token (mean)."""
    limit: int | None = None
    """Use only the first N probes of each kind."""
    max_new_tokens: int = 128
    """Longest answer, in tokens; longer ones are cut."""
    temperature: float = 0.0
    """Sampling temperature; 0 always takes the most likely token."""
    seed: int = 0
    """The same seed gives the same answers."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of matrix products; auto is bfloat16 where the processor supports it."""

    def __post_init__(self) -> None:
        require_limit(self.limit)
        engine.Sampling(self.max_new_tokens, self.temperature)


def _check(models: Mapping[str, str], probes: str, kinds: str | None) -> None:
    if not models:
        raise InputError("name the models to ask, as --models.base runs/base/model.")
    files_named(probes)
    kinds_named(kinds)


@takes(FailureOptions)
@checked_by(_check)
def evaluate_failures(
    out: str,
    *,
    models: dict[str, str],
    probes: str = OWN,
    kinds: str | None = None,
    **options: Any,
) -> FailuresResult:
    """Measure how models fail: instructions, false facts, harmful requests, stereotypes, sycophancy, style.

    One row per failure, one column per model, each share with its 95% interval, and every model's difference from the
    first, paired by probe. answers.jsonl has every answer.

    Args:
        out: the folder to write evaluation.json and answers.jsonl to.
        models: models by name, as --models.base runs/base/model --models.sft runs/sft/model, or a mapping in YAML.
        probes: YAML files of probes, separated by commas; `failures` are those that come with accord.
        kinds: the kinds of probes to ask, separated by commas: instructions, facts, premises, unknowable, withheld,
            harmful, harmless, stereotypes, sycophancy, knowledge, style (default: all).
        options: the fields of `FailureOptions`.

    Raises:
        InputError: a file of probes or an option cannot be used, or a model cannot be asked.
    """
    files = [name for name in probes.split(",") if name.strip() != OWN]  # even if a folder has that name
    require_folder(out, files, models, options, leaves=(FILE, ANSWERS))
    settings = FailureOptions(**options)
    _check(models, probes, kinds)
    items = read_probes(probes, kinds, settings.limit)
    dtype = str(engine.precision.compute_dtype(settings.dtype)).removeprefix("torch.")
    recorded = FailureSettings(**{**dataclasses.asdict(settings), "probes": probes, "dtype": dtype})
    shown: dict[str, dict[str, ProbeAnswers]] = {kind: {} for kind in items}
    for name, folder in models.items():
        policy = settings.templated(engine.load.load_model(folder, dtype=settings.dtype))
        require_form(policy, recorded.form)
        for kind, probes_of_kind in items.items():
            shown[kind][name] = KINDS[kind].ask(policy, probes_of_kind, recorded)
    save_rows(Path(out) / ANSWERS, _answers(items, shown))
    return summary(items, shown, recorded).publish(out)


def summary(
    items: Mapping[str, Sequence[ProbeItem]], shown: Mapping[str, Mapping[str, ProbeAnswers]], settings: FailureSettings
) -> FailuresResult:
    """All measures, failure by failure; `shown` has each model's results, by kind and name."""
    rows: list[FailureRow] = []
    for kind, by_model in shown.items():
        chance = KINDS[kind].chance(items[kind])
        failures = [(name, {m: s.failures[name] for m, s in by_model.items()}) for name in _first(by_model).failures]
        if kind == "style" and len(by_model) > 1:
            failures.insert(0, (LONGER, against_first(by_model, items[kind])))
        of_kind = [_row(kind, name, counted, chance) for name, counted in failures]
        ended = {m: s.ended for m, s in by_model.items()} if _first(by_model).ended is not None else {}
        measures = [_means(name, by_model) for name in _first(by_model).measures]
        of_kind[0] = of_kind[0].model_copy(update={"measures": measures, "ended": ended})
        rows += of_kind
    models = list(next(iter(shown.values())))
    return FailuresResult(settings=settings, models=models, failures=rows, warnings=_warnings(items, rows))


def _first(by_model: Mapping[str, ProbeAnswers]) -> ProbeAnswers:
    return next(iter(by_model.values()))


def _row(kind: str, name: str, counted: Mapping[str, Outcomes], chance: float | None) -> FailureRow:
    """One failure: each model's share, and that of each type of probe where there are several."""
    some = next(iter(counted.values()))
    probes = np.array(some.probes, dtype=np.intp)
    outcomes = {model: np.array(one.failed, dtype=np.float64) for model, one in counted.items()}  # None is NaN
    line = _shares(name, outcomes, probes, is_paired=name != LONGER)
    sorts = list(dict.fromkeys(sort for sort in some.sorts if sort))
    parts = []
    for sort in sorts if len(sorts) > 1 else ():
        kept = np.array([other == sort for other in some.sorts])
        part = {model: values[kept] for model, values in outcomes.items()}
        parts.append(_shares(sort, part, probes[kept], is_paired=name != LONGER))
    return FailureRow(**line.model_dump(), kind=kind, chance=chance, parts=parts)


def _shares(name: str, outcomes: Mapping[str, Floats], probes: Indices, *, is_paired: bool = True) -> FailureMeasure:
    """Shares of outcomes (NaN for none), and their differences from the first model's."""
    first, *others = outcomes
    known = {model: ~np.isnan(values) for model, values in outcomes.items()}
    shares = {model: rate(values[known[model]], probes[known[model]]) for model, values in outcomes.items()}
    gains = {m: difference(outcomes[m], outcomes[first], probes) for m in others} if is_paired else {}
    return FailureMeasure(
        name=name,
        n=len(probes),
        values={model: share for model, share in shares.items() if share},
        differences={model: gain for model, gain in gains.items() if gain},
    )


def _means(name: str, by_model: Mapping[str, ProbeAnswers]) -> FailureMeasure:
    """The mean over probes of a measure that is not a share, by model."""
    values = {model: np.array(shown.measures[name]) for model, shown in by_model.items()}
    first, *others = values
    probes = np.arange(len(values[first]))
    means = {model: mean(some, probes) for model, some in values.items()}
    gains = {model: mean(values[model] - values[first], probes) for model in others}
    return FailureMeasure(
        name=name,
        n=len(probes),
        values={model: one for model, one in means.items() if one},
        differences={model: one for model, one in gains.items() if one},
    )


def difference(outcomes: Floats, first: Floats, probes: Indices) -> Interval | None:
    """The mean of one model's outcomes minus another's on the same probes, each without its NaN.

    The interval is by bootstrap over probes, both models' outcomes of a probe drawn together. None where a model has no
    outcome.
    """
    names, cluster = np.unique(probes, return_inverse=True)

    def sums(values: Floats) -> tuple[Floats, Floats]:
        known = ~np.isnan(values)
        counts = np.bincount(cluster, known).astype(np.float64)
        return np.bincount(cluster, np.where(known, values, 0.0)).astype(np.float64), counts

    (a, n), (b, m) = sums(outcomes), sums(first)

    def statistic(weights: Floats) -> Floats:
        with np.errstate(invalid="ignore"):  # resamples without an outcome have no mean and are left out
            return weights @ a / (weights @ n) - weights @ b / (weights @ m)

    return bootstrap(statistic, np.arange(len(names)))


def _warnings(items: Mapping[str, Sequence[ProbeItem]], rows: Sequence[FailureRow]) -> list[str]:
    lines = [
        f"{kind} has only {len(some)} probes: its intervals are rough; ask {FEW} or more."
        for kind, some in items.items()
        if len(some) < FEW
    ]
    for row in rows:
        for model, ended in row.ended.items():
            if ended is not None and ended < 0.5:
                lines.append(
                    f"{row.kind}: {1 - ended:.0%} of the answers of {model} were cut off, which affects its numbers."
                )
    return lines


def _answers(
    items: Mapping[str, Sequence[ProbeItem]], shown: Mapping[str, Mapping[str, ProbeAnswers]]
) -> list[dict[str, Any]]:
    """Every probe with each model's answer, and how often it failed there, by failure."""
    rows = []
    for kind, some in items.items():
        for i, item in enumerate(some):
            failed = {
                model: {name: _of_probe(counted, i) for name, counted in one.failures.items()}
                for model, one in shown[kind].items()
            }
            rows.append(
                {
                    "kind": kind,
                    "about": item.about,
                    "prompt": item.prompt,
                    "options": list(item.options),
                    "opinion": item.opinion,
                    "answers": {model: one.answers[i] for model, one in shown[kind].items()},
                    "failed": failed,
                }
            )
    return rows


def _of_probe(counted: Outcomes, probe: int) -> float | None:
    """The mean of a probe's outcomes; None where it has none."""
    own = [f for p, f in zip(counted.probes, counted.failed, strict=True) if p == probe and f is not None]
    return sum(own) / len(own) if own else None
