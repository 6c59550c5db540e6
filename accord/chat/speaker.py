"""A model that talks: the tokens of what it is asked, and its answer as it comes.

What was said: turns with the answers of one model or two, and the rows that they make.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

from accord.arrays import Tokens
from accord.data import load_data
from accord.data.chat import encode_prompt
from accord.data.chat_template import render
from accord.engine.generate import Spelling, stream
from accord.engine.models import Policy
from accord.engine.sampling import Sampling
from accord.errors import InputError
from accord.feedback.reward import Reward
from accord.files import write_rows
from accord.parsing import parse_json
from accord.records import (
    Completion,
    Demonstration,
    EncodedPrompt,
    Message,
    Preference,
    Prompt,
    Ranking,
    Sample,
    Text,
    row_to_json,
    text_to_json,
)


@dataclass(frozen=True)
class Question:
    """What a model is asked: the text, its tokens, how many it may answer with, and how many turns were forgotten."""

    prompt: Text
    tokens: Tokens
    room: int
    forgotten: int


@dataclass(frozen=True)
class Speaker:
    """A policy and what it is called. Without a chat template it continues each message as a text of its own."""

    policy: Policy
    name: str = field(compare=False)

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

        Raises InputError where the message alone leaves too little room, or the model's template refuses the chat.
        """
        context = self.policy.context
        room = longest if context is None else max(1, min(longest, context // 2))
        for forgotten in range(len(conversation.turns) + 1 if self.has_template else 1):
            said = conversation.messages(speaker, forgotten)
            prompt = (*said, Message("user", message)) if self.has_template else message
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
        """The answer, which is given as it is iterated over."""
        return Saying(self.policy, question, sampling)

    def best_of(self, question: Question, sampling: Sampling, n: int, reward: Reward) -> Reply:
        """The first of highest reward among n answers."""
        samples = self.policy.sample([EncodedPrompt(Prompt(question.prompt), question.tokens, -1)], n, sampling)
        answers = [Reply(question.prompt, question.tokens, s.text, s.completion) for s in samples]
        rewards = rewards_of(reward, answers)
        return replace(answers[rewards.index(max(rewards))], rewards=rewards)


class Saying:
    """An answer on its way: iterating gives pieces of its text; `answer` is what was said until then."""

    def __init__(self, policy: Policy, question: Question, sampling: Sampling) -> None:
        self.policy, self.question, self.sampling = policy, question, sampling
        self.tokens: list[int] = []
        self.logprobs: list[float] = []

    @property
    def has_begun(self) -> bool:
        """Whether anything was said yet."""
        return bool(self.tokens)

    def __iter__(self) -> Iterator[str]:
        spelling = Spelling(self.policy.tokenizer)
        for token, logprob in stream(self.policy.network, self.question.tokens, self.sampling, **self.policy.limits):
            self.tokens.append(token)
            self.logprobs.append(logprob)
            yield spelling.add(token)
        yield spelling.rest()

    @property
    def answer(self) -> Reply:
        """What was said so far; stopped where neither the model nor the limit has ended it."""
        has_ended = bool(self.tokens) and self.tokens[-1] in self.policy.ends
        completion = Completion(tuple(self.tokens), tuple(self.logprobs), "end" if has_ended else "length")
        is_stopped = not has_ended and len(self.tokens) < self.question.room
        text = self.policy.text(self.tokens)
        return Reply(self.question.prompt, self.question.tokens, text, completion, is_stopped)


def rewards_of(reward: Reward, answers: Sequence[Reply]) -> tuple[float, ...]:
    """The reward of each answer."""
    samples = [Sample(Prompt(a.prompt), a.text, a.prompt_tokens, a.completion) for a in answers]
    return tuple(map(float, reward(samples)))


Preferred: TypeAlias = Literal["1", "2", "tie"]


@dataclass(frozen=True)
class Reply:
    """What a model said, and to what; `rewards` are those of all samples it was chosen from, its own the highest."""

    prompt: Text
    prompt_tokens: Tokens
    text: str
    completion: Completion
    is_stopped: bool = False
    rewards: tuple[float, ...] = ()


@dataclass
class Turn:
    """What the person said, what each model answered, and which answer the person prefers."""

    message: str
    answers: tuple[Reply, ...]
    preferred: Preferred | None = None
    is_saved: bool = False

    def comparison(self) -> Preference | Ranking:
        """The row that the person's preference makes. Raises InputError where the two answers cannot be compared."""
        first, second = self.answers
        if first.prompt != second.prompt:
            raise InputError("the two models had been told different things before it")
        if first.text == second.text and self.preferred != "tie":
            raise InputError("its two answers are equal")
        if self.preferred == "tie":
            return Ranking(first.prompt, (_said(first), _said(second)), (0, 0))
        chosen, rejected = (second, first) if self.preferred == "2" else (first, second)
        return Preference(first.prompt, _said(chosen), _said(rejected))


def _said(answer: Reply) -> Text:
    """An answer in the form of its prompt."""
    return answer.text if isinstance(answer.prompt, str) else (Message("assistant", answer.text),)


@dataclass
class Conversation:
    """The turns so far, under a system prompt where there is one."""

    system: str = ""
    turns: list[Turn] = field(default_factory=list)

    def messages(self, speaker: int, forgotten: int = 0) -> list[Message]:
        """What was said before, as a model is to see it, without the oldest turns, so many of which are forgotten.

        Of each turn it sees the preferred answer (of a tie the first), else its own.
        """
        said = [Message("system", self.system)] if self.system else []
        for turn in self.turns[forgotten:]:
            heard = turn.answers[speaker if turn.preferred is None else turn.preferred == "2"]
            said += [Message("user", turn.message), Message("assistant", heard.text)]
        return said


def save_demonstrations(conversation: Conversation, file: Path) -> str:
    """Append the conversation with one model to the file; a line that says so.

    A chat is one row of all its messages; plain texts, each of which stands alone, are a row a turn.

    Raises InputError where nothing was said, the model said nothing in some turn, or the file cannot be appended to.
    """
    turns = conversation.turns
    if not turns:
        raise InputError("nothing was said yet, so there is nothing to save.")
    silent = next((i for i, turn in enumerate(turns, 1) if not turn.answers[0].text.strip()), None)
    if silent is not None:
        raise InputError(f"the model said nothing in turn {silent}, and nobody can learn that: /undo or /retry it.")
    answers = [turn.answers[0] for turn in turns if not turn.is_saved]
    if not answers:
        raise InputError("nothing was said since it was saved.")
    rows = [{"messages": text_to_json(tuple(conversation.messages(0)))}]
    if any(isinstance(answer.prompt, str) for answer in answers):
        rows = [row_to_json(Demonstration(answer.prompt, answer.text)) for answer in answers]
    append(file, rows)
    cut = sum(turn.answers[0].completion.stop == "length" for turn in turns)
    for turn in turns:
        turn.is_saved = True
    warning = f"; where an answer was cut ({cut} of them), it would be learned as if it ended there" if cut else ""
    return f"{len(rows)} demonstration{'s' * (len(rows) > 1)} appended to {file}{warning}."


def save_comparisons(conversation: Conversation, file: Path) -> str:
    """Append the preferences not saved yet to the file, ties as rankings to one next to it; a line that says so.

    Preferences and rankings are rows of different columns, which a file holds one kind of.
    """
    rows: list[tuple[Turn, Preference | Ranking]] = []
    left_out = []
    for number, turn in enumerate(conversation.turns, 1):
        if turn.preferred and not turn.is_saved:
            try:
                rows.append((turn, turn.comparison()))
            except InputError as error:
                left_out.append(f"turn {number} is left out: {error}")
    if not rows and not left_out:
        raise InputError("there is no new preference to save: /prefer 1, 2 or tie first.")
    lines, ties = [], file.with_name(f"{file.stem}.ties{file.suffix}")
    for kind, what, target in ((Preference, "preference", file), (Ranking, "tie", ties)):
        of_kind = [(turn, row) for turn, row in rows if isinstance(row, kind)]
        if of_kind:
            append(target, [row_to_json(row) for _, row in of_kind])
            lines.append(f"{len(of_kind)} {what}{'s' * (len(of_kind) > 1)} appended to {target}")
        for turn, _ in of_kind:
            turn.is_saved = True
    return "; ".join(lines + left_out) + "."


def append(file: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Add rows to a JSONL file, which is written anew, whole or not at all; `load_data` reads all of it back.

    Raises InputError where the file is not JSONL, cannot be written, or holds rows of another kind.
    """
    if file.suffix != ".jsonl":
        raise InputError(f"{file} cannot be appended to: give a file whose name ends in .jsonl.")
    try:
        lines = file.read_text(encoding="utf-8").split("\n") if file.is_file() else []
        old = [parse_json(line) for line in lines if line.strip()]
        load_data([*old, *rows])
        write_rows(file, [*old, *rows])
    except OSError as error:
        raise InputError(f"{file} cannot be written: {error.strerror}.") from error
    except InputError as error:
        raise InputError(f"{file} would not read back ({error}), so nothing is appended to it.") from error
    except ValueError as error:
        raise InputError(f"{file} is not JSONL ({error}), so nothing is appended to it.") from error
