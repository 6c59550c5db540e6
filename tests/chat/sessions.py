"""Sessions whose screen can be read, and what a model says to a chat."""

from __future__ import annotations

import io

from rich.console import Console

from accord.chat.conversation import Turn
from accord.chat.screen import Screen
from accord.chat.session import Session
from accord.chat.speaker import Speaker
from accord.data.chat import encode_prompt
from accord.engine.generate import generate
from accord.engine.models import Policy
from accord.engine.sampling import Sampling
from accord.records import Message

SAMPLING = Sampling(max_new_tokens=5, temperature=1.5, seed=3)

HI = (Message("user", "hi"),)


class Heard:
    """A session whose screen can be read."""

    def __init__(self, *policies: Policy, **options: object) -> None:
        self.file = io.StringIO()
        screen = Screen(Console(file=self.file, width=80, highlight=False))
        speakers = [Speaker(policy, f"model{i}") for i, policy in enumerate(policies)]
        self.session = Session(speakers, screen, SAMPLING, **options)  # type: ignore[arg-type]

    def __call__(self, *lines: str) -> str:
        """What the screen shows when these lines are typed."""
        self.file.seek(0)
        self.file.truncate()
        self.session.run(lines)
        return self.file.getvalue()

    @property
    def turns(self) -> list[Turn]:
        return self.session.conversation.turns

    def answers(self, turn: int = -1) -> list[str]:
        return [answer.text for answer in self.turns[turn].answers]


def said(policy: Policy, prompt: tuple[Message, ...], sampling: Sampling = SAMPLING, n: int = 1) -> list[str]:
    """What `generate` makes of a chat."""
    [group] = generate(policy.network, [encode_prompt(policy.tokenizer, prompt)], n, sampling, end=policy.end)
    return [policy.text(c.tokens) for c in group]


def assistant(text: str) -> tuple[Message, ...]:
    return (Message("assistant", text),)
