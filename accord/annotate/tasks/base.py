"""Common parts of all kinds of tasks: items and answers as typed JSON, forms, and keyboard shortcuts."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict

from accord.errors import InputError
from accord.records import Demonstration, Labeled, Preference, Ranking, Row, Text, text_to_json

Form = Mapping[str, str]
"""The fields of a submitted form, by name."""

JsonText = str | list[dict[str, Any]]
"""A text in JSON: a string, or a list of messages."""

LONGEST = 200_000
"""Maximum characters of one form field."""


class Incomplete(Exception):
    """A form that is not a complete answer; the message says what is missing."""


class Content(BaseModel):
    """The content of an item, or of an answer."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Flagged(Content):
    """An answer that says why the item cannot be judged. Other annotators are asked all the same."""

    flag: Literal["unsafe", "unclear"]
    comment: str = ""


@dataclass(frozen=True)
class SourceRow:
    """A row of the data that items are made from: its location for messages, its record, and its columns."""

    where: str
    record: Row
    columns: Mapping[str, Any]


@dataclass(frozen=True)
class NewItem:
    """An item made from a row, not yet in the database: its part of the row, its content, and the correct answer, if
    known."""

    source: SourceRow
    part: str
    content: Content
    gold: Content | None = None


@dataclass(frozen=True)
class Action:
    """A button: the form's value, its label, and its default key."""

    name: str
    label: str
    key: str


class Task(ABC):
    """A kind of task. Kinds have no state: an item's content has all that its page needs."""

    name: ClassVar[str]
    """The name in the command line and in the database; the template is `tasks/NAME.html`."""
    asks: ClassVar[str]
    """The heading of its page."""
    content: ClassVar[type[Content]]
    """The type of an item's content."""
    answer: ClassVar[type[Content]]
    """The type of an answer."""
    actions: ClassVar[tuple[Action, ...]] = ()
    """The buttons that submit an answer."""
    makes: ClassVar[str] = "comparisons"
    """The name of the resulting rows."""
    template: ClassVar[str] = ""
    """The template, where it is another kind's."""
    uses_digits: ClassVar[bool] = False
    """Whether digits have a meaning on its page."""
    needs_data: ClassVar[bool] = True
    """Whether it asks about rows of data."""

    @abstractmethod
    def items(self, rows: Sequence[SourceRow], *, gold: bool, **settings: Any) -> Iterator[NewItem]:
        """The items made from rows. Raises InputError for a row that does not fit, and for settings of other kinds."""

    def shown(self, content: Mapping[str, Any]) -> Sequence[Any]:
        """The answers of an item that are shown in random order."""
        return content.get("answers", ())

    @abstractmethod
    def read(self, form: Form, content: Any, shown: Sequence[int]) -> Content:
        """The answer in a form. Raises Incomplete where it is incomplete."""

    @abstractmethod
    def fill(self, answer: Mapping[str, Any], shown: Sequence[int]) -> dict[str, str]:
        """The form fields for an answer."""

    @abstractmethod
    def rows(self, content: Any, answer: Any) -> list[dict[str, Any]]:
        """The rows made from an answer, in the column conventions of `accord.data`; a flag makes none."""

    def view(self, content: Any, shown: Sequence[int]) -> dict[str, Any]:
        """Further variables of the template: the answers in their order, by letters."""
        answers = self.shown(content.model_dump())
        return {"answers": [(chr(ord("A") + position), answers[index]) for position, index in enumerate(shown)]}

    def no_settings(self, settings: Mapping[str, Any]) -> None:
        """Raise InputError for settings of other kinds."""
        for name in settings:
            raise InputError(f"--{name.replace('_', '-')} is not of the task {self.name}: leave it out.")


def comment_of(form: Form) -> str:
    """The free comment."""
    return form.get("comment", "").strip()


def flagged(form: Form) -> Flagged | None:
    """The flag in a form, if any."""
    flag = form.get("flag", "")
    return Flagged(flag=flag, comment=comment_of(form)) if flag in ("unsafe", "unclear") else None  # type: ignore[arg-type]


def require_prompt(row: SourceRow) -> JsonText:
    """The prompt as JSON. Raises InputError where the row has none."""
    prompt = text_to_json(row.record.prompt)
    if not prompt or (isinstance(prompt, str) and not prompt.strip()):
        raise InputError(f"{row.where}: the row has no prompt, so nobody could tell what its answer is to.")
    return prompt


def answers_of(record: Row) -> tuple[Text, ...]:
    """The answers in a row, one or several."""
    match record:
        case Preference(_, chosen, rejected):
            return (chosen, rejected)
        case Ranking(_, completions):
            return completions
        case Demonstration(_, completion) | Labeled(_, completion):
            return (completion,)
    return ()


def answer_to(prompt: JsonText, text: str) -> JsonText:
    """A text written by an annotator as an answer, in the form of its prompt."""
    return text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]


def grouped(rows: Sequence[SourceRow]) -> list[tuple[SourceRow, JsonText, list[JsonText], list[SourceRow]]]:
    """Rows with several answers unchanged, rows of one answer grouped by prompt.

    Each group has its first row, its prompt, its answers, and the row of each answer. Raises InputError for rows
    without a prompt or an answer.
    """
    groups: dict[str, tuple[SourceRow, JsonText, list[JsonText], list[SourceRow]]] = {}
    for number, row in enumerate(rows):
        prompt, answers = require_prompt(row), answers_of(row.record)
        if not answers:
            raise InputError(f"{row.where}: the row has no answer to judge: `accord sample` samples some.")
        alone = len(answers) == 1
        name = json.dumps(prompt if alone else number)
        group = groups.setdefault(name, (row, prompt, [], []))
        group[2].extend(map(text_to_json, answers))
        group[3].extend([row] * len(answers))
    return list(groups.values())


def each_answer(rows: Sequence[SourceRow]) -> Iterator[tuple[SourceRow, str, JsonText, Text | None]]:
    """Every single answer: its row, its part among those of one id and prompt, the prompt, and the answer.

    A row without an answer yields None.
    """
    seen: dict[str, list[str]] = {}
    ids = Counter(json.dumps([row.columns.get("id"), text_to_json(row.record.prompt)], default=str) for row in rows)
    for row in rows:
        prompt, answers = require_prompt(row), answers_of(row.record)
        name = json.dumps([row.columns.get("id"), prompt], default=str)
        for answer in answers or (None,):
            text = json.dumps(answer and text_to_json(answer), default=str)
            others = seen.setdefault(name, [])
            others += [text] if text not in others else []
            part = f"/{others.index(text) + 1}" if ids[name] > 1 or len(answers) > 1 else ""
            yield row, part, prompt, answer


def key_of(task: str, item: NewItem) -> str:
    """An item's key: its row's `id` and the item's part of the row, or a digest of task and content."""
    name = item.source.columns.get("id")
    if isinstance(name, (str, int)) and not isinstance(name, bool) and str(name).strip():
        return f"{name}{item.part}"
    held = json.dumps([task, item.content.model_dump(mode="json")], sort_keys=True)
    return hashlib.sha256(held.encode("utf-8", "surrogatepass")).hexdigest()[:20]
