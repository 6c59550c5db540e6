"""How a language model is asked to generate data: as a chat, or as a text to continue."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass

from accord.prompting.requests import Prompted, Reply, Request
from accord.records import Message, Text
from accord.synthesis.parsing import on_one_line
from accord.synthesis.tasks import Instance, Task

LONGEST = 60
"""Maximum words of an instruction, input or output shown in a prompt."""


@dataclass(frozen=True, slots=True)
class Question:
    """A question to a model: the task, examples, and the beginning of the reply.

    A chat has `ask` after the examples; a plain text ends with `cue`, which is read as part of the reply.
    """

    task: str
    shown: str
    cue: str = ""
    ask: str = ""
    stop: tuple[str, ...] = ()
    max_tokens: int | None = None
    is_greedy: bool = False
    chat: tuple[Message, ...] = ()
    """The chat to ask, where it is more than one message."""

    def prompt(self, is_chat: bool) -> Text:
        """The prompt in one of the two forms."""
        parts = (self.task, self.shown, self.ask if is_chat else self.cue)
        if is_chat:
            return self.chat or (Message("user", "\n\n".join(filter(None, parts))),)
        return "\n\n".join(filter(None, parts[:2])) + (f"\n{self.cue}" if self.cue else "")


@dataclass(frozen=True, slots=True)
class Answer:
    """A reply as read: its text, with the cue it continued; None, with a reason, where there is none."""

    text: str | None
    is_cut: bool = False
    reason: str = ""


@dataclass(kw_only=True)
class Asker:
    """A model and how it is asked. Draws depend only on the seed, the place in the run, and the request."""

    model: Prompted
    is_chat: bool
    max_tokens: int = 256
    temperature: float = 0.7
    top_p: float = 0.9
    seed: int = 0

    def __call__(self, questions: Sequence[Question], step: str) -> list[Answer]:
        """An answer for each question. `step` names the step of the run, which has its own draws."""
        requests = [self._request(question, f"{step} {i}") for i, question in enumerate(questions)]
        replies = self.model(requests) if requests else []
        return [self._answer(question, reply) for question, reply in zip(questions, replies, strict=True)]

    def draws(self, step: str) -> random.Random:
        """The random numbers of a step of the run."""
        return random.Random(f"{self.seed} {step}")

    def _request(self, question: Question, step: str) -> Request:
        digest = hashlib.blake2b(f"{self.seed} {step}".encode(), digest_size=4).digest()
        return Request(
            prompt=question.prompt(self.is_chat),
            max_tokens=question.max_tokens or self.max_tokens,
            temperature=0.0 if question.is_greedy else self.temperature,
            top_p=1.0 if question.is_greedy else self.top_p,
            stop=question.stop,
            seed=0 if question.is_greedy else int.from_bytes(digest, "little"),
        )

    def _answer(self, question: Question, reply: Reply) -> Answer:
        if reply.text is None:
            return Answer(None, reason=reply.reason)
        text = reply.text.encode("utf-8", "replace").decode()  # a server may send lone surrogates
        has_cue = bool(question.cue) and not self.is_chat
        return Answer(f"{question.cue} {text.strip()}" if has_cue else text, reply.is_cut)


def is_short(*texts: str) -> bool:
    """Whether all texts are short enough to be shown in a prompt."""
    return all(len(text.split()) <= LONGEST for text in texts)


def listed(tasks: Sequence[Task]) -> str:
    """Instructions as a numbered list, one per line."""
    return "\n".join(f"{i}. {on_one_line(task.instruction)}" for i, task in enumerate(tasks, start=1))


def block(instance: Instance, order: Sequence[str] = ("Input", "Output")) -> str:
    """An instance as its two labeled blocks, in this order."""
    parts = {"Input": instance.input or "None", "Output": instance.output}
    return "\n".join(f"{label}: {parts[label]}" for label in order)
