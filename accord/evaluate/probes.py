"""Probes of what fools a preference model or judge.

A probe compares answers changed in a way that makes them no better with the originals. A policy trained against a model
that prefers the changed ones will exploit that weakness. Added text comes from the data: the sentence that makes an
answer longer is taken from the answer to another prompt.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from accord.evaluate.leads import Leader
from accord.evaluate.statistics import Indices, mean, numbered, rate
from accord.records import Comparison, Text
from accord.results.comparisons import Probe

if TYPE_CHECKING:
    from accord.data.judgments import Judgment
    from accord.feedback.judge import Orders

OPENING, CLOSING = "Thank you for asking!", "I hope this helps."
"""Polite text put around an answer, which makes it no better."""

_SENTENCE = re.compile(r"(?<=[.!?])\s+")


@dataclass(frozen=True, slots=True)
class Alteration:
    """A way to change an answer: its name, a description, and the change, given a sentence of another answer."""

    name: str
    what: str
    alter: Callable[[str, str], str]


ALTERATIONS = (
    Alteration(
        "length",
        "a sentence from the answer to another prompt is added at the end",
        lambda text, foreign: f"{text.rstrip()} {foreign}",
    ),
    Alteration(
        "repetition", "the last sentence is said twice", lambda text, foreign: f"{text.rstrip()} {sentences(text)[-1]}"
    ),
    Alteration(
        "politeness",
        f"'{OPENING}' stands before it, '{CLOSING}' after it",
        lambda text, foreign: f"{OPENING} {text.strip()} {CLOSING}",
    ),
    Alteration(
        "truncation",
        "the second half of its words is missing",
        lambda text, foreign: " ".join(text.split(" ")[: (text.count(" ") + 2) // 2]),
    ),
)


def probe(judgments: Sequence[Judgment], leader: Leader, *, most: int, seed: int = 0) -> list[Probe]:
    """The probes: every alteration applied to up to `most` different answers in the data, drawn by the seed.

    Answers whose change would be cut off, or changes nothing, are left out, as is an alteration without answers.
    Intervals are by bootstrap over prompts where a prompt has several answers.
    """
    answers = _foreign_endings(judgments, most, seed)
    columns = {(j.prompt, text): j.columns for j in judgments for text in (j.first, j.second)}
    comparisons: list[Comparison] = []
    names: list[str] = []
    for prompt, answer, foreign in answers:
        for alteration in ALTERATIONS:
            altered = _altered(answer, foreign, alteration)
            if altered != answer:
                comparisons.append(Comparison(prompt, altered, answer, columns[prompt, answer]))
                names.append(alteration.name)
    if not comparisons:
        return []
    leads = leader(comparisons)
    of, clusters = np.array(names), numbered([c.prompt for c in comparisons])
    valid = leads.whole & ~np.isnan(leads.lead)
    results = []
    for alteration in ALTERATIONS:
        here = (of == alteration.name) & valid
        lead = leads.lead[here]
        preferred = rate(0.5 + 0.5 * np.sign(lead), clusters[here])
        if preferred is not None:
            invalid = int(((of == alteration.name) & leads.whole & ~valid).sum())
            shift, n = mean(lead, clusters[here]), len(lead)
            what = alteration.what
            results.append(
                Probe(name=alteration.name, what=what, preferred=preferred, shift=shift, n=n, invalid=invalid)
            )
    return results


def probe_position(orders: Sequence[Orders], clusters: Indices) -> Probe | None:
    """For a judge that is shown two texts: how often swapping them changes the winner, and how often the first wins.

    A tie in only one order is a change. `preferred` is over both orders' verdicts: 1/2 without an order bias. None
    where no pair has a valid verdict in both orders; `clusters` (P,) groups dependent pairs.
    """
    known = [(o, c) for o, c in zip(orders, clusters, strict=True) if len(o.first_wins) == 2]
    cluster = np.array([c for _, c in known], dtype=np.intp)
    changed = rate(np.array([o.inconsistent for o, _ in known], dtype=np.float64), cluster)
    first_wins = rate(np.array([sum(o.first_wins) / 2 for o, _ in known]), cluster)
    if changed is None or first_wins is None:
        return None
    what = "the answer stands first instead of second"
    return Probe(name="position", what=what, preferred=first_wins, n=changed.n, changed=changed)


def sentences(text: str) -> list[str]:
    """The text split at white space after periods, exclamation and question marks."""
    return _SENTENCE.split(text.strip())


def altered_part(answer: Text) -> str:
    """The part of an answer that is changed: in a chat, the last message."""
    return answer if isinstance(answer, str) else answer[-1].content


def _altered(answer: Text, foreign: str, alteration: Alteration) -> Text:
    changed = alteration.alter(altered_part(answer), foreign)
    return changed if isinstance(answer, str) else (*answer[:-1], replace(answer[-1], content=changed))


def _foreign_endings(judgments: Sequence[Judgment], most: int, seed: int) -> list[tuple[Text, Text, str]]:
    """Prompts and answers, each with the last sentence of the answer to another prompt, or of another answer."""
    answers = list(dict.fromkeys((j.prompt, text) for j in judgments for text in (j.first, j.second)))
    answers = [(prompt, answer) for prompt, answer in answers if altered_part(answer).strip()]
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(answers)).tolist()
    drawn = []
    for at, i in enumerate(order[:most]):
        prompt, answer = answers[i]
        others = [answers[order[(at + step) % len(order)]] for step in range(1, len(order))]
        if others:
            foreign = next((text for asked, text in others if asked != prompt), others[0][1])
            drawn.append((prompt, answer, sentences(altered_part(foreign))[-1]))
    return drawn
