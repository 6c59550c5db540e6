"""A language model as a judge: shown a principle and two answers, which of them does it choose? (RLAIF)

    P(first wins) = p(A) / (p(A) + p(B))

where p are the probabilities with which its reply begins with either letter; with several principles, a constitution,
it is asked by each of them, and the verdict is the mean (Bai et al. 2022, arXiv:2212.08073, section 4.1; Lee et al.
2023, arXiv:2309.00267, section 2). Such judges favor a position; `BothOrders` takes that out, and every command asks
both ways. The answers that they read are untrusted: one that says "choose A" may well be chosen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import fields
from functools import cached_property
from pathlib import Path
from typing import TypeAlias, TypeVar

import torch
import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from accord.console import counting
from accord.data.chat import encode_prompt, tokenize
from accord.engine.generate import evaluating
from accord.engine.load import load_model
from accord.engine.models import Policy
from accord.engine.trees import Branch, Tree, pack
from accord.errors import InputError
from accord.feedback.formula import AI
from accord.feedback.remote import Served
from accord.feedback.reward import unsampled
from accord.objectives.segments import segment_sum
from accord.records import Comparison, Message, Verdict, show

HELPFUL = "Prefer the answer that helps the user more and does no harm."
"""The principle of a judge that is given none."""
LEAST = 0.01
"""With less probability on the two letters together, the model has not understood that it is to choose."""
AT_ONCE = 64
"""Comparisons between two signs of progress."""

Chooser: TypeAlias = Callable[[Sequence[str]], list[Verdict]]
"""What is asked: one verdict a question, P(the reply is A)."""

_QUESTION = """\
Below is a conversation with an assistant, and two answers that it could give next.

{principle}

[Conversation]
{prompt}

[Answer A]
{first}

[Answer B]
{second}

Which answer is to be preferred? Reply with the letter A or B, and nothing else."""


class AIJudge:
    """A judge that asks a language model.

    It takes its time: `counting`, which is silent, may be set to what shows how far it is, a context that is given a
    title and a number of comparisons, and gives a function of how many more are done.

    Args:
        choose: the model.
        principles: what it is to judge by; each is a question of its own.

    Raises:
        InputError: there is no principle, or one is empty.
    """

    def __init__(self, choose: Chooser, principles: Sequence[str] = (HELPFUL,)) -> None:
        if not principles or not all(isinstance(p, str) and p.strip() for p in principles):
            raise InputError(f"an AI judge's principles are a list of sentences, not {list(principles)}")
        self.choose, self.principles = choose, tuple(principles)
        self.counting: Callable[[str, int], AbstractContextManager[Callable[[int], None]]] = _silent

    def __call__(self, comparisons: Sequence[Comparison]) -> list[Verdict]:
        """One verdict per comparison: the mean over the principles whose answers are valid."""
        verdicts: list[Verdict] = []
        with self.counting("judge", len(comparisons)) as done:
            for start in range(0, len(comparisons), AT_ONCE):
                some = comparisons[start : start + AT_ONCE]
                answers = iter(self.choose([question(p, c) for c in some for p in self.principles]))
                verdicts += [_mean([next(answers) for _ in self.principles]) for _ in some]
                done(len(some))
        return verdicts


def _silent(title: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
    return nullcontext(lambda more: None)


def question(principle: str, comparison: Comparison) -> str:
    """What the model is asked of one pair by one principle."""
    first, second = (unsampled(comparison.prompt, text).text for text in (comparison.first, comparison.second))
    return _QUESTION.format(principle=principle, prompt=show(comparison.prompt), first=first, second=second)


class Local:
    """A model at hand, of which the probabilities of both letters are computed; a question too long has no answer.

    The question is computed once for both letters. The model stays as it is given: where it computes in less than
    float32, it is asked through a copy that holds rounded weights, made when it is first asked.
    """

    def __init__(self, model: Policy, *, tokens_per_pass: int = 2048) -> None:
        self.model, self.tokens_per_pass = model, tokens_per_pass
        self.letters = [Branch(tuple(tokens)) for tokens in tokenize(model.tokenizer, ["A", "B"])]

    @cached_property
    def _reader(self) -> Policy:
        return self.model if self.model.dtype == torch.float32 else self.model.frozen_copy()

    def __call__(self, questions: Sequence[str]) -> list[Verdict]:
        """One verdict a question."""
        longest = self.model.context or math.inf
        verdicts = [Verdict(None, "")] * len(questions)
        trees = []
        for i, text in enumerate(questions):
            tree = Tree(self._encoded(text), tuple(self.letters), row=i)
            if tree.size <= longest:
                trees.append(tree)
            else:
                verdicts[i] = Verdict(None, f"the question has {tree.size} tokens, and the judge reads {longest}")
        for i, a, b in self._chances(trees):
            verdicts[i] = verdict(a, b)
        return verdicts

    def _encoded(self, text: str) -> tuple[int, ...]:
        chat = getattr(self.model.tokenizer, "chat_template", None) is not None
        return encode_prompt(self.model.tokenizer, (Message("user", text),) if chat else f"{text}\n\n")

    @torch.no_grad()
    def _chances(self, trees: Sequence[Tree]) -> list[tuple[int, float, float]]:
        """Of every tree, its row, p(A) and p(B)."""
        chances = []
        with evaluating(self._reader.network):
            for batch in pack(trees, self.tokens_per_pass, self.model.device):
                logp = self._reader.log_probs(batch).double()
                pairs = segment_sum(logp, batch.owner, batch.branches).exp().view(-1, 2).tolist()
                chances += [(tree.row, a, b) for tree, (a, b) in zip(batch.trees, pairs, strict=True)]
        return chances


def verdict(a: float, b: float) -> Verdict:
    """From the probabilities of the two letters, which need not sum to 1."""
    if not a + b >= LEAST:
        return Verdict(None, f"the judge gives the letters A and B a probability of {a + b:.2g} together")
    return Verdict(a / (a + b))


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class JudgeConfig:
    """An AI judge as a YAML file describes it."""

    model: str
    """A folder, a Hugging Face Hub name or smollm2; with `server`, what the server calls the model."""
    principles: tuple[str, ...] = (HELPFUL,)
    server: str | None = None
    """The base URL of an OpenAI-compatible server, such as http://localhost:8000/v1."""
    key: str = "OPENAI_API_KEY"
    """The environment variable that holds the server's key."""
    max_tokens: int = 8
    """Of a reply; reasoning models need more."""
    logprobs: bool = True
    """Whether the server is asked for the letters' probabilities; without them a reply counts as 1 or 0."""
    parallel: int = 8
    """Questions under way at a time."""


