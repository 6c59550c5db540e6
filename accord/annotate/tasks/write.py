"""Texts written by annotators: demonstrations, and the three kinds of prompts of InstructGPT (arXiv:2203.02155, A.1).

A plain prompt is for any task; a few-shot prompt is an instruction with several queries and responses; a use-case
prompt is one for a given use.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

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
    answers_of,
    comment_of,
    each_answer,
    flagged,
)
from accord.annotate.tasks.edit import one_text
from accord.errors import InputError


class Question(Content):
    """A prompt, and a model's suggested answer."""

    prompt: JsonText
    suggestion: str | None = None


class Blank(Content):
    """No content except a number that identifies it."""

    number: int


class Case(Content):
    """A use of a model."""

    use_case: str


class Written(Content):
    """A demonstration."""

    text: str
    comment: str = ""


class Asked(Content):
    """A prompt, and optionally its answer."""

    prompt: str
    response: str = ""
    comment: str = ""


class Shots(Content):
    """An instruction with several queries and responses."""

    instruction: str
    queries: list[str]
    responses: list[str]
    comment: str = ""


def _no_gold(task: Task, gold: bool) -> None:
    if gold:
        raise InputError(f"the task {task.name} has no gold questions, as no text is the right one: leave --gold out.")


def _text(form: Form, name: str) -> str:
    return form.get(name, "").replace("\r\n", "\n").strip()


class Write(Task):
    """An answer written to a prompt, from scratch or from a model's suggestion."""

    name = "write"
    asks = "Write the best answer you can"
    content: ClassVar[type[Content]] = Question
    answer: ClassVar[type[Content]] = Written
    actions = (Action("done", "Done", "d"),)
    makes = "demonstrations"

    def items(self, rows: Sequence[SourceRow], *, gold: bool, **settings: Any) -> Iterator[NewItem]:
        """One item per prompt, with a suggestion where rows have a single completion."""
        self.no_settings(settings)
        _no_gold(self, gold)
        for row, part, prompt, answer in each_answer(rows):
            if answer is None or len(answers_of(row.record)) == 1:
                yield NewItem(
                    row, part, Question(prompt=prompt, suggestion=None if answer is None else one_text(answer))
                )
            elif answer == answers_of(row.record)[0]:
                yield NewItem(row, "", Question(prompt=prompt))

    def read(self, form: Form, content: Any, shown: Sequence[int]) -> Content:
        """The text."""
        if flag := flagged(form):
            return flag
        if not (text := _text(form, "text")):
            raise Incomplete("There is no answer yet: write one.")
        return Written(text=text, comment=comment_of(form))

    def fill(self, answer: Mapping[str, Any], shown: Sequence[int]) -> dict[str, str]:
        """The texts."""
        return {name: value for name, value in answer.items() if isinstance(value, str)}

    def rows(self, content: Any, answer: Any) -> list[dict[str, Any]]:
        """A demonstration; `from_suggestion` says whether there was a suggestion."""
        if isinstance(answer, Flagged):
            return []
        completion = answer_to(content.prompt, answer.text)
        return [{"prompt": content.prompt, "completion": completion, "from_suggestion": content.suggestion is not None}]


class Plain(Write):
    """A prompt for any task, and optionally its answer."""

    name = "plain"
    asks = "Write a prompt for any task you like"
    template = "ask"
    content: ClassVar[type[Content]] = Blank
    answer: ClassVar[type[Content]] = Asked
    makes = "prompts"
    needs_data = False

    def items(self, rows: Sequence[SourceRow], *, gold: bool, **settings: Any) -> Iterator[NewItem]:
        """A blank item for every row."""
        self.no_settings(settings)
        _no_gold(self, gold)
        for number, row in enumerate(rows):
            yield NewItem(row, "", self._item(row, number))

    def _item(self, row: SourceRow, number: int) -> Content:
        return Blank(number=number)

    def read(self, form: Form, content: Any, shown: Sequence[int]) -> Content:
        """The prompt, and the response, if any."""
        if flag := flagged(form):
            return flag
        if not (prompt := _text(form, "prompt")):
            raise Incomplete("There is no prompt yet: write one.")
        return Asked(prompt=prompt, response=_text(form, "response"), comment=comment_of(form))

    def rows(self, content: Any, answer: Any) -> list[dict[str, Any]]:
        """A prompt, with its completion, if one was written."""
        if isinstance(answer, Flagged):
            return []
        return [{"prompt": answer.prompt, **({"completion": answer.response} if answer.response else {})}]


class UseCase(Plain):
    """A prompt for a given use."""

    name = "use-case"
    asks = "Write what somebody with this use would ask"
    content = Case
    needs_data = True

    def _item(self, row: SourceRow, number: int) -> Content:
        case = row.columns.get("use_case")
        if not isinstance(case, str) or not case.strip():
            raise InputError(f"{row.where}: a use case is a text in the column use_case.")
        return Case(use_case=case.strip())

    def rows(self, content: Any, answer: Any) -> list[dict[str, Any]]:
        """The rows of a plain prompt, with the use case."""
        return [{**row, "use_case": content.use_case} for row in super().rows(content, answer)]


MOST_SHOTS = 8


class FewShot(Plain):
    """An instruction with several queries and responses."""

    name = "few-shot"
    asks = "Write an instruction, and several queries with their responses"
    template = "few-shot"
    answer = Shots
    makes = "demonstrations"

    def view(self, content: Any, shown: Sequence[int]) -> dict[str, Any]:
        """The maximum number of pairs."""
        return {"answers": [], "most": MOST_SHOTS}

    def read(self, form: Form, content: Any, shown: Sequence[int]) -> Content:
        """The instruction, and the pairs that are filled in."""
        if flag := flagged(form):
            return flag
        pairs = [(_text(form, f"query-{i}"), _text(form, f"response-{i}")) for i in range(MOST_SHOTS)]
        filled = [pair for pair in pairs if any(pair)]
        if not _text(form, "instruction"):
            raise Incomplete("There is no instruction yet: write one.")
        if len(filled) < 2 or not all(all(pair) for pair in filled):
            raise Incomplete("Write at least two queries, each with its response.")
        queries, responses = map(list, zip(*filled, strict=True))
        return Shots(
            instruction=_text(form, "instruction"), queries=queries, responses=responses, comment=comment_of(form)
        )

    def fill(self, answer: Mapping[str, Any], shown: Sequence[int]) -> dict[str, str]:
        """The instruction and the pairs."""
        lists = {"query": answer.get("queries", ()), "response": answer.get("responses", ())}
        pairs = {f"{name}-{i}": text for name, texts in lists.items() for i, text in enumerate(texts)}
        return {**pairs, **super().fill(answer, shown)}

    def rows(self, content: Any, answer: Any) -> list[dict[str, Any]]:
        """K demonstrations from K pairs: each pair is asked once, with the others as examples in its prompt."""
        if isinstance(answer, Flagged):
            return []
        pairs = list(zip(answer.queries, answer.responses, strict=True))
        rows = []
        for i, (query, response) in enumerate(pairs):
            examples = [f"{q}\n{r}" for j, (q, r) in enumerate(pairs) if j != i]
            rows.append({"prompt": "\n\n".join([answer.instruction, *examples, query]), "completion": response})
        return rows
