"""`accord label`: which of two completions is better? Samples in, preferences out."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations
from pathlib import Path

from rich.console import Console

from accord.commands.progress import with_progress
from accord.data.samples import load_samples
from accord.errors import InputError
from accord.feedback.named import judge_named, labeller_named
from accord.feedback.orders import BothOrders
from accord.feedback.rankings import labelled
from accord.files import write_rows
from accord.records import Comparison, Text


def label(
    data: str, out: str, *, judge: str, agreement: float | None = None, seed: int = 0, pairs: int | None = None
) -> Path:
    """Have a judge compare the completions of each prompt, and write what it prefers as rows of chosen and rejected.

    A judge who might favour a position is asked in both orders. Ties and answers that cannot be understood are counted
    and left out.

    Args:
        data: a file of prompts and completions, as `accord sample` writes it; those of one prompt are compared.
        out: the JSONL file of preferences to write.
        judge: the folder of a reward or preference model, ai:MODEL or the YAML file of an AI judge, a small world
            (cafe) whose gold reward judges, module:function, or anything that can be a reward.
        agreement: how often a simulated labeller agrees with the world's gold reward; without it the judge never errs.
        seed: decides where the simulated labeller errs.
        pairs: at most so many comparisons of each prompt, in the order of its completions.

    Raises:
        InputError: no prompt has two different completions, or none is preferred to another.
    """
    if pairs is not None and pairs < 1:
        raise InputError(f"--pairs must be at least 1, not {pairs}.")
    comparisons = comparisons_of(load_samples(data), pairs)
    if not comparisons:
        raise InputError(f"{data} has no prompt with two different completions; sample with --n 2 or more.")
    named = with_progress(judge_named(judge)) if agreement is None else labeller_named(judge, agreement, seed)
    verdicts = BothOrders(named)(comparisons)
    preferences, counts = labelled(comparisons, verdicts)
    if not preferences:
        raise InputError(
            f"the judge found no completion better than another: {counts.ties} ties, {counts.invalid} invalid."
        )
    write_rows(out, preferences)
    Console(stderr=True).print(
        f"label: {len(preferences)} preferences from {len(comparisons)} comparisons, "
        f"{counts.ties} ties, {counts.invalid} invalid",
        highlight=False,
    )
    return Path(out)


def comparisons_of(samples: Iterable[tuple[Text, Text]], most: int | None = None) -> list[Comparison]:
    """The pairs of different completions of each prompt, at most `most` of them; an empty text is no completion."""
    grouped: dict[Text, dict[Text, None]] = {}
    for prompt, completion in samples:
        if completion:
            grouped.setdefault(prompt, {})[completion] = None
    return [
        Comparison(prompt, first, second)
        for prompt, completions in grouped.items()
        for first, second in list(combinations(completions, 2))[:most]
    ]
