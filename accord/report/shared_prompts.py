"""What several runs wrote on the same prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from accord.report import captions, series
from accord.report.answers import Answer, Asked
from accord.report.folder import Json, Run
from accord.report.results import ModelTable
from accord.report.text import plain

MOST = 6
"""Prompts that are shown."""


def common_samples(runs: Sequence[tuple[str, Run]]) -> tuple[Asked, ...]:
    """The last sample of each run on prompts that two or more have kept; prompts that all have come first."""
    last: dict[str, dict[str, Answer]] = {}
    for name, run in runs:
        score = captions.score_of(series.columns(run.metrics))
        for row in run.samples:
            last.setdefault(plain(row.get("prompt")), {})[name] = _sample(name, row, score)
    return _shared({prompt: list(by_run.values()) for prompt, by_run in last.items() if len(by_run) > 1})


def common_answers(tables: Sequence[tuple[str, ModelTable]]) -> tuple[Asked, ...]:
    """What the models of different evaluations answered to the same prompts; a prompt of one evaluation is left out."""
    found: dict[str, list[tuple[str, Answer]]] = {}
    for lane, table in tables:
        for asked in table.side_by_side:
            found.setdefault(asked.prompt, []).extend((lane, answer) for answer in asked.answers)
    several = {prompt: rows for prompt, rows in found.items() if len({lane for lane, _ in rows}) > 1}
    return _shared(
        {
            prompt: [
                Answer(f"{answer.model}, {lane}", answer.text, answer.scores, answer.tokens) for lane, answer in rows
            ]
            for prompt, rows in several.items()
        }
    )


def _shared(found: dict[str, list[Answer]]) -> tuple[Asked, ...]:
    fullest = sorted(found.items(), key=lambda pair: -len(pair[1]))[:MOST]
    return tuple(Asked(prompt, tuple(answers)) for prompt, answers in fullest)


def _sample(name: str, row: Json, score: str) -> Answer:
    reward = row.get("reward")
    scores: dict[str, Any] = {"step": row.get("step", "–")}
    if score and isinstance(reward, int | float):
        scores[score] = reward
    return Answer(name, plain(row.get("completion")), scores)
