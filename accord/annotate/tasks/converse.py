"""A conversation with a model in which every turn shows several live answers, and continues from the chosen one."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, TypeAlias

from pydantic import Field

from accord.annotate.tasks.base import (
    Action,
    Content,
    Flagged,
    Form,
    Incomplete,
    NewItem,
    SourceRow,
    Task,
    comment_of,
    flagged,
)
from accord.errors import InputError
from accord.records import text_to_json

Speaker: TypeAlias = Callable[[list[dict[str, Any]], int, int], list[str]]
"""A model that answers messages, the last of which is the user's: n answers, from a seed.

Raises InputError where it cannot answer.
"""


class Opening(Content):
    """The beginning of the conversation, possibly a system prompt, and the number of answers per turn."""

    number: int
    messages: list[dict[str, Any]] = Field(default_factory=list)
    answers: int = 2


class Turn(Content):
    """The annotator's message, the model's answers in the order shown, and the chosen one."""

    said: str
    answers: list[str]
    chosen: int | None = None


class Conversation(Content):
    """The turns, each with a chosen answer."""

    turns: list[Turn]
    comment: str = ""


class Converse(Task):
    """A live conversation. Its turns so far are in the slot's draft."""

    name = "converse"
    asks = "Talk with the model"
    content = Opening
    answer = Conversation
    actions = (Action("finish", "End the conversation", "e"),)
    needs_data = False
    uses_digits = True
    numbers: ClassVar[tuple[int, ...]] = (2, 3, 4)

    def items(self, rows: Sequence[SourceRow], *, gold: bool, **settings: Any) -> Iterator[NewItem]:
        """A conversation for every row: its prompt is the beginning, possibly only a system prompt."""
        answers = settings.pop("answers", None) or 2
        self.no_settings(settings)
        if gold:
            raise InputError("the task converse has no gold questions: leave --gold out.")
        if answers not in self.numbers:
            raise InputError(f"--answers must be 2, 3 or 4, not {answers}: so many answers every turn shows.")
        for number, row in enumerate(rows):
            prompt = text_to_json(row.record.prompt)
            messages = [{"role": "system", "content": prompt}] if isinstance(prompt, str) and prompt else prompt or []
            yield NewItem(row, "", Opening(number=number, messages=messages, answers=answers))  # type: ignore[arg-type]

    def shown(self, content: Mapping[str, Any]) -> Sequence[Any]:
        """Empty: answers are shown as sampled, which is a random order."""
        return ()

    def view(self, content: Opening, shown: Sequence[int]) -> dict[str, Any]:
        """Empty: the turns are in the draft."""
        return {"answers": []}

    def read(self, form: Form, content: Opening, shown: Sequence[int]) -> Content:
        """The conversation in the draft, built by the pages before."""
        if flag := flagged(form):
            return flag
        turns = [turn for turn in form.get("turns", ()) if turn["chosen"] is not None]  # type: ignore[index]
        if not turns:
            raise Incomplete("Say something, and choose an answer, before you end the conversation.")
        return Conversation.model_validate({"turns": turns, "comment": comment_of(form)})

    def fill(self, answer: Mapping[str, Any], shown: Sequence[int]) -> dict[str, Any]:
        """The turns, for the draft."""
        return dict(answer)

    def rows(self, content: Opening, answer: Conversation | Flagged) -> list[dict[str, Any]]:
        """A comparison per turn: a preference of two answers, or a ranking of more with only the chosen one first.

        A turn with identical answers makes none.
        """
        if isinstance(answer, Flagged):
            return []
        rows: list[dict[str, Any]] = []
        messages = list(content.messages)
        for number, turn in enumerate(answer.turns):
            chosen = turn.answers[turn.chosen or 0]
            messages = [*messages, {"role": "user", "content": turn.said}]
            others = [text for text in turn.answers if text != chosen]
            spoken = [[{"role": "assistant", "content": text}] for text in (chosen, *others)]
            if len(others) and content.answers == 2:
                rows.append({"prompt": messages, "chosen": spoken[0], "rejected": spoken[1], "turn": number})
            elif others:
                ranks = [0] + [1] * len(others)
                rows.append({"prompt": messages, "completions": spoken, "ranks": ranks, "turn": number})
            messages = [*messages, {"role": "assistant", "content": chosen}]
        return rows


def speak(
    speaker: Speaker, content: Opening, turns: Sequence[Mapping[str, Any]], said: str, seed: int
) -> dict[str, Any]:
    """The next turn: the annotator's message, and the model's answers in random order.

    Raises InputError where the model cannot answer.
    """
    messages = list(content.messages)
    for turn in turns:
        messages += [
            {"role": "user", "content": turn["said"]},
            {"role": "assistant", "content": turn["answers"][turn["chosen"]]},
        ]
    answers = speaker([*messages, {"role": "user", "content": said}], content.answers, seed + 1000 * len(turns))
    return {"said": said, "answers": random.Random(seed).sample(answers, len(answers)), "chosen": None}
