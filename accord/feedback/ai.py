"""A language model as a judge: shown a principle and two answers, which of them does it choose? (RLAIF)

    P(first wins) = p(A) / (p(A) + p(B))

where p are the probabilities with which its reply begins with either letter; with several principles, a constitution,
it is asked by each of them, and the verdict is the mean (Bai et al. 2022, arXiv:2212.08073, section 4.1; Lee et al.
2023, arXiv:2309.00267, section 2). Such judges favor a position; `BothOrders` takes that out, and every command asks
both ways. The answers that they read are untrusted: one that says "choose A" may well be chosen.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

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
from accord.feedback.judge import Judge
from accord.feedback.reward import excerpt, unsampled
from accord.objectives.segments import segment_sum
from accord.records import Comparison, Message, Verdict, show

if TYPE_CHECKING:
    import openai

HELPFUL = "Prefer the answer that helps the user more and does no harm."
"""The principle of a judge that is given none."""
LEAST = 0.01
"""With less probability on the two letters together, the model has not understood that it is to choose."""
AT_ONCE = 64
"""Comparisons between two signs of progress."""

Chooser: TypeAlias = Callable[[Sequence[str]], list[Verdict]]
"""What is asked: one verdict a question, P(the reply is A)."""
Counting: TypeAlias = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
"""What shows how far a judge is: a context, given a title and a number, that gives a function of how many are done."""

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


class AIJudge:
    """A judge that asks a language model by each of its principles; `counting`, silent at first, shows how far it is.

    Raises InputError where there is no principle, or one is empty.
    """

    def __init__(self, choose: Chooser, principles: Sequence[str] = (HELPFUL,)) -> None:
        if not principles or not all(isinstance(p, str) and p.strip() for p in principles):
            raise InputError(f"an AI judge's principles are a list of sentences, not {list(principles)}")
        self.choose, self.principles = choose, tuple(principles)
        self.counting: Counting = lambda title, total: nullcontext(lambda more: None)

    def __call__(self, comparisons: Sequence[Comparison]) -> list[Verdict]:
        """One verdict per comparison: the mean over the principles whose answers are valid."""
        verdicts: list[Verdict] = []
        with self.counting("judge", len(comparisons)) as done:
            for start in range(0, len(comparisons), AT_ONCE):
                some = comparisons[start : start + AT_ONCE]
                answers = iter(self.choose([question(p, c) for c in some for p in self.principles]))
                for _ in some:
                    said = [next(answers) for _ in self.principles]
                    valid = [answer.first_wins for answer in said if answer.first_wins is not None]
                    verdicts.append(Verdict(sum(valid) / len(valid)) if valid else said[0])
                done(len(some))
        return verdicts


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
        chat = getattr(self.model.tokenizer, "chat_template", None) is not None
        verdicts = [Verdict(None, "")] * len(questions)
        trees = []
        for i, text in enumerate(questions):
            prompt = encode_prompt(self.model.tokenizer, (Message("user", text),) if chat else f"{text}\n\n")
            tree = Tree(prompt, tuple(self.letters), row=i)
            if tree.size <= longest:
                trees.append(tree)
            else:
                verdicts[i] = Verdict(None, f"the question has {tree.size} tokens, and the judge reads {longest}")
        with torch.no_grad(), evaluating(self._reader.network):
            for batch in pack(trees, self.tokens_per_pass, self.model.device):
                logp = self._reader.log_probs(batch).double()
                pairs = segment_sum(logp, batch.owner, batch.branches).exp().view(-1, 2).tolist()
                for tree, (a, b) in zip(batch.trees, pairs, strict=True):
                    verdicts[tree.row] = verdict(a, b)
        return verdicts


def verdict(a: float, b: float) -> Verdict:
    """From the probabilities of the two letters, which need not sum to 1."""
    if not a + b >= LEAST:
        return Verdict(None, f"the judge gives the letters A and B a probability of {a + b:.2g} together")
    return Verdict(a / (a + b))


_LETTER = re.compile(r"[\W_]*(?:[Aa]nswer\W+)?([AB])(?:[^\w\s]|\n|\s*$)")
"""A reply that chooses begins with its letter: A, (B), **A**, Answer: B; but not "A better answer would be ..."."""
_FAILED = "gave no answer"


class Served:
    """The letter that a served model chooses, or its probability where the server gives that.

    Each question is a request of its own, with `timeout` seconds for an answer, and is asked again up to `retries`
    times where the server is busy or too slow; a question that fails even so has an invalid verdict, with the cause.

    Raises InputError where the `judge` extra is not installed.
    """

    def __init__(self, settings: JudgeConfig, url: str, *, timeout: float = 60.0, retries: int = 3) -> None:
        if not url.startswith(("http://", "https://")):
            raise InputError(f"a judge's server is reached by http:// or https://, not by {url}")
        if settings.parallel < 1 or settings.max_tokens < 1:
            numbers = f"{settings.parallel}, {settings.max_tokens}"
            raise InputError(f"a judge's parallel, max_tokens must be positive, not {numbers}")
        self.settings, self.url = settings, url
        try:
            from openai import OpenAI
        except ImportError:
            raise InputError("a served judge needs openai: pip install 'accord[judge]'") from None
        key = os.environ.get(settings.key) or "none"
        self.client = OpenAI(base_url=url, api_key=key, timeout=timeout, max_retries=retries)

    def __call__(self, questions: Sequence[str]) -> list[Verdict]:
        """One verdict a question; InputError where the server refuses such requests, or answers none of them."""
        with ThreadPoolExecutor(self.settings.parallel) as threads:
            verdicts = list(threads.map(self._ask, questions))
        if verdicts and all(v.first_wins is None and v.reason.startswith(_FAILED) for v in verdicts):
            raise InputError(f"{self.url} {verdicts[0].reason}; see that the server runs there")
        return verdicts

    def _ask(self, text: str) -> Verdict:
        import openai

        wanted: dict[str, Any] = {"logprobs": True, "top_logprobs": 5} if self.settings.logprobs else {}
        try:
            reply = self.client.chat.completions.create(
                model=self.settings.model, messages=[{"role": "user", "content": text}], temperature=0.0,
                max_tokens=self.settings.max_tokens, **wanted,
            )  # fmt: skip
        except (openai.RateLimitError, openai.InternalServerError, openai.APIConnectionError) as error:
            return Verdict(None, f"{_FAILED} ({without_key(error, self.client.api_key)})")
        except openai.APIStatusError as error:
            raise InputError(
                f"{self.url} refuses the question with the status {error.status_code} "
                f"({without_key(error, self.client.api_key)}); see the judge's settings, and that {self.settings.key} "
                "holds the server's key"
            ) from None
        if not reply.choices:
            return Verdict(None, f"{_FAILED} (no choices)")
        return _chosen(reply.choices[0])


def without_key(error: openai.APIError, key: str) -> str:
    """What a server said, which may quote the key it was given, if it was given one."""
    return excerpt(error.message if key == "none" else error.message.replace(key, "***"), 200)


def _chosen(choice: Any) -> Verdict:
    """From the probabilities of the reply's first letter where they were given, or else the reply itself."""
    begun = _LETTER.match(choice.message.content or "")
    if begun is None:
        return Verdict(None, f"the judge replied {excerpt(repr(choice.message.content))}, and neither A nor B")
    said = begun[1]
    tokens = getattr(choice.logprobs, "content", None) or ()
    tops = next((token.top_logprobs for token in tokens if token.token.strip() == said), None) or ()
    a, b = (sum(math.exp(top.logprob) for top in tops if top.token.strip() == letter) for letter in "AB")
    return Verdict(a / (a + b)) if a + b > 0 else Verdict(1.0 if said == "A" else 0.0)


def ai_judge(name: str, *, dtype: str = "float32") -> AIJudge:
    """The judge that `ai:MODEL`, `ai:MODEL@URL` or a YAML file of `JudgeConfig` describes.

    A model that is not served computes in the precision called `dtype`. Raises InputError where the file, the model or
    the `judge` extra is not there, or the file describes no judge.
    """
    settings = _read(name)
    if settings.server is None:
        return AIJudge(Local(load_model(settings.model, dtype=dtype)), settings.principles)
    return AIJudge(Served(settings, settings.server), settings.principles)


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
