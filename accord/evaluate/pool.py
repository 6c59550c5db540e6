"""Many samples of each prompt, scored by two rewards: the proxy that is optimized, and the independent gold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from accord.console import status
from accord.data.load import load_samples, open_rows
from accord.engine import Policy, Sampling
from accord.engine.config import SamplerConfig
from accord.errors import InputError
from accord.evaluate.answers import sampled
from accord.evaluate.options import ScoredOptions
from accord.evaluate.statistics import Floats
from accord.feedback.reward import Reward, check_prompts, score_texts
from accord.outputs import save_rows
from accord.records import EncodedPrompt, Text, show, text_to_json


@dataclass(frozen=True)
class Pool:
    """N samples of each of P prompts, in order, and their scores (P, N) by proxy and gold."""

    texts: list[tuple[Text, Text]]
    proxy: Floats
    gold: Floats

    def write(self, file: Path, proxy: str, gold: str) -> None:
        """Write every sample with its scores in the columns `proxy` and `gold`, to evaluate again without sampling."""
        scores = zip(self.texts, self.proxy.ravel().tolist(), self.gold.ravel().tolist(), strict=True)
        rows = (
            {"prompt": text_to_json(p), "completion": text_to_json(c), proxy: r, gold: g} for (p, c), r, g in scores
        )
        save_rows(file, rows)


def sample_pool(
    policy: Policy,
    prompts: Sequence[EncodedPrompt],
    n: int,
    sampling: Sampling,
    proxy: tuple[str, Reward],
    gold: tuple[str, Reward],
    by: SamplerConfig | None = None,
) -> Pool:
    """n samples of every prompt, scored by two named rewards; `by` selects the sampler."""
    for _, scorer in (proxy, gold):
        check_prompts(scorer, prompts)
    samples = sampled(policy, prompts, n, sampling, by=by)
    scores = [_finite(scorer(samples), name).reshape(-1, n) for name, scorer in (proxy, gold)]
    return Pool([(s.prompt.prompt, s.text) for s in samples], *scores)


def read_pool(file: str, settings: ScoredOptions, reward: str | None, judge: str | None, proxy: str, gold: str) -> Pool:
    """The samples in a file, scored by `reward` and `judge`, or else by their columns `proxy` and `gold`.

    Prompts with more samples than others keep the first ones.

    Raises InputError where there are no rows, a column is missing or not numeric, or a prompt has only one sample.
    """
    texts = [(prompt.prompt, completion) for prompt, completion in load_samples(file)]
    if not texts:
        raise InputError(f"{file} has no rows; give samples, many of each prompt.")
    scorers = settings.scorers(*(name for name in (reward, judge) if name is not None))
    proxies, golds = (
        _column(file, column, f"--{option}", f"--{scorer}")
        if name is None
        else _finite(score_texts(scorers[name], texts), f"--{scorer}")
        for name, column, option, scorer in ((reward, proxy, "proxy", "reward"), (judge, gold, "gold", "judge"))
    )
    groups: dict[Text, list[int]] = {}
    for i, (prompt, _) in enumerate(texts):
        groups.setdefault(prompt, []).append(i)
    fewest = min(groups, key=lambda prompt: len(groups[prompt]))
    n = len(groups[fewest])
    if n < 2:
        raise InputError(f"{file} has one sample of the prompt {show(fewest)!r}; sample each with --n 64 or more.")
    kept = np.array([group[:n] for group in groups.values()])
    if kept.size < len(texts):
        status(f"{len(texts) - kept.size} of {len(texts)} samples of {file} left out, so that each prompt has {n}")
    return Pool([texts[i] for i in kept.ravel()], proxies[kept], golds[kept])


def _column(file: str, column: str, option: str, scorer: str) -> Floats:
    values: list[float] = []
    for _, where, row in open_rows(file):
        value = row.get(column)
        if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
            raise InputError(
                f"{where}: the column {column!r} holds no finite number; name another by {option}, or have {scorer} "
                "score the samples."
            )
        values.append(float(value))
    return np.array(values)


def _finite(rewards: torch.Tensor, name: str) -> Floats:
    scores: Floats = rewards.double().numpy()
    if not np.isfinite(scores).all():
        raise InputError(f"{name} gives sample {int(np.argmin(np.isfinite(scores))) + 1} a score that is not finite.")
    return scores


def require_many(n: int, temperature: float, option: str = "n") -> None:
    """Raise InputError where there would be too few samples per prompt, or all the same."""
    if n < 2:
        raise InputError(f"--{option} must be at least 2, not {n}: it is the number of samples to choose from.")
    if temperature == 0:
        raise InputError("at --temperature 0 all samples of a prompt are the same: raise it.")
