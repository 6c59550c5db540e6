"""Asking a language model to judge: by a template, at once or after it has reasoned.

With reasoning (Lee et al. 2023, arXiv:2309.00267, section 2.1; Wei et al. 2022, arXiv:2201.11903) a question takes two
requests. The first draws the reasoning, limited in tokens; the second returns it as the model's own turn and asks for
the verdict alone, so that the verdict still comes from the probabilities of the options. Reasoning cut by the limit is
used as it is, and counted; where the model gives none, the verdict is invalid.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from string import Formatter
from typing import Any, ClassVar, TypeAlias, TypeVar

from accord.console import progress_bar
from accord.errors import InputError
from accord.feedback.constitution import draw, key_of
from accord.feedback.options import HELPFUL, checked_principles
from accord.feedback.reward import lacking
from accord.prompting.options import outcome_lines, usage, without_journal
from accord.prompting.requests import Prompted, Reply, Request
from accord.records import Message, Prompt, Text

LEAST = 0.01
"""Where all options together have less probability, the model has not understood the question: no valid verdict."""

Judging = TypeVar("Judging")
ProgressBar: TypeAlias = Callable[..., AbstractContextManager[Callable[[int], None]]]
"""A progress display such as `accord.console.progress_bar`."""


@dataclass(frozen=True)
class Question:
    """One question: its text, the request for the `verdict` after any reasoning, and the options of the reply.

    `room` is the number of tokens that the reply needs, where that is more than `max_tokens` of the asker.
    """

    text: str
    verdict: str
    options: tuple[str, ...]
    room: int = 0


class Asker:
    """A language model that is asked by a template; `progress`, silent by default, shows its progress.

    The template must have a place for each of `needs`, and may have one for each of `knows`; any other place is for the
    row's column of that name. A reply has at most `max_tokens`: 0 where the options' probabilities suffice, which a
    model in this process always gives. Up to `reasoning` tokens are drawn before it. `reasoned` counts the reasonings,
    `cut` those that were cut.

    Raises InputError where the template cannot be parsed, or lacks a place.
    """

    def __init__(
        self,
        model: Prompted,
        template: str,
        *,
        needs: Sequence[str],
        knows: Sequence[str] = ("prompt",),
        max_tokens: int = 0,
        reasoning: int = 0,
    ) -> None:
        self.model, self.template, self.max_tokens, self.reasoning = model, template, max_tokens, reasoning
        self.names = sorted(set(_places(template, needs)) - {*needs, *knows})
        self.made_of = (model,)
        self.progress: ProgressBar = lambda title, total, note: nullcontext(lambda more: None)
        self.reasoned = self.cut = 0

    def filled(self, columns: Mapping[str, Any], **known: str) -> str:
        """The template with its places filled by `known` and the row's columns."""
        self.check(Prompt("", columns))
        return "".join(head + value for head, value in self._filled({**columns, **known}))

    def _filled(self, known: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """The pieces of the template's text, each with the value that follows it."""
        for head, name, _, _ in Formatter().parse(self.template):
            value = "" if name is None else known[name]
            yield head, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

    def check(self, prompt: Prompt, row: int = -1) -> None:
        """Raise InputError where a row lacks a column that the template has a place for."""
        for name in self.names:
            if name not in prompt.columns:
                raise lacking("the judge's template", name, prompt.columns, row)

    def replies(self, questions: Sequence[Question]) -> list[Reply]:
        """A reply for each question, in order; InputError where a server answers none."""
        total = len(questions) * (2 if self.reasoning else 1)
        with self.progress("judge", total, lambda: usage(self.model)) as done:
            thoughts = self._thoughts(questions, done) if self.reasoning else [None] * len(questions)
            asked = [
                Request(prompt=self._prompt(q, thought), max_tokens=max(self.max_tokens, q.room), choices=q.options)
                for q, thought in zip(questions, thoughts, strict=True)
                if not isinstance(thought, Reply)
            ]
            answers = iter(self.model(asked, lambda index, reply: done(1)) if asked else ())
        replies = [thought if isinstance(thought, Reply) else next(answers) for thought in thoughts]
        if replies and hasattr(without_journal(self.model), "server") and all(reply.text is None for reply in replies):
            raise InputError(f"{self.model.name} gave no answer ({replies[0].reason}); see the judge's settings.")
        return replies

    def _thoughts(self, questions: Sequence[Question], done: Callable[[int], None]) -> list[str | Reply]:
        """The reasoning on each question, or a reply without text that stands for its verdict."""
        requests = [Request(prompt=self._prompt(q), max_tokens=self.reasoning) for q in questions]
        thoughts: list[str | Reply] = []
        for reply in self.model(requests, lambda index, reply: done(1)):
            if reply.text is not None and reply.text.strip():
                self.reasoned, self.cut = self.reasoned + 1, self.cut + reply.is_cut
                thoughts.append(reply.text.strip())
            else:
                reason = reply.reason or f"no reasoning: the judge gave none within {self.reasoning} tokens"
                thoughts.append(Reply(text=None, reason=reason))
        return thoughts

    def _prompt(self, question: Question, thought: str | Reply | None = None) -> Text:
        """The question, with any reasoning: as a chat, or as a text for a model without a chat template."""
        turns = [question.text] if thought is None else [question.text, str(thought), question.verdict]
        if not getattr(without_journal(self.model), "has_template", True):
            return "".join(f"{turn}\n\n" for turn in turns)
        return tuple(Message("assistant" if i % 2 else "user", turn) for i, turn in enumerate(turns))

    def outcome_lines(self) -> Iterator[str]:
        """Lines about the requests made, and reasonings cut."""
        if self.cut:
            yield (
                f"{self.cut:,} of {self.reasoned:,} reasonings were cut at {self.reasoning} tokens, and used as far as "
                "they go"
            )
        yield from outcome_lines(self.model)


def _places(template: str, needs: Sequence[str]) -> set[str]:
    """The names of a template's places; InputError where it lacks one of `needs`, or cannot be parsed."""
    try:
        parts = [(name, spec, conversion) for _, name, spec, conversion in Formatter().parse(template)]
    except ValueError as error:
        raise InputError(f"the judge's template cannot be used ({error}); write a literal brace twice.") from None
    places = {name for name, _, _ in parts if name is not None}
    wrong = next(
        (n for n, spec, how in parts if n is not None and (spec or how or not re.fullmatch(r"[\w -]+", n))), None
    )
    if wrong is not None:
        raise InputError(f"the judge's template has {{{wrong}}}, which is not a name; write a literal brace twice.")
    for name in needs:
        if name not in places:
            raise InputError(f"the judge's template has no place for {{{name}}}.")
    return places


class PrincipledJudge:
    """What judges by principles share: `per_comparison` of the principles, or all, are drawn for each question.

    Which are drawn depends on the prompt, the answers and the `seed`, not on the order of the answers. Subclasses have
    the default templates, and the template's places for the answers.

    Raises InputError where there is no principle, or one is empty, or the template has no place for the answers.
    """

    question: ClassVar[str]
    reasoned: ClassVar[str]
    answers: ClassVar[tuple[str, ...]]

    def __init__(
        self,
        model: Prompted,
        principles: Sequence[str] = (HELPFUL,),
        *,
        per_comparison: int | None = None,
        seed: int = 0,
        template: str | None = None,
        max_tokens: int = 0,
        reasoning: int = 0,
        logprobs: bool = True,
    ) -> None:
        self.principles, self.seed = checked_principles(principles), seed
        self.per_comparison = per_comparison or len(self.principles)
        needs = (*self.answers, *(["principle"] if self.principles != (HELPFUL,) else []))
        self.asker = Asker(
            model, template or (self.reasoned if reasoning else self.question), needs=needs,
            knows=("prompt", "principle"), max_tokens=max_tokens, reasoning=reasoning,
        )  # fmt: skip
        self.made_of, self.has_options = (self.asker,), logprobs

    def draw(self, prompt: Text, answers: Sequence[str]) -> list[str]:
        """The principles for a question about these answers."""
        return draw(self.principles, self.per_comparison, key_of(prompt, answers), self.seed)


def askers_in(judge: Any) -> Iterator[Asker]:
    """The Askers among the parts of a judge or reward."""
    if isinstance(judge, Asker):
        yield judge
    for part in getattr(judge, "made_of", ()):
        yield from askers_in(part)


def with_progress(judge: Judging) -> Judging:
    """The judge; language models in it show their progress from now on."""
    for asker in askers_in(judge):
        asker.progress = progress_bar
    return judge
