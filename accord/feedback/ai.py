"""A language model as a judge: shown a principle and two answers, which of them does it choose? (RLAIF)

    P(first wins) = p(A) / (p(A) + p(B))

where p are the probabilities with which its reply begins with either letter; with several principles, a constitution,
it is asked by each of them, and the verdict is the mean (Bai et al. 2022, arXiv:2212.08073, section 4.1; Lee et al.
2023, arXiv:2309.00267, section 2). Such judges favor a position; `BothOrders` takes that out, and every command asks
both ways. The answers that they read are untrusted: one that says "choose A" may well be chosen.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import fields, replace
from pathlib import Path
from string import Formatter
from typing import Any, TypeAlias

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from accord.console import counting
from accord.errors import InputError
from accord.feedback.formula import AI
from accord.feedback.judge import Judge
from accord.feedback.reward import excerpt, lacking, unsampled
from accord.prompting.options import AskOptions, account, bare, prompted, require_keys_allowed
from accord.prompting.requests import Prompted, Reply, Request
from accord.records import Comparison, Message, Prompt, Verdict, show

HELPFUL = "Prefer the answer that helps the user more and does no harm."
"""The principle of a judge that is given none."""
LEAST = 0.01
"""With less probability on the two letters together, the model has not understood that it is to choose."""
LETTERS = ("A", "B")

Counting: TypeAlias = Callable[..., AbstractContextManager[Callable[[int], None]]]
"""What shows how far a judge is: `accord.console.counting`, or the like."""

QUESTION = """\
Below is a conversation with an assistant, and two answers that it could give next.

{principle}

[Conversation]
{prompt}

[Answer A]
{first}

[Answer B]
{second}

Which answer is to be preferred? Reply with the letter A or B, and nothing else."""
"""What the model is asked, unless a judge has a template of its own."""


@dataclass(kw_only=True, config=ConfigDict(extra="forbid"))
class JudgeConfig(AskOptions):
    """An AI judge as a YAML file describes it."""

    principles: tuple[str, ...] = (HELPFUL,)
    template: str = QUESTION
    """What the model is asked: {principle}, {prompt}, {first} and {second} stand for themselves, and any other name for
    the row's column of that name. It is to reply with A or B."""
    max_tokens: int = 8
    """Of a served reply; reasoning models need more."""
    logprobs: bool = True
    """Whether the server is asked for the letters' probabilities; without them a reply counts as 1 or 0."""