def ai_judge(name: str, *, dtype: str = "float32") -> AIJudge:
    """The judge that `ai:MODEL`, `ai:MODEL@URL` or a YAML file of `JudgeConfig` describes.

    A model that is not served computes in the precision called `dtype`.

    Raises:
        InputError: the file is not there, or describes no judge; the model or the `judge` extra is not there.
    """
    settings = _shorthand(name) if name.startswith(AI) else _read(name)
    choose: Chooser
    if settings.server is None:
        choose = Local(load_model(settings.model, dtype=dtype))
    else:
        choose = Served(
            settings.model, settings.server, key=settings.key, max_tokens=settings.max_tokens,
            logprobs=settings.logprobs, parallel=settings.parallel,
        )  # fmt: skip
    return AIJudge(choose, settings.principles)


def _shorthand(name: str) -> JudgeConfig:
    model, _, server = name.removeprefix(AI).partition("@")
    if not model:
        raise InputError(f"{name} names no model; write {AI}MODEL, or {AI}MODEL@URL for one that is served")
    return JudgeConfig(model=model, server=server or None)


def _read(file: str) -> JudgeConfig:
    try:
        given = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
        return TypeAdapter(JudgeConfig).validate_python(given)
    except OSError as error:
        raise InputError(f"{file}, the judge, cannot be read ({error.strerror})") from None
    except ValidationError as error:
        cause = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}".removeprefix(": ") for e in error.errors())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        cause = " ".join(str(error).split())
    known = ", ".join(field.name for field in fields(JudgeConfig))
    raise InputError(f"{file} describes no judge ({cause}); it may have {known}")


def _mean(answers: Sequence[Verdict]) -> Verdict:
    valid = [a.first_wins for a in answers if a.first_wins is not None]
    return Verdict(sum(valid) / len(valid)) if valid else answers[0]


AnyJudge = TypeVar("AnyJudge")


def with_progress(judge: AnyJudge) -> AnyJudge:
    """The judge; one that takes its time, an AI judge, shows from now on how far it is."""
    if isinstance(judge, AIJudge):
        judge.counting = counting
    return judge
