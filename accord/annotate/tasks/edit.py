"""Critique and edit of an answer: the edited answer is chosen, the original rejected."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from accord.annotate.tasks.base import (
    Action,
    Content,
    Flagged,
    Form,
    Incomplete,
    JsonText,
    NewItem,
    SourceRow,
    Task,
    answer_to,
    comment_of,
    each_answer,
    flagged,
)
from accord.errors import InputError
from accord.records import Message, Text, text_to_json


class Draft(Content):
    """A prompt and the answer to edit, which is one text."""

    prompt: JsonText
    original: str


class Edited(Content):
    """The critique, and the edited answer; None where nothing needs an edit."""

    critique: str = ""
    edit: str | None
    comment: str = ""


class Edit(Task):
    """Critique and edit."""

    name = "edit"
    asks = "What is wrong with this answer? Mend it"
    content = Draft
    answer = Edited
    actions = (Action("done", "Done", "d"), Action("good", "Nothing to fix", "n"))

    def items(self, rows: Sequence[SourceRow], *, gold: bool, **settings: Any) -> Iterator[NewItem]:
        """One item per answer."""
        self.no_settings(settings)
        if gold:
            raise InputError("the task edit has no gold questions, as no answer is the right one: leave --gold out.")
        for row, part, prompt, answer in each_answer(rows):
            if answer is None:
                raise InputError(f"{row.where}: the row has no answer to edit: `accord sample` samples some.")
            original = one_text(answer)
            if original is None:
                raise InputError(f"{row.where}: its answer is a dialogue, and only a single message can be edited.")
            yield NewItem(row, part, Draft(prompt=prompt, original=original))

    def read(self, form: Form, content: Draft, shown: Sequence[int]) -> Content:
        """The critique and the edit."""
        if flag := flagged(form):
            return flag
        critique, edit = form.get("critique", "").strip(), form.get("edit", "").replace("\r\n", "\n").strip()
        if form.get("choice") == "good":
            return Edited(critique=critique, edit=None, comment=comment_of(form))
        if not edit:
            raise Incomplete("The answer is empty: write it as it should be.")
        if edit == content.original.replace("\r\n", "\n").strip():
            raise Incomplete("The answer is unchanged: edit it, or say that there is nothing to fix.")
        return Edited(critique=critique, edit=edit, comment=comment_of(form))

    def fill(self, answer: Mapping[str, Any], shown: Sequence[int]) -> dict[str, str]:
        """The texts."""
        return {name: value for name, value in answer.items() if isinstance(value, str)}

    def rows(self, content: Draft, answer: Edited | Flagged) -> list[dict[str, Any]]:
        """A preference for the edit; none where nothing was edited."""
        if isinstance(answer, Flagged) or answer.edit is None:
            return []
        texts = {name: answer_to(content.prompt, text) for name, text in _sides(content, answer.edit)}
        return [{"prompt": content.prompt, **texts, "critique": answer.critique}]


def _sides(content: Draft, edit: str) -> tuple[tuple[str, str], tuple[str, str]]:
    return ("chosen", edit), ("rejected", content.original)


def one_text(answer: Text) -> str | None:
    """The text of a single-message answer; None for a dialogue."""
    text = text_to_json(answer)
    if isinstance(text, str):
        return text
    match answer:
        case (Message("assistant", content),):
            return content
    return None
