"""A language model as a judge of one answer alone: the mark that it gives, on one scale or on several.

    score = sum of w_k E_k / sum of |w_k|,     E_k = sum over marks m of m p_k(m) / sum over marks m of p_k(m)

with p_k(m) the probability that the reply on scale k is the mark m, as far as the model tells (Lee et al. 2023,
arXiv:2309.00267, section 2.2.2, which uses such scores as a reward without a reward model, "direct RLAIF"; Liu et al.
2023, arXiv:2303.16634); without probabilities E_k is the mark in the reply's text. The probability of 1 excludes that
of 10: it is that of 1 with nothing after it that makes another mark. An answer that lacks a valid mark on any scale has
no score: verdicts on it are invalid, and as a reward the judge abstains.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import nan
from typing import Any

import torch
from torch import Tensor

from accord.feedback.asking import LEAST, Asker, Question
from accord.feedback.judge import outcome
from accord.feedback.options import Scale
from accord.feedback.reward import excerpt, unsampled
from accord.prompting.requests import Prompted, Reply
from accord.records import Comparison, Sample, Text, Verdict, show

SHOWN = """\
Below is a conversation with an assistant, and an answer that it could give next.

[Conversation]
{prompt}

[Answer]
{answer}

"""
QUESTION = f"{SHOWN}{{question}} Reply with a whole number from {{lowest}} to {{highest}}, and nothing else."
"""The default template, for each scale."""
REASONED = f"{SHOWN}{{question}} Do not give a mark yet: first explain what speaks for the answer and what against it."
"""The default template where the judge reasons first."""
KNOWS = ("prompt", "question", "lowest", "highest")


@dataclass(frozen=True)
class Mark:
    """The mark on one scale, or why there is none; that reason begins with its kind."""

    value: float | None
    reason: str = ""


class Rubric:
    """The weighted mean of a language model's marks for an answer, as a reward: NaN where one is not valid.

    `parts` has the marks of the last call by scale, `logged` the share of answers without a score.

    Raises InputError where the template has no place for the answer, or, with several scales, for the question.
    """

    abstains = True

    def __init__(
        self,
        model: Prompted,
        scales: Mapping[str, Scale],
        *,
        template: str | None = None,
        max_tokens: int = 0,
        reasoning: int = 0,
        logprobs: bool = True,
    ) -> None:
        needs = ("answer", "question") if len(scales) > 1 else ("answer",)
        self.asker = Asker(
            model, template or (REASONED if reasoning else QUESTION), needs=needs, knows=KNOWS, max_tokens=max_tokens,
            reasoning=reasoning,
        )  # fmt: skip
        self.scales, self.has_options = dict(scales), logprobs
        self.made_of = (self.asker,)
        self.parts: dict[str, Tensor] = {}
        self.logged: dict[str, float] = {}

    def __call__(self, samples: Sequence[Sample]) -> Tensor:
        """The score of every sample, (C,) float32; raises as `marks` does."""
        return self._scores([(s.prompt.prompt, s.text, s.prompt.columns) for s in samples])

    def texts(self, pairs: Sequence[tuple[Text, Text]]) -> Tensor:
        """The score of every (prompt, completion), (C,) float32."""
        return self._scores([(prompt, unsampled(prompt, text).text, {}) for prompt, text in pairs])

    def _scores(self, answers: Sequence[tuple[Text, str, Mapping[str, Any]]]) -> Tensor:
        marks = self.marks(answers)
        self.parts = {
            name: torch.tensor([nan if row[k].value is None else row[k].value for row in marks], dtype=torch.float32)
            for k, name in enumerate(self.scales)
        }
        scores = torch.tensor([self.score(row) for row in marks], dtype=torch.float64)
        self.logged = {"answers without a score": float(scores.isnan().double().mean())} if len(marks) else {}
        return scores.float()

    def score(self, marks: Sequence[Mark]) -> float:
        """The weighted mean of one answer's marks; NaN where one is not valid."""
        weights = [scale.weight for scale in self.scales.values()]
        values = [nan if mark.value is None else mark.value for mark in marks]
        return sum(w * v for w, v in zip(weights, values, strict=True)) / sum(map(abs, weights))

    def marks(self, answers: Sequence[tuple[Text, str, Mapping[str, Any]]]) -> list[list[Mark]]:
        """The marks of every (prompt, answer, columns), one for each scale; equal questions are asked once.

        Raises InputError where a row lacks a column of the template, or a server answers nothing.
        """
        asked = [self._question(*answer, scale) for answer in answers for scale in self.scales.values()]
        distinct = list(dict.fromkeys(asked))
        by_question = dict(zip(distinct, self.asker.replies(distinct), strict=True))
        replies = iter([by_question[question] for question in asked])
        return [[mark(next(replies), scale) for scale in self.scales.values()] for _ in answers]

    def _question(self, prompt: Text, answer: str, columns: Mapping[str, Any], scale: Scale) -> Question:
        known = {"lowest": str(scale.lowest), "highest": str(scale.highest), "question": scale.question}
        text = self.asker.filled(columns, prompt=show(prompt), answer=answer, **known)
        then = f"{scale.question} Reply with a whole number from {scale.lowest} to {scale.highest}, and nothing else."
        return Question(text, then, tuple(map(str, scale.marks)) if self.has_options else ())


