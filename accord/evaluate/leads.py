"""By how far whatever is on trial prefers one completion to another: the one thing that a trial asks of it.

A lead is antisymmetric: swapping two completions turns its sign, and 0 prefers neither. It is the log-odds of the first
where a reward or preference model is asked, the difference of two scores where a reward is, and P(first) - 1/2 where a
judge compares two texts. NaN marks a pair on which there is no verdict.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from accord.data.encoding import encode
from accord.engine.models import Model
from accord.engine.trees import Branch, Tree
from accord.evaluate.statistics import Floats
from accord.feedback.judge import Judge, Orders
from accord.objectives.preference import general_preference
from accord.records import Comparison, Ranking, Text, Verdict

Flags = NDArray[np.bool_]

BRANCHES = 8
"""Completions of one prompt that are computed together, at most."""


@dataclass(frozen=True)
class Leads:
    """Of every pair: the lead of the first, whether the pair could be read, and whether without a cut.

    `orders` is what a judge said of both orders of each pair, of one that could tell them apart.
    """

    lead: Floats
    read: Flags
    whole: Flags
    orders: Sequence[Orders] = ()

    @staticmethod
    def of(lead: Floats, orders: Sequence[Orders] = ()) -> Leads:
        """Leads of texts, which are read whole."""
        every = np.ones(len(lead), dtype=bool)
        return Leads(lead, every, every, orders)


class Leader(Protocol):
    """Whatever is on trial."""

    def __call__(self, comparisons: Sequence[Comparison]) -> Leads:
        """How far it prefers the first of each pair to the second."""
        ...


@dataclass(frozen=True)
class ScoreLeads:
    """The lead of whatever scores texts: the difference of two scores."""

    score: Callable[[Sequence[tuple[Text, Text]]], Tensor]
    """From (prompt, completion) pairs to their scores (C,)."""

    def __call__(self, comparisons: Sequence[Comparison]) -> Leads:
        """Every text is scored once."""
        firsts, seconds = _texts(comparisons)
        place = {text: i for i, text in enumerate(dict.fromkeys(firsts + seconds))}
        scores = self.score(list(place)).double().numpy()
        return Leads.of(scores[[place[t] for t in firsts]] - scores[[place[t] for t in seconds]])


@dataclass(frozen=True)
class JudgeLeads:
    """The lead of a judge that reads two texts, asked in both orders unless it cannot tell them apart."""

    judge: Judge

    def __call__(self, comparisons: Sequence[Comparison]) -> Leads:
        """An answer that is invalid in one order leaves no lead."""
        forward = self.judge(comparisons)
        if getattr(self.judge, "symmetric", False):
            return Leads.of(_leads(forward))
        swapped = self.judge([Comparison(c.prompt, c.second, c.first) for c in comparisons])
        orders = [Orders(*both) for both in zip(forward, swapped, strict=True)]
        return Leads.of(_leads([o.verdict for o in orders]), orders)


@dataclass(frozen=True)
class ModelLeads:
    """The lead of what reads tokens: `general_preference` of two completions' outputs, log-odds or a difference.

    Completions are cut to fit `max_length` tokens with their prompt. A pair is not read where its prompt leaves no room
    for one, or where the cut has made two different texts the same tokens.
    """

    model: Model
    outputs: Callable[[Sequence[Tree]], Tensor]
    """From trees to what `general_preference` takes of every branch, in order, (C, 1 + 2k)."""
    max_length: int

    def __call__(self, comparisons: Sequence[Comparison]) -> Leads:
        """Every completion is computed once, its prompt once for all of them (up to `BRANCHES`)."""
        firsts, seconds = _texts(comparisons)
        trees, place = self._planted(firsts + seconds)
        branches = [branch for tree in trees for branch in tree.branches]
        outputs = self.outputs(trees).double()
        one, two = ([place.get(text, -1) for text in texts] for texts in (firsts, seconds))
        lead = general_preference(outputs[one], outputs[two]).numpy()
        ends = np.array([branch.tokens[-1] == self.model.end for branch in branches])
        whole = ends[one] & ends[two]
        merged = np.array([_same(branches[i], branches[j]) for i, j in zip(one, two, strict=True)])
        read = (np.minimum(one, two) >= 0) & (whole | ~merged)
        return Leads(np.where(read, lead, np.nan), read, whole & read)

    def _planted(self, texts: Sequence[tuple[Text, Text]]) -> tuple[list[Tree], dict[tuple[Text, Text], int]]:
        """Trees that hold every distinct text once, and which of their branches each is; some have no room."""
        prompts: dict[Text, dict[Text, None]] = {}
        for prompt, completion in texts:
            prompts.setdefault(prompt, {})[completion] = None
        rows = [
            Ranking(prompt, some, (0,) * len(some))
            for prompt, completions in prompts.items()
            for some in _shared_out(tuple(completions))
        ]
        longest = min(self.max_length, self.model.context or self.max_length)
        trees = encode(self.model.tokenizer, rows, max_length=longest, context=None).trees
        kept = [(rows[tree.row].prompt, c) for tree in trees for c in rows[tree.row].completions]
        return trees, {text: i for i, text in enumerate(kept)}


def _leads(verdicts: Sequence[Verdict]) -> Floats:
    """P(first) - 1/2, NaN where a verdict is invalid."""
    return np.array([np.nan if v.first_wins is None else v.first_wins - 0.5 for v in verdicts], dtype=np.float64)


def _texts(comparisons: Sequence[Comparison]) -> tuple[list[tuple[Text, Text]], list[tuple[Text, Text]]]:
    """Every first completion with its prompt, and every second."""
    return [(c.prompt, c.first) for c in comparisons], [(c.prompt, c.second) for c in comparisons]


def _shared_out(completions: tuple[Text, ...]) -> list[tuple[Text, ...]]:
    return [completions[i : i + BRANCHES] for i in range(0, len(completions), BRANCHES)]


def _same(a: Branch, b: Branch) -> bool:
    return a.tokens == b.tokens
