"""A language model as a judge: given a principle and two answers, which one does it choose? (RLAIF)

    P(first wins) = p(A) / (p(A) + p(B))

where p are the probabilities that its reply begins with either letter. With several principles it is asked once for
each, and the verdict is the mean; of a constitution some are drawn for each comparison, from its texts alone, so that
both orders get the same ones (Bai et al. 2022, arXiv:2212.08073, section 4.1; Lee et al. 2023, arXiv:2309.00267,
section 2). Such judges favor a position; `BothOrders` cancels that, and every command asks in both orders. The answers
are untrusted: one that says "choose A" may well be chosen.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from accord.errors import InputError
from accord.feedback.asking import LEAST, PrincipledJudge, Question
from accord.feedback.formula import AI
from accord.feedback.options import JudgeConfig, read_judge
from accord.feedback.ranking import RankingJudge
from accord.feedback.reward import excerpt, unsampled
from accord.feedback.rubric import Rubric, RubricJudge
from accord.prompting.options import prompted
from accord.prompting.requests import Prompted, Reply
from accord.records import Comparison, Verdict, show

LETTERS = ("A", "B")

SHOWN = """\
Below is a conversation with an assistant, and two answers that it could give next.

{principle}

[Conversation]
{prompt}

[Answer A]
{first}

[Answer B]
{second}

"""
QUESTION = f"{SHOWN}Which answer is to be preferred? Reply with the letter A or B, and nothing else."
"""The default template."""
REASONED = f"{SHOWN}Which answer is to be preferred? Do not say it yet: first explain what speaks for and against each."
"""The default template where the judge reasons before the verdict."""
VERDICT = "So which answer is to be preferred? Reply with the letter A or B, and nothing else."
"""The question after the reasoning, with any template."""


class AIJudge(PrincipledJudge):
    """A judge that asks a language model to choose one of two answers by principles."""

    question, reasoned, answers = QUESTION, REASONED, ("first", "second")

    def __call__(self, comparisons: Sequence[Comparison]) -> list[Verdict]:
        """One verdict per comparison: the mean over the principles with a valid answer.

        Raises InputError where a comparison lacks a column of the template, or a server answers nothing.
        """
        asked = [self.questions(pair) for pair in comparisons]
        replies = iter(self.asker.replies([question for some in asked for question in some]))
        verdicts: list[Verdict] = []
        for some in asked:
            answers = [verdict(next(replies)) for _ in some]
            valid = [answer.first_wins for answer in answers if answer.first_wins is not None]
            verdicts.append(Verdict(sum(valid) / len(valid)) if valid else answers[0])
        return verdicts

    def questions(self, pair: Comparison) -> list[Question]:
        """The questions about one pair, one for each principle that is drawn for it."""
        first, second = (unsampled(pair.prompt, text).text for text in (pair.first, pair.second))
        principles = self.draw(pair.prompt, (first, second))
        known = {"prompt": show(pair.prompt), "first": first, "second": second}
        texts = [self.asker.filled(pair.columns, principle=principle, **known) for principle in principles]
        return [Question(text, VERDICT, LETTERS if self.has_options else ()) for text in texts]


_LETTER = re.compile(r"[\W_]*(?:[Aa]nswer\W+)?([AB])(?:[^\w\s]|\n|\s*$)")
"""A reply that chooses begins with its letter: A, (B), **A**, Answer: B; but not "A better answer would be ..."."""


def verdict(reply: Reply) -> Verdict:
    """From the letters' probabilities, which need not sum to 1, where known; otherwise from the reply's first letter.

    The reason of an invalid verdict begins with its kind.
    """
    if reply.text is None:
        return Verdict(None, reply.reason)
    begun = _LETTER.match(reply.text)
    if begun is None and (reply.text or reply.choices is None):
        kind = "cut before a letter" if reply.is_cut else "no letter"
        return Verdict(None, f"{kind}: the judge replied {excerpt(repr(reply.text))}, and neither A nor B")
    if reply.choices is None:
        return Verdict(1.0 if begun and begun[1] == "A" else 0.0)
    a, b = (reply.choices[letter] for letter in LETTERS)
    if not a + b >= LEAST:
        return Verdict(None, f"unclear: the judge gives the letters A and B a probability of {a + b:.2g} together")
    return Verdict(a / (a + b))


AnyJudge: TypeAlias = AIJudge | RankingJudge | RubricJudge


def ai_judge(
    name: str,
    *,
    dtype: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    journal: str | None = None,
) -> AnyJudge:
    """The judge described by `ai:MODEL`, `ai:MODEL@URL` or a YAML file of `JudgeConfig`.

    `overrides` replaces settings of the file, by the names of `JudgeConfig`; `journal` is used where neither names one.
    A model in this process computes in the precision `dtype`. Raises InputError where the file, the model or the
    `judge` extra is missing, or the file does not describe a judge.
    """
    config = read_judge(name, **{**({"dtype": dtype} if dtype else {}), **(overrides or {})})
    config.journal = config.journal or journal
    if config.method == "score":
        return RubricJudge(_rubric(config))
    principles, per_comparison = config.drawn_from()
    kind = RankingJudge if config.method == "rank" else AIJudge
    return kind(
        _model(config, principles=principles, per_comparison=per_comparison, seed=config.seed), principles,
        per_comparison=per_comparison, seed=config.seed, template=config.template, reasoning=config.reasoning,
        max_tokens=config.max_tokens if config.server else 0, logprobs=config.logprobs or not config.server,
    )  # fmt: skip


def ai_reward(name: str, *, dtype: str | None = None) -> Rubric:
    """The score that a YAML file of scales gives an answer, or `ai:MODEL` on the default scale.

    Raises InputError as `ai_judge` does, and where the file's judge does not score.
    """
    by_name = {"method": "score"} if name.startswith(AI) else {}
    config = read_judge(name, **({"dtype": dtype} if dtype else {}), **by_name)
    if config.method != "score":
        raise InputError(f"{name} compares answers and does not score them: use it as a judge, or set method: score.")
    return _rubric(config)


def _rubric(config: JudgeConfig) -> Rubric:
    scales = config.rubric()
    model = _model(config, scales={name: str(scale) for name, scale in scales.items()})
    most = config.max_tokens if config.server else 0
    return Rubric(
        model, scales, template=config.template, reasoning=config.reasoning, max_tokens=most,
        logprobs=config.logprobs or not config.server,
    )  # fmt: skip


def _model(config: JudgeConfig, **settings: Any) -> Prompted:
    """The model that is asked; its journal records all settings that decide the questions."""
    shared = ("method", "template", "logprobs", "reasoning", "max_tokens")
    return prompted(config, {**{name: getattr(config, name) for name in shared}, **settings})
