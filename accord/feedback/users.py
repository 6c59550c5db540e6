"""Simulated users, who continue a conversation, and whole conversations of a policy with one.

A user is a Python function of the messages so far, which end with the assistant's answer; it returns the user's next
message, or None to end the conversation. A conversation gives a sample for each of the assistant's turns, whose prompt
is everything said before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, TypeAlias

from accord.data.chat import RewrittenHistory, encode_reply
from accord.engine.models import Policy
from accord.engine.sampling import Sampling
from accord.engine.team import Team
from accord.errors import InputError, located
from accord.feedback.formula import function_of_user
from accord.feedback.functions import FunctionUser
from accord.feedback.imports import import_function
from accord.feedback.reward import row_named
from accord.records import EncodedPrompt, Message, Prompt, Sample

Conversation: TypeAlias = list[Sample]
"""The assistant's turns of one conversation, in order."""


class User(Protocol):
    """Anything that continues conversations."""

    def __call__(self, samples: Sequence[Sample]) -> list[str | None]:
        """The user's message after each of the assistant's answers, None where the conversation is over."""
        ...

    def check(self, prompt: Prompt, row: int) -> None:
        """Raise InputError where a prompt's row lacks a column that the user reads."""
        ...


def user_of(user: str | Callable[..., Any]) -> User:
    """The simulated user with a name (module:function, or a small world's guest), or made of a function.

    Raises InputError where the name is unknown, or the function does not take messages.
    """
    return FunctionUser(import_function(function_of_user(user)), user) if isinstance(user, str) else FunctionUser(user)


@dataclass(frozen=True)
class Dialogue:
    """Settings of conversations: the user, the most turns of the policy, and which of them are rewarded."""

    user: User
    max_turns: int = 4
    reward_at: Literal["end", "turns", "turns-to-go"] = "end"

    def check(self, prompt: Prompt, row: int) -> None:
        """Raise InputError where a prompt cannot begin a conversation with the user."""
        if isinstance(prompt.prompt, str):
            raise InputError(f"{row_named(row)}: a conversation begins with messages, but this prompt is plain text")
        self.user.check(prompt, row)

    def rewarded(self, conversation: Conversation) -> Conversation:
        """The turns of a conversation that are rewarded: the last, or all."""
        return conversation[-1:] if self.reward_at == "end" else conversation

    def conversations(
        self,
        policy: Policy,
        prompts: Sequence[EncodedPrompt],
        n: int,
        sampling: Sampling,
        *,
        longest: int | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> list[Conversation]:
        """n conversations from each prompt, prompt by prompt.

        A conversation ends where the user ends it, after `max_turns` answers, after an answer that was cut, and where
        the next prompt would leave no room for an answer within `longest` tokens and the model's context. `progress` is
        called with the number of answers finished since its last call.

        Raises InputError where the chat template renders earlier answers differently once a chat continues.
        """
        seed = sampling.seed if isinstance(sampling.seed, tuple) else (sampling.seed,)
        longest = min((limit for limit in (longest, policy.context) if limit is not None), default=None)
        conversations = [[sample] for sample in policy.sample(prompts, n, sampling, progress=progress)]
        for turn in range(1, self.max_turns):
            whole = [turns for turns in conversations if len(turns) == turn and turns[-1].completion.stop == "end"]
            asked = self._asked(policy, whole, sampling.max_new_tokens, longest)
            if not asked:
                break
            own = replace(sampling, seed=(*seed, turn))  # equal conversations get different seeds, as equal prompts do
            for (conversation, _), sample in zip(
                asked, policy.sample([p for _, p in asked], 1, own, progress=progress), strict=True
            ):
                conversation.append(sample)
        return conversations

    def _asked(
        self, policy: Policy, conversations: list[Conversation], room: int, longest: int | None
    ) -> list[tuple[Conversation, EncodedPrompt]]:
        """The conversations that continue, each with the prompt of its next turn."""
        continued: list[tuple[Conversation, EncodedPrompt]] = []
        answers = Team.here().lead(lambda: self.user([turns[-1] for turns in conversations]))  # one rank asks for all
        for conversation, message in zip(conversations, answers, strict=True):
            if message is None:
                continue
            prompt = next_prompt(policy, conversation[-1], message)
            if longest is None or len(prompt.tokens) + room <= longest:
                continued.append((conversation, prompt))
        return continued


def next_prompt(policy: Policy, sample: Sample, message: str) -> EncodedPrompt:
    """The prompt after an answer and the user's next message: the exact tokens so far, and those that follow."""
    assert not isinstance(sample.prompt.prompt, str)
    chat = (*sample.prompt.prompt, Message("assistant", sample.text))
    with located(f"{row_named(sample.row)}: "):
        try:
            reply = encode_reply(policy.tokenizer, chat, message, ended=sample.completion.tokens[-1] == policy.end)
        except RewrittenHistory:
            raise InputError(
                "the chat template renders an earlier answer differently once the chat continues, so a conversation is "
                "not one text: give a template that does not, by --chat-template"
            ) from None
    tokens = sample.prompt_tokens + sample.completion.tokens + reply
    return EncodedPrompt(Prompt((*chat, Message("user", message)), sample.prompt.columns), tokens, sample.row)
