"""What every kind of task is made of: items and answers as typed JSON, forms, and the keys of its page."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict

from accord.errors import InputError
from accord.records import Demonstration, Labeled, Preference, Ranking, Row, Text, text_to_json

Form = Mapping[str, str]
"""What a page's form holds when it is sent, by the names of its fields."""

JsonText = str | list[dict[str, Any]]
"""A text as JSON has it: a string, or a list of messages."""

LONGEST = 200_000
"""Characters that one field of a form may have."""


class Incomplete(Exception):
    """A form that is no answer yet; the message says in a sentence what is missing."""


class Content(BaseModel):
    """What an item holds; what an answer says."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Flagged(Content):
    """An answer that says why the item cannot be judged. Others are asked all the same."""

    flag: Literal["unsafe", "unclear"]
    comment: str = ""


@dataclass(frozen=True)
class Given:
    """A row: where messages say that it is, its record, and its columns."""

    where: str
    record: Row
    columns: Mapping[str, Any]


@dataclass(frozen=True)
class Made:
    """An item made of a row: what tells it from others of that row, its content, and the right answer where known."""

    given: Given
    part: str
    content: Content
    gold: Content | None = None


@dataclass(frozen=True)
class Action:
    """A button: the form's value for it, what it says, and its key unless somebody changed it."""

    name: str
    label: str
    key: str


class Task:
    """A kind of task. Kinds have no state: an item's content says all that its page needs to know."""

    name: ClassVar[str]
    """What it is called, in the command line and in the database; its template is `tasks/NAME.html`."""
    asks: ClassVar[str]
    """The heading of its page."""
    content: ClassVar[type[Content]]
    """What an item holds."""
    answer: ClassVar[type[Content]]
    """What an answer says."""
    actions: ClassVar[tuple[Action, ...]] = ()
    """The buttons that give an answer."""
    makes: ClassVar[str] = "comparisons"
    """What the rows of its answers are called."""
    template: ClassVar[str] = ""
    """The template, where it is another kind's."""
    uses_digits: ClassVar[bool] = False
    """Whether the digits have a meaning of their own on its page."""
    needs_data: ClassVar[bool] = True
    """Whether it asks about rows, or starts from nothing, as often as it is told."""

    def items(self, given: Sequence[Given], *, gold: bool, **settings: Any) -> Iterator[Made]:
        """The items that rows make. Raises InputError for a row that does not fit, and for another kind's settings."""
        raise NotImplementedError

    def shown(self, content: Mapping[str, Any]) -> Sequence[Any]:
        """The answers of an item whose order is random."""
        return content.get("answers", ())

    def read(self, form: Form, content: Any, shown: Sequence[int]) -> Content:
        """The answer that a form gives. Raises Incomplete where it is none yet."""
        raise NotImplementedError

    def fill(self, answer: Mapping[str, Any], shown: Sequence[int]) -> dict[str, str]:
        """The fields of a form that gave this answer."""
        raise NotImplementedError

    def rows(self, content: Any, answer: Any) -> list[dict[str, Any]]:
        """The rows that an answer amounts to, in the column conventions of `accord.data`; a flag amounts to none."""
        raise NotImplementedError

    def view(self, content: Any, shown: Sequence[int]) -> dict[str, Any]:
        """What its template is given besides: the answers in their order, by letters."""
        answers = self.shown(content.model_dump())
        return {"answers": [(chr(ord("A") + place), answers[index]) for place, index in enumerate(shown)]}

    def no_settings(self, settings: Mapping[str, Any]) -> None:
        """Raise InputError for settings of other kinds."""
        for name in settings:
            raise InputError(f"--{name.replace('_', '-')} is not of the task {self.name}: leave it out.")


def comment_of(form: Form) -> str:
    """The free comment."""
    return form.get("comment", "").strip()


def flagged(form: Form) -> Flagged | None:
    """The flag that a form raises, if it does."""
    flag = form.get("flag", "")
    return Flagged(flag=flag, comment=comment_of(form)) if flag in ("unsafe", "unclear") else None  # type: ignore[arg-type]


def require_prompt(given: Given) -> JsonText:
    """The prompt as JSON. Raises InputError where the row has none."""
    prompt = text_to_json(given.record.prompt)
    if not prompt or (isinstance(prompt, str) and not prompt.strip()):
        raise InputError(f"{given.where}: the row has no prompt, so nobody could tell what its answer is to.")
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


def said_to(prompt: JsonText, text: str) -> JsonText:
    """A text that a person wrote as an answer, in the form of its prompt."""
    return text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]


def grouped(given: Sequence[Given]) -> list[tuple[Given, JsonText, list[JsonText], list[Given]]]:
    """Rows with several answers as they are, rows of one answer together with the others of their prompt.

    Each has its first row, its prompt, its answers, and the row of each answer. Raises InputError for rows without a
    prompt or an answer.
    """
    groups: dict[str, tuple[Given, JsonText, list[JsonText], list[Given]]] = {}
    for number, one in enumerate(given):
        prompt, answers = require_prompt(one), answers_of(one.record)
        if not answers:
            raise InputError(f"{one.where}: the row has no answer to judge: `accord sample` samples some.")
        alone = len(answers) == 1
        name = json.dumps(prompt if alone else number)
        group = groups.setdefault(name, (one, prompt, [], []))
        group[2].extend(map(text_to_json, answers))
        group[3].extend([one] * len(answers))
    return list(groups.values())


def each_answer(given: Sequence[Given]) -> Iterator[tuple[Given, str, JsonText, Text | None]]:
    """Every answer by itself: its row, what tells it from others of one id and prompt, the prompt, and the answer.

    A row without an answer is there with None.
    """
    seen: dict[str, list[str]] = {}
    ids = Counter(json.dumps([one.columns.get("id"), text_to_json(one.record.prompt)], default=str) for one in given)
    for one in given:
        prompt, answers = require_prompt(one), answers_of(one.record)
        name = json.dumps([one.columns.get("id"), prompt], default=str)
        for answer in answers or (None,):
            said = json.dumps(answer and text_to_json(answer), default=str)
            others = seen.setdefault(name, [])
            others += [said] if said not in others else []
            part = f"/{others.index(said) + 1}" if ids[name] > 1 or len(answers) > 1 else ""
            yield one, part, prompt, answer


def key_of(task: str, made: Made) -> str:
    """What an item is known by: its row's `id` and which of the row's items it is, or a digest of task and content."""
    named = made.given.columns.get("id")
    if isinstance(named, (str, int)) and not isinstance(named, bool) and str(named).strip():
        return f"{named}{made.part}"
    held = json.dumps([task, made.content.model_dump(mode="json")], sort_keys=True)
    return hashlib.sha256(held.encode("utf-8", "surrogatepass")).hexdigest()[:20]
