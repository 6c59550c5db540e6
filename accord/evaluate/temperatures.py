"""Win rates over the sampling temperature (Rafailov et al. 2023, arXiv:2305.18290, figure 2).

A policy that wins at one temperature may lose at another, because sampling from the tails of its distribution shows
what training did to them. Every model answers the prompts at each temperature, and is compared with one fixed set of
the baseline's answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from accord.engine.sampling import LEAST
from accord.errors import InputError
from accord.evaluate.answers import Answering, Answers, encoded
from accord.evaluate.wins import Duels, duels

if TYPE_CHECKING:
    from accord.feedback.judge import Judge
    from accord.feedback.reward import Reward
    from accord.records import Prompt


def require_temperatures(temperatures: Sequence[float] | None, models: Mapping[str, str], against: str | None) -> None:
    """Raise InputError where a temperature is invalid or given twice, or there is no baseline or model."""
    if temperatures is None:
        return
    if not temperatures:
        raise InputError("--temperatures is empty; give some, as 0 0.5 1.")
    if against is None:
        raise InputError("--temperatures needs --against, the model whose answers the others' are compared with.")
    if not set(models) - {against}:
        raise InputError(f"--temperatures needs a model by --models.NAME besides {against}.")
    for i, temperature in enumerate(temperatures):
        if not 0 <= temperature < float("inf"):
            raise InputError(f"--temperatures must be at least 0, not {temperature}.")
        if 0 < temperature < LEAST:
            raise InputError(f"--temperatures must be 0, or {LEAST:g} and more, not {temperature}.")
        if temperature in temperatures[:i]:
            raise InputError(f"--temperatures has {temperature:g} twice; give each once.")


def answers_at(
    temperatures: Sequence[float],
    answering: Answering,
    models: Mapping[str, str],
    rows: Sequence[Prompt],
    rewards: Mapping[str, Reward],
) -> dict[float, list[Answers]]:
    """Every model's answers at each temperature, with their scores and, above 0, their divergence."""
    drawn: dict[float, list[Answers]] = {temperature: [] for temperature in temperatures}
    for name, folder in models.items():
        policy = answering.load(folder)
        prompts = encoded(policy, rows, answering.options)
        for temperature in temperatures:
            options = replace(answering.options, temperature=temperature)
            # at temperature 0 the answer is deterministic, and its divergence is not defined
            origin = answering.reference if temperature > 0 else None
            at = replace(answering, options=options, reference=origin, traces=0)
            answers = at.measured(at.answers(name, policy, prompts), policy)
            scores = {title: score(answers.samples) for title, score in rewards.items()}
            drawn[temperature].append(replace(answers, scores=scores))
    return drawn


def against_rival(drawn: Mapping[float, Sequence[Answers]], rival: Answers, judge: Judge) -> dict[float, list[Duels]]:
    """All answers judged against the baseline's, in one call, in both orders."""
    pairs = [(answers, rival) for every in drawn.values() for answers in every]
    rest = iter(duels(judge, pairs))
    return {temperature: [next(rest) for _ in every] for temperature, every in drawn.items()}