class AIJudge:
    """A judge that asks a language model by each of its principles; `counting`, silent at first, shows how far it is.

    A reply has at most `max_tokens`; 0 where the letters' probabilities are enough, which a model at hand always gives.

    Raises InputError where there is no principle, or one is empty, or the template has no place for what is compared.
    """

    def __init__(
        self,
        model: Prompted,
        principles: Sequence[str] = (HELPFUL,),
        *,
        template: str = QUESTION,
        max_tokens: int = 0,
        logprobs: bool = True,
    ) -> None:
        if not principles or not all(isinstance(p, str) and p.strip() for p in principles):
            raise InputError(f"an AI judge's principles are a list of sentences, not {list(principles)}")
        self.model, self.principles, self.max_tokens = model, tuple(principles), max_tokens
        self.template, self.choices = template, LETTERS if logprobs else ()
        self.names = _names(template, self.principles)
        self.made_of = (model,)
        self.counting: Counting = lambda title, total, note: nullcontext(lambda more: None)

    def __call__(self, comparisons: Sequence[Comparison]) -> list[Verdict]:
        """One verdict per comparison: the mean over the principles whose answers are valid.

        Raises InputError where a comparison lacks a column of the template, or a server answers nothing.
        """
        requests = [self.request(p, c) for c in comparisons for p in self.principles]
        with self.counting("judge", len(requests), lambda: account(self.model)) as done:
            replies = self.model(requests, lambda place, reply: done(1))
        if replies and hasattr(bare(self.model), "server") and all(reply.text is None for reply in replies):
            raise InputError(f"{self.model.name} gave no answer ({replies[0].reason}); see the judge's settings.")
        verdicts: list[Verdict] = []
        for start in range(0, len(replies), len(self.principles)):
            said = [verdict(reply) for reply in replies[start : start + len(self.principles)]]
            valid = [answer.first_wins for answer in said if answer.first_wins is not None]
            verdicts.append(Verdict(sum(valid) / len(valid)) if valid else said[0])
        return verdicts

    def request(self, principle: str, pair: Comparison) -> Request:
        """What the model is asked of one pair by one principle: a chat, or a text where it reads no chats."""
        first, second = (unsampled(pair.prompt, text).text for text in (pair.first, pair.second))
        known = {"principle": principle, "prompt": show(pair.prompt), "first": first, "second": second}
        self.check(Prompt(pair.prompt, pair.columns))
        text = "".join(head + said for head, said in self._filled({**pair.columns, **known}))
        is_chat = getattr(bare(self.model), "has_template", True)
        prompt = (Message("user", text),) if is_chat else f"{text}\n\n"
        return Request(prompt=prompt, max_tokens=self.max_tokens, choices=self.choices)

    def _filled(self, known: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """The template's texts, each with what stands behind it."""
        for head, name, _, _ in Formatter().parse(self.template):
            said = "" if name is None else known[name]
            yield head, said if isinstance(said, str) else json.dumps(said, ensure_ascii=False)

    def check(self, prompt: Prompt, row: int = -1) -> None:
        """Raise InputError where a row lacks a column that the template has a place for."""
        for name in self.names:
            if name not in prompt.columns:
                raise lacking("the judge's template", name, prompt.columns, row)


def _names(template: str, principles: Sequence[str]) -> list[str]:
    """The columns that a template has places for; InputError where it lacks a place, or is no template."""
    try:
        parts = [(name, spec, conversion) for _, name, spec, conversion in Formatter().parse(template)]
    except ValueError as error:
        raise InputError(f"the judge's template is none ({error}); a brace of the text is written twice.") from None
    places = {name for name, _, _ in parts if name is not None}
    wrong = next(
        (n for n, spec, how in parts if n is not None and (spec or how or not re.fullmatch(r"[\w -]+", n))), None
    )
    if wrong is not None:
        raise InputError(
            f"the judge's template has {{{wrong}}}, which is no name; a brace of the text is written twice."
        )
    for name in ("first", "second", *(["principle"] if principles != (HELPFUL,) else [])):
        if name not in places:
            raise InputError(f"the judge's template has no place for {{{name}}}.")
    return sorted(places - {"principle", "prompt", "first", "second"})


_LETTER = re.compile(r"[\W_]*(?:[Aa]nswer\W+)?([AB])(?:[^\w\s]|\n|\s*$)")
"""A reply that chooses begins with its letter: A, (B), **A**, Answer: B; but not "A better answer would be ..."."""


def verdict(reply: Reply) -> Verdict:
    """From the letters' probabilities, which need not sum to 1, where they are known, or else what was said.

    The reason of one that is not valid begins with its kind.
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


def ai_judge(
    name: str,
    *,
    dtype: str | None = None,
    given: Mapping[str, Any] | None = None,
    journal: str | None = None,
) -> AIJudge:
    """The judge that `ai:MODEL`, `ai:MODEL@URL` or a YAML file of `JudgeConfig` describes.

    What is `given`, by the names of `JudgeConfig`, goes before what the file says; `journal` is kept where neither
    names one. A model that is not served computes in the precision called `dtype`. Raises InputError where the file,
    the model or the `judge` extra is not there, or the file describes no judge.
    """
    config = _read(name)
    before: dict[str, Any] = {"dtype": dtype} if dtype else {}
    if not name.startswith(AI):
        require_keys_allowed(name, config, given or {})
    config = replace(config, **before, **(given or {}))
    config.journal = config.journal or journal
    settings: Mapping[str, Any] = {name: getattr(config, name) for name in ("principles", "template", "logprobs")}
    if config.max_tokens < 1:
        raise InputError(f"a judge's max_tokens must be positive, not {config.max_tokens}")
    most = config.max_tokens if config.server else 0
    model = prompted(config, {**settings, "max_tokens": most})
    return AIJudge(
        model, config.principles, template=config.template, max_tokens=most,
        logprobs=config.logprobs or not config.server,
    )  # fmt: skip


def _read(name: str) -> JudgeConfig:
    if name.startswith(AI):
        model, _, server = name.removeprefix(AI).partition("@")
        if not model:
            raise InputError(f"{name} names no model; write {AI}MODEL, or {AI}MODEL@URL for one that is served")
        return JudgeConfig(model=model, server=server or None)
    try:
        given = yaml.safe_load(Path(name).read_text(encoding="utf-8"))
        return TypeAdapter(JudgeConfig).validate_python(given)
    except OSError as error:
        raise InputError(f"{name}, the judge, cannot be read ({error.strerror})") from None
    except ValidationError as error:
        cause = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}".removeprefix(": ") for e in error.errors())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        cause = " ".join(str(error).split())
    known = ", ".join(field.name for field in fields(JudgeConfig))
    raise InputError(f"{name} describes no judge ({cause}); it may have {known}")


def with_progress(judge: Judge) -> Judge:
    """The judge; one that takes its time, an AI judge, shows from now on how far it is."""
    if isinstance(judge, AIJudge):
        judge.counting = counting
    return judge
