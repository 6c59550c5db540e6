"""A model that talks: the tokens of what it is asked, and its answer as it comes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from accord.chat.conversation import Answer, Conversation
from accord.data.chat import encode_prompt, render
from accord.engine.generate import generate
from accord.engine.models import Policy
from accord.engine.sampling import Sampling
from accord.engine.stream import Spelling, stream
from accord.errors import InputError
from accord.feedback.judge import Reward
from accord.records import Completion, Message, Prompt, Sample, Text


@dataclass(frozen=True)
class Question:
    """What a model is asked: the text, its tokens, how many it may answer with, and how many turns were forgotten."""

    prompt: Text
    tokens: tuple[int, ...]
    room: int
    forgotten: int


@dataclass(frozen=True)
class Speaker:
    """A policy and what it is called. Without a chat template it continues each message as a text of its own."""

    policy: Policy
    name: str

    @property
    def has_template(self) -> bool:
        """Whether it was made to talk in turns."""
        return self.policy.tokenizer.chat_template is not None

    def check_system(self, system: str) -> None:
        """Raise InputError where the model cannot be given this system prompt."""
        if not system:
            return
        if not self.has_template:
            raise InputError(f"{self.name} has no chat template, and so no place for a system prompt.")
        try:
            render(self.policy.tokenizer, (Message("system", system), Message("user", "hi")), generation=True)
        except InputError as error:
            raise InputError(f"{self.name} takes no system prompt: {error}.") from error

    def question(self, conversation: Conversation, speaker: int, message: str, longest: int) -> Question:
        """The message after what was said before.

        The answer gets `longest` tokens of room, or half the model's context where that is less; the oldest turns are
        forgotten where they leave too little.

        Raises:
            InputError: the message alone leaves too little room, or the model's template refuses the chat.
        """
        history = conversation.history(speaker) if self.has_template else []
        context = self.policy.context
        room = longest if context is None else max(1, min(longest, context // 2))
        for forgotten in range(len(history) + 1):
            prompt = self._prompt(conversation.system, history[forgotten:], message)
            tokens = encode_prompt(self.policy.tokenizer, prompt)
            if context is None or len(tokens) + room <= context:
                if not tokens:
                    raise InputError("the message has no tokens, so there is nothing to continue.")
                return Question(prompt, tokens, room, forgotten)
        raise InputError(
            f"the message of {len(tokens)} tokens leaves no room for an answer of {room} in the context of "
            f"{self.name}, {context} tokens; make it shorter."
        )

    def _prompt(self, system: str, history: Sequence[tuple[str, str]], message: str) -> Text:
        if not self.has_template:
            return message
        turns = [Message("system", system)] if system else []
        for asked, answered in history:
            turns += [Message("user", asked), Message("assistant", answered)]
        return (*turns, Message("user", message))

    def best_of(self, question: Question, sampling: Sampling, n: int, reward: Reward) -> Answer:
        """The first of highest reward among n answers."""
        sampling = replace(sampling, max_new_tokens=question.room)
        [completions] = generate(self.policy.network, [question.tokens], n, sampling, end=self.policy.end)
        answers = [Answer(question.prompt, question.tokens, self.policy.text(c.tokens), c) for c in completions]
        rewards = rewards_of(reward, answers)
        return replace(answers[rewards.index(max(rewards))], rewards=rewards)


class Saying:
    """An answer on its way: iterating gives pieces of its text; `answer` is what was said until then."""

    def __init__(self, speaker: Speaker, question: Question, sampling: Sampling) -> None:
        self.speaker, self.question = speaker, question
        self.sampling = replace(sampling, max_new_tokens=question.room)
        self.tokens: list[int] = []
        self.logprobs: list[float] = []

    def __iter__(self) -> Iterator[str]:
        policy = self.speaker.policy
        spelling = Spelling(policy.tokenizer)
        for token, logprob in stream(policy.network, self.question.tokens, self.sampling, end=policy.end):
            self.tokens.append(token)
            self.logprobs.append(logprob)
            yield spelling.add(token)
        yield spelling.rest()

    @property
    def answer(self) -> Answer:
        """What was said so far; stopped where neither the model nor the limit has ended it."""
        policy = self.speaker.policy
        has_ended = self.tokens[-1:] == [policy.end]
        completion = Completion(tuple(self.tokens), tuple(self.logprobs), "end" if has_ended else "length")
        return Answer(
            self.question.prompt,
            self.question.tokens,
            policy.text(self.tokens),
            completion,
            is_stopped=not has_ended and len(self.tokens) < self.question.room,
        )


def rewards_of(reward: Reward, answers: Sequence[Answer]) -> tuple[float, ...]:
    """The reward of each answer."""
    samples = [Sample(Prompt(a.prompt), a.text, a.prompt_tokens, a.completion) for a in answers]
    return tuple(map(float, reward(samples)))