class RubricJudge:
    """A judge that prefers the answer of higher score; equal scores tie, and an answer without a score is invalid."""

    symmetric = True

    def __init__(self, rubric: Rubric) -> None:
        self.rubric = rubric
        self.made_of = (rubric,)

    def __call__(self, comparisons: Sequence[Comparison]) -> list[Verdict]:
        both = self._marks(comparisons)
        return [_verdict(self.rubric.score(first) - self.rubric.score(second), first, second) for first, second in both]

    def gaps(self, comparisons: Sequence[Comparison]) -> list[float]:
        """score(first) - score(second) of every pair, NaN where either has none."""
        return [self.rubric.score(first) - self.rubric.score(second) for first, second in self._marks(comparisons)]

    def _marks(self, comparisons: Sequence[Comparison]) -> list[tuple[list[Mark], list[Mark]]]:
        texts = [(c, text) for c in comparisons for text in (c.first, c.second)]
        marks = self.rubric.marks([(c.prompt, unsampled(c.prompt, text).text, c.columns) for c, text in texts])
        return list(zip(marks[::2], marks[1::2], strict=True))


def _verdict(gap: float, first: Sequence[Mark], second: Sequence[Mark]) -> Verdict:
    reason = next((mark.reason for mark in (*first, *second) if mark.value is None), None)
    return Verdict(outcome(gap)) if reason is None else Verdict(None, reason)


_MARK = re.compile(
    r"[^\w-]*(?:(?:[Ss]core|[Rr]ating|[Mm]ark|[Aa]nswer)[^\w-]+)?(?P<mark>\d{1,3})(?:\s*/\s*(?P<of>\d{1,3}))?"
    r"(?=[^\w\s.,/–-]|[.,–-](?!\s*\d)|\n|\s*$)"
)
"""A reply that gives a mark: it begins with it, as 7, **7**, Score: 7, 7/10; not -7, 7.5, 7-8, "7 things are wrong"."""


def mark(reply: Reply, scale: Scale) -> Mark:
    """The expected mark by the options' probabilities where known; otherwise the mark in the reply's text."""
    if reply.text is None:
        return Mark(None, reply.reason)
    begun = _MARK.match(reply.text)
    if (reply.text or reply.choices is None) and (begun is None or begun["of"] not in (None, str(scale.highest))):
        kind = "cut before a mark" if reply.is_cut else "no mark"
        return Mark(None, f"{kind}: the judge replied {excerpt(repr(reply.text))}")
    if reply.choices is not None:
        total = sum(reply.choices.values())
        if not total >= LEAST:
            return Mark(None, f"unclear: the judge gives all marks a probability of {total:.2g} together")
        return Mark(sum(int(name) * p for name, p in reply.choices.items()) / total)
    if begun is None or int(begun["mark"]) not in scale.marks:
        return Mark(None, f"no mark of the scale: the judge gave {begun['mark'] if begun else ''}")
    return Mark(float(begun["mark"]))
