"""Conversations in `accord sample`: one turn sampled again, or whole ones with a simulated user, a row per turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from accord import data as rows_of
from accord import feedback
from accord.console import progress_bar
from accord.errors import InputError
from accord.evaluate.options import AnswerOptions
from accord.records import EncodedPrompt, Prompt, Sample

if TYPE_CHECKING:
    from accord.data.load import Source
    from accord.engine import Policy


@dataclass(kw_only=True)
class ConversationOptions(AnswerOptions):
    """Which turn of a conversation is sampled again, or which user whole conversations are with."""

    turn: str | int | None = None
    """In conversations, which of the assistant's turns to sample again: first, last, random, or its number, counted
    from 1."""
    user: str | None = None
    """Converse with a simulated user, starting from each prompt, and write a row for each of the model's turns. The
    user is module:function, which gets the messages so far and returns the user's next one, or None to end; or a small
    world's guest (counter)."""
    max_turns: int = 4
    """The most turns of the model in a conversation with a user."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_turns < 1:
            raise InputError(f"--max-turns must be at least 1, not {self.max_turns}.")
        if self.user is None and self.max_turns != ConversationOptions.max_turns:
            raise InputError(f"--max-turns {self.max_turns} is for conversations: give a --user.")
        if self.turn is not None:
            rows_of.turns.parse_turn(self.turn)
            self.leave_out("turn")

    def leave_out(self, option: str) -> None:
        """Raise InputError where --user is given, since the option is for single answers."""
        if self.user is not None:
            raise InputError(f"--user samples whole conversations and writes every turn; leave out --{option}.")

    def prompts(self, source: Source) -> list[Prompt]:
        if self.turn is None:
            return super().prompts(source)
        return self._read(partial(rows_of.turns.load_turns, turn=self.turn, seed=self.seed), source)

    def converse(self, policy: Policy, prompts: Sequence[EncodedPrompt], n: int) -> list[Sample]:
        """Every turn of the model in n conversations from each prompt, one conversation after another.

        Raises InputError where there is no such user, or a prompt cannot begin a conversation with it.
        """
        dialogue = feedback.users.Dialogue(feedback.users.user_of(str(self.user)), self.max_turns)
        from accord.prompting.sampler import drawn_by

        for prompt in prompts:
            dialogue.check(prompt.prompt, prompt.row)
        drawn = drawn_by(self, policy, prompts, self.sampling())
        with drawn as speaker, progress_bar("sample", len(prompts) * n * self.max_turns) as done:
            conversations = dialogue.conversations(speaker, prompts, n, self.sampling(), progress=done)
        return [
            replace(turn, prompt=replace(turn.prompt, columns={**turn.prompt.columns, "conversation": i, "turn": j}))
            for i, conversation in enumerate(conversations, start=1)
            for j, turn in enumerate(conversation, start=1)
        ]
