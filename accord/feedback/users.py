"""Simulated users, who go on with a conversation, and whole conversations of a policy with one.

A user is a Python function that is given the messages so far, which end with the assistant's answer, and says what the
user says next, or None where the conversation is over. A conversation is a sample for each of the assistant's turns,
whose prompt is all that was said before it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, TypeAlias

from accord.data.chat import RewrittenPast, encode_reply
from accord.engine.models import Policy
from accord.engine.sampling import Sampling
from accord.engine.team import Team
from accord.errors import InputError, located
from accord.feedback.formula import GUESTS
from accord.feedback.functions import FunctionUser
from accord.feedback.named import imported
from accord.feedback.reward import row_named
from accord.records import EncodedPrompt, Message, Prompt, Sample

Talk: TypeAlias = list[Sample]
"""The assistant's turns of one conversation, in order; each sample's prompt is what was said before it."""


class User(Protocol):
    """Anything that goes on with conversations."""

    def __call__(self, samples: Sequence[Sample]) -> list[str | None]:
        """What the user says after each of the assistant's answers, None where the conversation is over."""
        ...

    def check(self, prompt: Prompt, row: int) -> None:
        """Raise InputError where a prompt's row lacks what the user reads."""
        ...


def user_of(user: str | Callable[..., Any]) -> User:
    """The simulated user that a name stands for (module:function, or a small world's guest), or a function is.

    Raises InputError where the name means nothing, or the function does not take messages.
    """
    if not isinstance(user, str):
        return FunctionUser(user)
    if user not in GUESTS and ":" not in user:
        raise InputError(f"{user!r} is no simulated user: give module:function, or {' or '.join(GUESTS)}.")
    return FunctionUser(imported(GUESTS.get(user, user)), user)


@dataclass(frozen=True)
class Dialogue:
    """How a policy is talked with: by whom, for how many of its turns at most, and which of them are rewarded."""

    user: User
    max_turns: int = 4
    reward_at: Literal["end", "turns", "turns-to-go"] = "end"

    def check(self, prompt: Prompt, row: int) -> None:
        """Raise InputError where a prompt cannot begin a conversation with the user."""
        if isinstance(prompt.prompt, str):
            raise InputError(f"{row_named(row)}: a conversation begins with messages, and this prompt is a plain text")
        self.user.check(prompt, row)

    def rewarded(self, talk: Talk) -> Talk:
        """The turns of a conversation that are rewarded: the last, or all."""
        return talk[-1:] if self.reward_at == "end" else talk

    def talks(
        self,
        policy: Policy,
        prompts: Sequence[EncodedPrompt],
        n: int,
        sampling: Sampling,
        *,
        longest: int | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> list[Talk]:
        """n conversations that begin with each prompt, prompt after prompt.

        A conversation is over where the user says so, after `max_turns` answers, after an answer that was cut, and
        where the next prompt would leave no room for an answer within `longest` tokens and the model's context.
        `progress` is called with the number of answers finished since its last call.

        Raises InputError where the chat template writes earlier answers otherwise once a chat goes on.
        """
        seed = sampling.seed if isinstance(sampling.seed, tuple) else (sampling.seed,)
        longest = min((limit for limit in (longest, policy.context) if limit is not None), default=None)
        talks = [[sample] for sample in policy.sample(prompts, n, sampling, progress=progress)]
        for turn in range(1, self.max_turns):
            whole = [talk for talk in talks if len(talk) == turn and talk[-1].completion.stop == "end"]
            asked = self._asked(policy, whole, sampling.max_new_tokens, longest)
            if not asked:
                break
            own = replace(sampling, seed=(*seed, turn))  # equal conversations are numbered on, as equal prompts are
            for (talk, _), sample in zip(
                asked, policy.sample([p for _, p in asked], 1, own, progress=progress), strict=True
            ):
                talk.append(sample)
        return talks

    def _asked(
        self, policy: Policy, talks: list[Talk], room: int, longest: int | None
    ) -> list[tuple[Talk, EncodedPrompt]]:
        """The conversations that go on, each with the prompt of its next turn."""
        found: list[tuple[Talk, EncodedPrompt]] = []
        answers = Team.here().lead(lambda: self.user([talk[-1] for talk in talks]))  # a user is asked once
        for talk, said in zip(talks, answers, strict=True):
            if said is None:
                continue
            prompt = next_prompt(policy, talk[-1], said)
            if longest is None or len(prompt.tokens) + room <= longest:
                found.append((talk, prompt))
        return found


def next_prompt(policy: Policy, sample: Sample, said: str) -> EncodedPrompt:
    """The prompt after an answer and what the user says to it: the very tokens so far, and those that follow."""
    assert not isinstance(sample.prompt.prompt, str)
    chat = (*sample.prompt.prompt, Message("assistant", sample.text))
    with located(f"{row_named(sample.row)}: "):
        try:
            reply = encode_reply(policy.tokenizer, chat, said, ended=sample.completion.tokens[-1] == policy.end)
        except RewrittenPast:
            raise InputError(
                "the chat template writes an answer otherwise once the chat goes on, so that a conversation is no one "
                "text: give a template that does not, by --chat-template"
            ) from None
    tokens = sample.prompt_tokens + sample.completion.tokens + reply
    return EncodedPrompt(Prompt((*chat, Message("user", said)), sample.prompt.columns), tokens, sample.row)
