"""Comparison of two answers: which is better, and by how much."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any, Literal

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
    comment_of,
    flagged,
    grouped,
)
from accord.errors import InputError
from accord.records import Preference, Ranking


class Pair(Content):
    """A prompt and two answers."""

    prompt: JsonText
    answers: list[JsonText]


class Better(Content):
    """The index of the better answer; None for a tie, and then whether both are bad."""

    better: Literal[0, 1] | None
    strength: Literal["much", "slightly", "tie", "both bad"]
    comment: str = ""


CHOICES = {
    "first-much": (0, "much"),
    "first-slightly": (0, "slightly"),
    "tie": (None, "tie"),
    "second-slightly": (1, "slightly"),
    "second-much": (1, "much"),
    "both-bad": (None, "both bad"),
}


class Compare(Task):
    """Two answers side by side."""

    name = "compare"
    asks = "Which answer is better?"
    content = Pair
    answer = Better
    actions = (
        Action("first-much", "A is much better", "1"),
        Action("first-slightly", "A is slightly better", "2"),
        Action("tie", "About the same", "3"),
        Action("second-slightly", "B is slightly better", "4"),
        Action("second-much", "B is much better", "5"),
        Action("both-bad", "Both are bad", "6"),
    )

    def items(self, rows: Sequence[SourceRow], *, gold: bool, **settings: Any) -> Iterator[NewItem]:
        """Every pair of answers to a prompt; pairs of a gold question have a known order."""
        self.no_settings(settings)
        for first, prompt, answers, sources in grouped(rows):
            if len(answers) < 2:
                raise InputError(f"{first.where}: its prompt has one answer, and to compare takes two.")
            for i, j in combinations(range(len(answers)), 2):
                if answers[i] == answers[j]:
                    continue
                part = f"/{i + 1}-{j + 1}" if len(answers) > 2 or sources[i] is not sources[j] else ""
                pair = Pair(prompt=prompt, answers=[answers[i], answers[j]])
                yield NewItem(first, part, pair, _gold(first, i, j) if gold else None)

    def read(self, form: Form, content: Pair, shown: Sequence[int]) -> Content:
        """The button that was pressed."""
        if flag := flagged(form):
            return flag
        if form.get("choice") not in CHOICES:
            raise Incomplete("Choose one of the buttons under the answers.")
        position, strength = CHOICES[form["choice"]]
        better = None if position is None else shown[position]
        return Better.model_validate({"better": better, "strength": strength, "comment": comment_of(form)})

    def fill(self, answer: Mapping[str, Any], shown: Sequence[int]) -> dict[str, str]:
        """The button, and the comment."""
        if "flag" in answer:
            return {"flag": answer["flag"], "comment": answer["comment"]}
        verdict = (None if answer["better"] is None else shown.index(answer["better"]), answer["strength"])
        choice = next(name for name, means in CHOICES.items() if means == verdict)
        return {"choice": choice, "comment": answer["comment"]}

    def rows(self, content: Pair, answer: Better | Flagged) -> list[dict[str, Any]]:
        """A preference with its strength; ties are `tied`, in the item's order."""
        if isinstance(answer, Flagged):
            return []
        chosen = answer.better or 0
        tied = {"tied": True} if answer.better is None else {}
        texts = {"chosen": content.answers[chosen], "rejected": content.answers[1 - chosen]}
        return [{"prompt": content.prompt, **texts, **tied, "strength": answer.strength}]


def _gold(row: SourceRow, i: int, j: int) -> Better:
    """A row's verdict on two of its answers. Raises InputError where it has none."""
    match row.record:
        case Preference():
            return Better(better=0, strength="much")
        case Ranking(_, _, ranks):
            better: Literal[0, 1] | None = None if ranks[i] == ranks[j] else 0 if ranks[i] < ranks[j] else 1
            return Better(better=better, strength="tie" if better is None else "much")
    raise InputError(f"{row.where}: a gold question has the columns chosen and rejected, or completions and ranks.")
