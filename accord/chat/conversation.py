"""A conversation with one model or two: its turns, and the training rows made from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from accord.arrays import Tokens
from accord.data import load_data
from accord.errors import InputError
from accord.files import write_rows
from accord.parsing import parse_json
from accord.records import Completion, Demonstration, Message, Preference, Ranking, Text, row_to_json, text_to_json

Preferred: TypeAlias = Literal["1", "2", "tie"]


@dataclass(frozen=True)
class Reply:
    """A model's answer and its prompt; `rewards` are those of all samples it was chosen from, its own the highest."""

    prompt: Text
    prompt_tokens: Tokens
    text: str
    completion: Completion
    is_stopped: bool = False
    rewards: tuple[float, ...] = ()


@dataclass
class Turn:
    """The user's message, each model's answer, and the answer the user prefers."""

    message: str
    answers: tuple[Reply, ...]
    preferred: Preferred | None = None
    is_saved: bool = False

    def comparison(self) -> Preference | Ranking:
        """The row for the user's preference. Raises InputError where the two answers cannot be compared."""
        first, second = self.answers
        if first.prompt != second.prompt:
            raise InputError("the two models had been told different things before it")
        if first.text == second.text and self.preferred != "tie":
            raise InputError("its two answers are equal")
        if self.preferred == "tie":
            return Ranking(first.prompt, (_completion(first), _completion(second)), (0, 0))
        chosen, rejected = (second, first) if self.preferred == "2" else (first, second)
        return Preference(first.prompt, _completion(chosen), _completion(rejected))


def _completion(answer: Reply) -> Text:
    """An answer in the form of its prompt (text or messages)."""
    return answer.text if isinstance(answer.prompt, str) else (Message("assistant", answer.text),)


@dataclass
class Conversation:
    """The turns so far, and the system prompt, if any."""

    system: str = ""
    turns: list[Turn] = field(default_factory=list)

    def messages(self, speaker: int, forgotten: int = 0) -> list[Message]:
        """The history as a model sees it, without the oldest `forgotten` turns.

        Each turn has the preferred answer (for a tie the first), or without a preference the model's own.
        """
        messages = [Message("system", self.system)] if self.system else []
        for turn in self.turns[forgotten:]:
            answer = turn.answers[speaker if turn.preferred is None else turn.preferred == "2"]
            messages += [Message("user", turn.message), Message("assistant", answer.text)]
        return messages


def save_demonstrations(conversation: Conversation, file: Path) -> str:
    """Append the conversation with one model to the file; returns a line that says so.

    A chat is one row with all its messages; plain texts, which stand alone, are one row per turn.

    Raises InputError where nothing was said, an answer is empty, or the file cannot be appended to.
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
    """Append the unsaved preferences to the file, and ties as rankings to a file beside it; returns a message.

    Preferences and rankings have different columns, and a file holds one kind.
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
    """Add rows to a JSONL file by rewriting it atomically, if `load_data` can read all of it.

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
