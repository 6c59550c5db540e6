"""By how far whatever is on trial prefers one completion to another, and what it is fooled by.

A lead is antisymmetric: swapping two completions turns its sign, and 0 prefers neither. It is the log-odds of the first
where a reward or preference model is asked, the difference of two scores where a reward is, and P(first) - 1/2 where a
judge compares two texts. NaN marks a pair on which there is no verdict.

Probes are answers changed in ways that make them no better, next to the answers as they were. A model of preferences
that likes the changed ones has a weakness that a policy trained against it will find. What is added comes from the
data: the sentence that makes an answer longer is taken from the answer to another prompt.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from accord import data, engine, feedback, objectives
from accord.evaluate.statistics import Floats, Indices, mean, numbered, rate
from accord.records import Comparison, Message, Ranking, Text, Verdict
from accord.results.comparisons import Probe

if TYPE_CHECKING:
    from torch import Tensor

    from accord.data.judgments import Judgment
    from accord.engine import Model, Tree
    from accord.feedback.judge import Judge, Orders

Flags = NDArray[np.bool_]

BRANCHES = 8
"""Completions of one prompt that are computed together, at most."""

OPENING, CLOSING = "Thank you for asking!", "I hope this helps."
"""What is put around an answer to make it politer and no better."""

_SENTENCE = re.compile(r"(?<=[.!?])\s+")


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


Leader: TypeAlias = Callable[[Sequence[Comparison]], Leads]
"""Whatever is on trial: how far it prefers the first of each pair to the second."""


@dataclass(frozen=True)
class ScoreLeads:
    """The lead of whatever scores texts: the difference of two scores."""

    score: Callable[[Sequence[tuple[Text, Text]]], Tensor]
    """From (prompt, completion) pairs to their scores (C,)."""

    def __call__(self, comparisons: Sequence[Comparison]) -> Leads:
        """Every text is scored once."""
        firsts, seconds = _texts(comparisons)
        index = {text: i for i, text in enumerate(dict.fromkeys(firsts + seconds))}
        scores = self.score(list(index)).double().numpy()
        return Leads.of(scores[[index[t] for t in firsts]] - scores[[index[t] for t in seconds]])


@dataclass(frozen=True)
class JudgeLeads:
    """The lead of a judge that reads two texts, asked in both orders unless it cannot tell them apart."""

    judge: Judge

    def __call__(self, comparisons: Sequence[Comparison]) -> Leads:
        """An answer that is invalid in one order leaves no lead."""
        forward = self.judge(comparisons)
        if getattr(self.judge, "symmetric", False):
            return Leads.of(_leads(forward))
        swapped = self.judge([c.swapped for c in comparisons])
        orders = [feedback.judge.Orders(*both) for both in zip(forward, swapped, strict=True)]
        return Leads.of(_leads([o.verdict for o in orders]), orders)


@dataclass(frozen=True)
class ChatLeads:
    """The lead of what reads chats, of texts: each prompt becomes a user's message, each completion the answer."""

    leader: Leader

    def __call__(self, comparisons: Sequence[Comparison]) -> Leads:
        return self.leader([_as_chat(c) for c in comparisons])


def _as_chat(pair: Comparison) -> Comparison:
    asked = (Message("user", pair.prompt),) if isinstance(pair.prompt, str) and pair.prompt else pair.prompt
    prompt, (first, second) = data.messages.align(asked, pair.first, pair.second)
    return Comparison(prompt, first, second, pair.columns)


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
        trees, index = self._trees(firsts + seconds)
        branches = [branch for tree in trees for branch in tree.branches]
        outputs = self.outputs(trees).double()
        one, two = ([index.get(text, -1) for text in texts] for texts in (firsts, seconds))
        lead = objectives.preference.general_preference(outputs[one], outputs[two]).numpy()
        ends = np.array([self._is_whole(branch.tokens) for branch in branches])
        whole = ends[one] & ends[two]
        merged = np.array([branches[i].tokens == branches[j].tokens for i, j in zip(one, two, strict=True)])
        read = (np.minimum(one, two) >= 0) & (whole | ~merged)
        return Leads(np.where(read, lead, np.nan), read, whole & read)

    def _is_whole(self, tokens: tuple[int, ...]) -> bool:
        """Whether a completion was not cut: its turn ends, and what the chat template writes after that follows."""
        rest = data.chat.turn_rest(self.model.tokenizer) if isinstance(self.model, engine.models.Classifier) else ()
        said = tokens[: len(tokens) - len(rest)]
        return tokens[-1] in self.model.ends or (said[-1:] == (self.model.end,) and tokens == said + rest)

    def _trees(self, texts: Sequence[tuple[Text, Text]]) -> tuple[list[Tree], dict[tuple[Text, Text], int]]:
        """Trees that hold every distinct text once, and which of their branches each is; some have no room."""
        prompts: dict[Text, dict[Text, None]] = {}
        for prompt, completion in texts:
            prompts.setdefault(prompt, {})[completion] = None
        groups = [(p, tuple(c)[i : i + BRANCHES]) for p, c in prompts.items() for i in range(0, len(c), BRANCHES)]
        rows = [Ranking(prompt, some, (0,) * len(some)) for prompt, some in groups]
        longest = min(self.max_length, self.model.context or self.max_length)
        whole = isinstance(self.model, engine.models.Classifier)
        trees = data.encoding.encode(self.model.tokenizer, rows, max_length=longest, context=None, whole=whole).trees
        kept = [(rows[tree.row].prompt, c) for tree in trees for c in rows[tree.row].completions]
        return trees, {text: i for i, text in enumerate(kept)}


def _leads(verdicts: Sequence[Verdict]) -> Floats:
    """P(first) - 1/2, NaN where a verdict is invalid."""
    return np.array([np.nan if v.first_wins is None else v.first_wins - 0.5 for v in verdicts], dtype=np.float64)


def _texts(comparisons: Sequence[Comparison]) -> tuple[list[tuple[Text, Text]], list[tuple[Text, Text]]]:
    return [(c.prompt, c.first) for c in comparisons], [(c.prompt, c.second) for c in comparisons]


@dataclass(frozen=True, slots=True)
class Alteration:
    """A way to change an answer: its name, what it does, and the changed text, given a sentence of another answer."""

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
    """Every alteration of up to `most` different answers in the data, drawn by the seed.

    Answers whose change would be cut off, or changes nothing, are left out, as is an alteration that is left none.
    Intervals are by bootstrap over prompts where a prompt has several answers.
    """
    answers = _drawn(judgments, most, seed)
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
    """Of a judge that sees two texts: how often swapping them changes the winner, and how often the first one wins.

    A tie in one order alone is a change. `preferred` is a share of both orders' verdicts: 1/2 where order has no say.
    None where no pair has a valid verdict in both orders; `clusters` (P,) says which hang together.
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
    """The text at the white space after its full stops, exclamation and question marks."""
    return _SENTENCE.split(text.strip())


def altered_part(answer: Text) -> str:
    """What is changed of an answer: of a chat its last message."""
    return answer if isinstance(answer, str) else answer[-1].content


def _altered(answer: Text, foreign: str, alteration: Alteration) -> Text:
    changed = alteration.alter(altered_part(answer), foreign)
    return changed if isinstance(answer, str) else (*answer[:-1], replace(answer[-1], content=changed))


def _drawn(judgments: Sequence[Judgment], most: int, seed: int) -> list[tuple[Text, Text, str]]:
    """Prompts and their answers, each with the last sentence of the answer to another prompt, or of another answer."""
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
