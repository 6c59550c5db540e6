"""Summary of a run's candidates: rejections by filter, lengths, novelty, and first words."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from accord.results.intervals import Interval, cluster_mean, wilson
from accord.results.synthesis import Example, FilterRow, Lengths, Opening, SynthesisResult
from accord.synthesis.filters import OF_INSTANCES, OF_INSTRUCTIONS
from accord.synthesis.rounds import Growth
from accord.synthesis.similarity import ComparedText, words
from accord.synthesis.tasks import Candidate, Task

EXAMPLES = 8
OPENINGS, OBJECTS = 20, 4
"""Number of first words listed, and of objects listed for each, as in the paper's figure."""

_WORDS = (
    "a about above after all an and another any are as at be below between both but by can could did do "
    "does each every few following for from given give has have her his how i if in into is it its many "
    "me more most my no not of on one or our out over please some such than that the their them then "
    "these they this those three to two under up us was we were what when where which while who why will "
    "with without would you your"
)
FUNCTION_WORDS = frozenset(_WORDS.split())
"""Words skipped before the object of an instruction, and that end it."""


def opening(instruction: str) -> tuple[str, str]:
    """The first word of an instruction and its object by a simple rule; empty where none is found.

    The object is the last of the first run of words, after the first word, without function words or punctuation:
    (write, story) in "Write a short story about ...". There is no grammar, so it may be an adverb or a verb.
    """
    tokens = re.findall(r"[a-z][a-z'-]*|[^\sa-z]", instruction.lower())
    if not tokens or not tokens[0][0].isalpha():
        return "", ""
    about = ""
    for token in tokens[1:]:
        if token in FUNCTION_WORDS or not token[0].isalpha():
            if about:
                break
        else:
            about = token
    return tokens[0], about


def openings(instructions: Sequence[str]) -> list[Opening]:
    """First words, most frequent first, each with its most frequent objects."""
    pairs = [opening(instruction) for instruction in instructions]
    firsts = Counter(first for first, _ in pairs if first)
    return [
        Opening(
            word=word,
            count=count,
            objects=dict(Counter(about for first, about in pairs if first == word and about).most_common(OBJECTS)),
        )
        for word, count in firsts.most_common()
    ]


def novelty(tasks: Sequence[Task], seeds: Sequence[Task]) -> list[float]:
    """The highest ROUGE-L of each task's instruction with a seed's."""
    known = [words(seed.instruction) for seed in seeds]
    return [ComparedText(task.instruction).nearest(known) for task in tasks]


def filter_rows(candidates: Sequence[Candidate]) -> list[FilterRow]:
    """The rejections by each filter."""
    first = Counter(candidate.rejected for candidate in candidates)
    taken = Counter(name for candidate in candidates for name, _ in candidate.dropped)
    return [
        FilterRow(
            name=name,
            what=what,
            instructions=first[name],
            share=wilson(first[name], len(candidates)) if candidates else None,
            instances=taken[name],
        )
        for name, what in {**OF_INSTRUCTIONS, **OF_INSTANCES}.items()
    ]


def lengths(texts: Sequence[str]) -> Lengths:
    """The distribution of the texts' lengths in words; at least one text."""
    counts = np.array([len(text.split()) for text in texts], float)
    low, median, high = np.quantile(counts, [0.1, 0.5, 0.9]).tolist()
    return Lengths(mean=float(counts.mean()), low=low, median=median, high=high)


def summarize(growth: Growth, generator: str, model: str, ended: str = "") -> SynthesisResult:
    """The summary of the run; `ended` says why it ended early, if it did."""
    accepted, candidates, pool = growth.pool.accepted, growth.candidates, growth.pool
    new = novelty(accepted, pool.seeds)
    rows = [row for task in accepted for row in task.rows()]
    texts = {
        "instruction": [task.instruction for task in accepted],
        "input": [row["input"] for row in rows if row["input"]],
        "output": [row["output"] for row in rows],
    }
    begun = openings(texts["instruction"])
    kinds = [task.is_classification for task in accepted if task.is_classification is not None]
    drawn = sorted(random.Random(0).sample(range(len(accepted)), min(EXAMPLES, len(accepted))))
    return SynthesisResult(
        generator=generator,
        model=model,
        seeds=len(pool.seeds),
        proposed=len(candidates),
        accepted=len(accepted),
        rounds=len(growth.rounds),
        instances=len(rows),
        without_input=sum(not row["input"] for row in rows),
        classification=sum(kinds) if kinds else None,
        similar=pool.similar,
        filters=filter_rows(candidates),
        lengths={name: lengths(some) for name, some in texts.items() if some},
        novelty=np.bincount([min(int(10 * value), 9) for value in new], minlength=10).tolist() if new else [0] * 10,
        novelty_mean=mean(new),
        highest=max((candidate.nearest for candidate in candidates if not candidate.rejected), default=0.0),
        openings=begun[:OPENINGS],
        different_openings=len(begun),
        examples=[_example(accepted[i], new[i]) for i in drawn],
        warnings=[f"{ended}: {len(accepted):,} instructions are accepted, fewer than were asked for."] if ended else [],
    )


def mean(values: Sequence[float]) -> Interval | None:
    """The mean with Student's interval; None for fewer than two values."""
    return cluster_mean(np.array(values), np.ones(len(values))) if len(values) > 1 else None


def _example(task: Task, new: float) -> Example:
    first = task.instances[0]
    return Example(instruction=task.instruction, input=first.input, output=first.output, novelty=new)
