"""Many scored samples a prompt, drawn or read from a file: what best of n and the sweep are computed from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from accord.cli.sample import draw
from accord.data.load import load_samples, open_rows
from accord.engine.models import Policy
from accord.engine.precision import compute_dtype
from accord.engine.sampling import Sampling
from accord.errors import InputError
from accord.evaluate.gao import Array
from accord.evaluate.questions.shared import tell
from accord.feedback.named import reward_named
from accord.feedback.reward import check_prompts, score_texts
from accord.files import write_rows
from accord.records import EncodedPrompt, Text, show, text_to_json


@dataclass(frozen=True)
class Pool:
    """N samples of each of P prompts, prompt after prompt, and their scores (P, N) by the proxy and by the gold."""

    texts: list[tuple[Text, Text]]
    proxy: Array
    gold: Array

    def write(self, file: Path, proxy: str, gold: str) -> None:
        """Every sample with its scores as the columns `proxy` and `gold`, for another look without sampling."""
        scores = zip(self.texts, self.proxy.ravel().tolist(), self.gold.ravel().tolist(), strict=True)
        rows = (
            {"prompt": text_to_json(p), "completion": text_to_json(c), proxy: r, gold: g} for (p, c), r, g in scores
        )
        write_rows(file, rows)


def drawn(
    policy: Policy, prompts: Sequence[EncodedPrompt], n: int, sampling: Sampling, dtype: str, reward: str, judge: str
) -> Pool:
    """n samples of every prompt, scored by `reward` and by `judge`."""
    precision = compute_dtype(dtype, policy.device)
    scorers = [reward_named(name, policy.in_dtype("float32")) for name in (reward, judge)]
    for scorer in scorers:
        check_prompts(scorer, prompts)
    samples = draw(policy, prompts, n, sampling, precision)
    named = zip(scorers, (reward, judge), strict=True)
    proxy, gold = (_finite(scorer(samples).double().numpy(), name).reshape(-1, n) for scorer, name in named)
    return Pool([(s.prompt.prompt, s.text) for s in samples], proxy, gold)


def read(file: str, reward: str | None, judge: str | None, proxy: str, gold: str) -> Pool:
    """The samples in a file, scored by `reward` and `judge`, or else by their columns `proxy` and `gold`.

    Prompts of which there are more samples than of others keep their first.

    Raises:
        InputError: there are no rows, a column is missing or holds no number, or a prompt has one sample alone.
    """
    texts = load_samples(file)
    if not texts:
        raise InputError(f"{file} has no rows; give samples, many of each prompt.")
    scorers = [None if name is None else reward_named(name) for name in (reward, judge)]
    scores = [
        _column(file, column, option)
        if scorer is None
        else _finite(score_texts(scorer, texts).double().numpy(), f"--{option}")
        for scorer, column, option in zip(scorers, (proxy, gold), ("reward", "judge"), strict=True)
    ]
    groups: dict[Text, list[int]] = {}
    for i, (prompt, _) in enumerate(texts):
        groups.setdefault(prompt, []).append(i)
    fewest = min(groups, key=lambda prompt: len(groups[prompt]))
    n = len(groups[fewest])
    if n < 2:
        raise InputError(f"{file} has one sample of the prompt {show(fewest)!r}; sample each with --n 64 or more.")
    places = np.array([group[:n] for group in groups.values()])
    if places.size < len(texts):
        tell([f"{len(texts) - places.size} of {len(texts)} samples of {file} left out, so that each prompt has {n}"])
    return Pool([texts[i] for i in places.ravel()], scores[0][places], scores[1][places])


def _column(file: str, column: str, option: str) -> Array:
    _, unit, numbered = open_rows(file, "train")
    values: list[float] = []
    for number, row in numbered:
        value: Any = row.get(column)
        if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
            raise InputError(
                f"{file}, {unit} {number}: the column {column!r} holds no finite number; name another by "
                f"--{'proxy' if option == 'reward' else 'gold'}, or have --{option} score the samples."
            )
        values.append(float(value))
    return np.array(values)


def _finite(scores: Array, name: str) -> Array:
    if not np.isfinite(scores).all():
        raise InputError(f"{name} gives sample {int(np.argmin(np.isfinite(scores))) + 1} a score that is not finite.")
    return scores


def require_many(n: int, temperature: float, option: str = "n") -> None:
    """Raise InputError where samples of a prompt would be too few, or all the same."""
    if n < 2:
        raise InputError(f"--{option} must be at least 2, not {n}: it says among how many samples there is a choice.")
    if temperature == 0:
        raise InputError("at --temperature 0 all samples of a prompt are the same; there is nothing to choose from.")
