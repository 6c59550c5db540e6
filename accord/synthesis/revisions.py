"""Evaluation of chains of revisions: scores of every answer, and a summary by revision."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from accord import feedback
from accord.errors import InputError
from accord.feedback.reward import unsampled
from accord.records import Comparison, EncodedPrompt, Prompt, show
from accord.results.critique import CritiqueResult, Example, PrincipleRow, RevisionRow
from accord.synthesis.critique import Chain, is_changed
from accord.synthesis.statistics import mean

EXAMPLES = 8
HALF = 0.5
"""A larger share of faulty replies makes the numbers unreliable."""

Scores = list[list[float | None]]
"""For every chain, the score of each answer; None where it has none."""


class Score:
    """A reward that scores answers, or a judge's probability that an answer is better than the first.

    Raises InputError where the name is neither, or cannot be used.
    """

    def __init__(self, name: str) -> None:
        self.name, self.measure = name, feedback.named.as_measure(name)
        self.compares = feedback.named.only_compares(self.measure)

    def check(self, prompts: Sequence[Prompt]) -> None:
        """Raise InputError where a row lacks what the reward or judge reads."""
        feedback.reward.check_prompts(self.measure, (EncodedPrompt(p, (), i) for i, p in enumerate(prompts)))

    def __call__(self, prompts: Sequence[Prompt], chains: Sequence[Chain]) -> Scores:
        """The scores of every answer; None in a chain without a first answer. A kept answer is scored once."""
        known: dict[tuple[int, str], float | None] = {}
        for i, chain in enumerate(chains):
            known |= {(i, text): 0.5 for text in chain.answers if chain.answers[0]}
        asked = [(i, text) for i, text in known if not self.compares or text != chains[i].answers[0]]
        known |= dict(zip(asked, self._of(prompts, chains, asked), strict=True))
        return [[known.get((i, text)) for text in chain.answers] for i, chain in enumerate(chains)]

    def _of(self, prompts: Sequence[Prompt], chains: Sequence[Chain], asked: Sequence[tuple[int, str]]) -> list[Any]:
        if not asked:
            return []
        if self.compares:
            judge = feedback.judge.BothOrders(self.measure)  # type: ignore[arg-type]
            pairs = [Comparison(prompts[i].prompt, text, chains[i].answers[0], prompts[i].columns) for i, text in asked]
            return [verdict.first_wins for verdict in judge(pairs)]
        samples = [replace(unsampled(prompts[i].prompt, text), prompt=prompts[i], row=i) for i, text in asked]
        values = self.measure(samples).tolist()  # type: ignore[arg-type, union-attr]
        wrong = next((i for (i, _), value in zip(asked, values, strict=True) if abs(value) == float("inf")), None)
        if wrong is not None:
            raise InputError(f"--score {self.name} gives an answer to prompt {wrong + 1} a score that is not finite.")
        return [None if value != value else value for value in values]


def summarize(
    chains: Sequence[Chain],
    scores: Mapping[str, Scores],
    *,
    model: str,
    constitution: str,
    principles: Sequence[str],
    is_direct: bool,
    compared: Sequence[str] = (),
) -> CritiqueResult:
    """The summary of the run, with scores by name; those in `compared` are preference rates."""
    rounds = [_revision(i, chains, scores) for i in range(len(chains[0].answers))]
    drawn = sorted(random.Random(0).sample(range(len(chains)), min(EXAMPLES, len(chains))))
    return CritiqueResult(
        model=model,
        constitution=constitution,
        principles=[_principle(name, chains, scores) for name in principles],
        is_direct=is_direct,
        prompts=len(chains),
        demonstrations=sum(chain.is_usable for chain in chains),
        pairs=sum(is_pair(chain) for chain in chains),
        compared=list(compared),
        revisions=rounds,
        examples=[_example(chains[i]) for i in drawn],
        warnings=_warnings(rounds, len(chains)),
    )


def is_pair(chain: Chain) -> bool:
    """Whether the last answer is a revision that differs from the first, both without fault."""
    return not chain.faults[0] and is_changed(chain.answers[0], chain.answers[-1])


def _revision(number: int, chains: Sequence[Chain], scores: Mapping[str, Scores]) -> RevisionRow:
    faults = Counter(chain.faults[number] for chain in chains)
    changed = [number > 0 and is_changed(*c.answers[number - 1 : number + 1]) for c in chains]
    words = [float(len(c.answers[number].split())) for c in chains if c.answers[0]]
    gains = {
        name: mean([row[number] - row[0] for row in of if row[number] is not None and row[0] is not None])  # type: ignore[operator]
        for name, of in scores.items()
    }
    means = {name: mean([row[number] for row in of if row[number] is not None]) for name, of in scores.items()}  # type: ignore[misc]
    return RevisionRow(
        number=number,
        changed=sum(changed),
        unchanged=faults[""] - sum(changed) if number else 0,
        faults={name: count for name, count in faults.most_common() if name},
        cut_critiques=sum(chain.cut[number - 1] for chain in chains) if number else 0,
        words=mean(words),
        scores={name: value for name, value in means.items() if value},
        gains={name: value for name, value in gains.items() if value and number},
    )


def _principle(name: str, chains: Sequence[Chain], scores: Mapping[str, Scores]) -> PrincipleRow:
    """How often a principle was drawn, and how revisions by it changed each score."""
    at = [(c, i) for c, chain in enumerate(chains) for i, p in enumerate(chain.principles, start=1) if p == name]
    steps = {
        score: [(of[c][i], of[c][i - 1]) for c, i in at if not chains[c].faults[i]] for score, of in scores.items()
    }
    gains = {
        score: mean([after - before for after, before in pairs if after is not None and before is not None])
        for score, pairs in steps.items()
    }
    return PrincipleRow(name=name, drawn=len(at), gains={score: value for score, value in gains.items() if value})


def _example(chain: Chain) -> Example:
    return Example(
        prompt=show(chain.prompt),
        answers=chain.answers,
        principles=chain.principles,
        critiques=chain.critiques,
        faults=chain.faults,
    )


def _warnings(rows: Sequence[RevisionRow], prompts: int) -> list[str]:
    """A sentence for each round in which most replies could not be used."""
    lines = []
    for row in rows:
        bad = sum(row.faults.values())
        if bad > HALF * prompts:
            kinds = ", ".join(f"{count:,} {name}" for name, count in row.faults.items())
            what = f"replies of revision {row.number}" if row.number else "first answers"
            lines.append(f"{bad:,} of {prompts:,} {what} have a fault: {kinds}.")
    return lines
