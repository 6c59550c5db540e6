"""Chatting with a local policy: the tokens of its prompt, and its streamed answer."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from transformers import PreTrainedTokenizerBase

from accord.arrays import Tokens
from accord.chat.conversation import Conversation, Reply
from accord.data.chat import encode_prompt
from accord.data.chat_template import render
from accord.engine.generate import stream
from accord.engine.models import Policy
from accord.engine.sampling import Sampling
from accord.errors import InputError
from accord.feedback.reward import Reward
from accord.records import Completion, EncodedPrompt, Message, Prompt, Sample, Text

BYTE = re.compile(r"<0x[0-9A-F]{2}>")
"""The name of a token for a byte."""


@dataclass(frozen=True)
class Question:
    """A prompt as text and tokens, the room for the answer in tokens, and the number of turns forgotten."""

    prompt: Text
    tokens: Tokens
    room: int
    forgotten: int


@dataclass(frozen=True)
class Speaker:
    """A policy with its name. Without a chat template it continues each message as a separate text."""

    policy: Policy
    name: str = field(compare=False)

    @property
    def has_template(self) -> bool:
        """Whether the model has a chat template."""
        return self.policy.tokenizer.chat_template is not None

    def check_system(self, system: str) -> None:
        """Raise InputError where the model does not accept this system prompt."""
        if not system:
            return
        if not self.has_template:
            raise InputError(f"{self.name} has no chat template, and so no place for a system prompt.")
        try:
            render(self.policy.tokenizer, (Message("system", system), Message("user", "hi")), generation=True)
        except InputError as error:
            raise InputError(f"{self.name} takes no system prompt: {error}.") from error

    def question(self, conversation: Conversation, speaker: int, message: str, longest: int) -> Question:
        """The message after the history.

        The answer gets `longest` tokens, or half the model's context where that is less; the oldest turns are forgotten
        where the prompt leaves too little room.

        Raises InputError where the message alone leaves too little room, or the model's template rejects the chat.
        """
        context = self.policy.context
        room = longest if context is None else max(1, min(longest, context // 2))
        for forgotten in range(len(conversation.turns) + 1 if self.has_template else 1):
            messages = conversation.messages(speaker, forgotten)
            prompt = (*messages, Message("user", message)) if self.has_template else message
            tokens = encode_prompt(self.policy.tokenizer, prompt)
            if context is None or len(tokens) + room <= context:
                if not tokens:
                    raise InputError("the message has no tokens, so there is nothing to continue.")
                return Question(prompt, tokens, room, forgotten)
        raise InputError(
            f"the message of {len(tokens)} tokens leaves no room for an answer of {room} in the context of "
            f"{self.name}, {context} tokens; make it shorter."
        )

    def say(self, question: Question, sampling: Sampling) -> Saying:
        """The answer, streamed on iteration."""
        return Saying(self.policy, question, sampling)

    def best_of(self, question: Question, sampling: Sampling, n: int, reward: Reward) -> Reply:
        """The answer with the highest reward among n (the first of equal ones)."""
        samples = self.policy.sample([EncodedPrompt(Prompt(question.prompt), question.tokens, -1)], n, sampling)
        answers = [Reply(question.prompt, question.tokens, s.text, s.completion) for s in samples]
        rewards = rewards_of(reward, answers)
        return replace(answers[rewards.index(max(rewards))], rewards=rewards)


class Saying:
    """A streamed answer: iterating gives pieces of its text; `answer` is the answer so far."""

    def __init__(self, policy: Policy, question: Question, sampling: Sampling) -> None:
        self.policy, self.question, self.sampling = policy, question, sampling
        self.tokens: list[int] = []
        self.logprobs: list[float] = []

    @property
    def has_begun(self) -> bool:
        """Whether a token has been sampled."""
        return bool(self.tokens)

    def __iter__(self) -> Iterator[str]:
        decoder = IncrementalDecoder(self.policy.tokenizer)
        for token, logprob in stream(self.policy.network, self.question.tokens, self.sampling, **self.policy.limits):
            self.tokens.append(token)
            self.logprobs.append(logprob)
            yield decoder.add(token)
        yield decoder.rest()

    @property
    def answer(self) -> Reply:
        """The answer so far; `is_stopped` where neither the model nor the token limit ended it."""
        has_ended = bool(self.tokens) and self.tokens[-1] in self.policy.ends
        completion = Completion(tuple(self.tokens), tuple(self.logprobs), "end" if has_ended else "length")
        is_stopped = not has_ended and len(self.tokens) < self.question.room
        text = self.policy.text(self.tokens)
        return Reply(self.question.prompt, self.question.tokens, text, completion, is_stopped)


def rewards_of(reward: Reward, answers: Sequence[Reply]) -> tuple[float, ...]:
    """The reward of each answer."""
    samples = [Sample(Prompt(a.prompt), a.text, a.prompt_tokens, a.completion) for a in answers]
    return tuple(map(float, reward(samples)))


class IncrementalDecoder:
    """Decodes tokens that arrive one by one to text, in pieces that add up to the text of them all.

    The whole is decoded anew each time, since a token's text may depend on those before it (a space between words, the
    rest of a character). Text that later tokens may still change is held back: an incomplete character, which decodes
    to U+FFFD, a run of SentencePiece's tokens for bytes, all of which do if one is wrong, and a beginning that a
    tokenizer's clean-up rewrites.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self.tokens: list[int] = []
        self.certain = ""
        self.in_bytes = False

    def add(self, token: int) -> str:
        """The text that became certain with one more token."""
        self.tokens.append(token)
        if token not in self.tokenizer.all_special_ids:  # which are left out, so that a run goes on after them
            self.in_bytes = BYTE.fullmatch(str(self.tokenizer.convert_ids_to_tokens(token))) is not None
        return "" if self.in_bytes else self._more(waiting="\ufffd")

    def rest(self) -> str:
        """The text still held back, when no more tokens come."""
        return self._more(waiting="")

    def _more(self, waiting: str) -> str:
        text = str(self.tokenizer.decode(self.tokens, skip_special_tokens=True)).rstrip(waiting)
        if not text.startswith(self.certain):
            return ""
        piece, self.certain = text[len(self.certain) :], text
        return piece
