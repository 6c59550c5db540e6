"""Rating of one answer on several scales."""

from __future__ import annotations

import re
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
    comment_of,
    each_answer,
    flagged,
)
from accord.errors import InputError
from accord.records import text_to_json


class Scale(Content):
    """Integers from `low` to `high`."""

    name: str
    low: int
    high: int

    @property
    def has_steps(self) -> bool:
        """Whether every step has a button; else there is a slider."""
        return self.high - self.low < 10


class Rated(Content):
    """A prompt, an answer, and its rating scales."""

    prompt: JsonText
    completion: JsonText
    scales: list[Scale]


class Ratings(Content):
    """A number on every scale."""

    ratings: dict[str, int]
    comment: str = ""


class Rate(Task):
    """Rating of an answer on several scales."""

    name = "rate"
    asks = "How good is this answer?"
    content = Rated
    answer = Ratings
    actions = (Action("done", "Done", "d"),)
    uses_digits = True
    makes = "ratings"

    def items(self, rows: Sequence[SourceRow], *, gold: bool, **settings: Any) -> Iterator[NewItem]:
        """One item per answer. `scales` are written as name:low-high; by default one from 1 to 5."""
        scales = _scales(settings.pop("scales", None) or ["quality:1-5"])
        self.no_settings(settings)
        for row, part, prompt, answer in each_answer(rows):
            if answer is None:
                raise InputError(f"{row.where}: the row has no answer to rate: `accord sample` samples some.")
            rated = Rated(prompt=prompt, completion=text_to_json(answer), scales=scales)
            yield NewItem(row, part, rated, _gold(row, scales) if gold else None)

    def shown(self, content: Mapping[str, Any]) -> Sequence[Any]:
        """Empty: there is one answer."""
        return ()

    def read(self, form: Form, content: Rated, shown: Sequence[int]) -> Content:
        """The number on every scale."""
        if flag := flagged(form):
            return flag
        ratings: dict[str, int] = {}
        for number, scale in enumerate(content.scales):
            value = form.get(f"scale-{number}", "")
            if not re.fullmatch(r"-?\d{1,6}", value) or not scale.low <= int(value) <= scale.high:
                raise Incomplete(f"Choose a number from {scale.low} to {scale.high} for “{scale.name}”.")
            ratings[scale.name] = int(value)
        return Ratings(ratings=ratings, comment=comment_of(form))

    def fill(self, answer: Mapping[str, Any], shown: Sequence[int]) -> dict[str, str]:
        """The numbers, scale by scale."""
        if "flag" in answer:
            return {"flag": answer["flag"], "comment": answer["comment"]}
        numbers = {f"scale-{number}": str(value) for number, value in enumerate(answer["ratings"].values())}
        return {**numbers, "comment": answer["comment"]}

    def rows(self, content: Rated, answer: Ratings | Flagged) -> list[dict[str, Any]]:
        """The completion with its ratings; `label` is true where the first scale's rating is above its middle."""
        if isinstance(answer, Flagged):
            return []
        first = content.scales[0]
        label = 2 * answer.ratings[first.name] > first.low + first.high
        rated = {"completion": content.completion, "label": label, "ratings": answer.ratings}
        return [{"prompt": content.prompt, **rated}]


def _scales(written: str | Sequence[str]) -> list[Scale]:
    """Scales from texts such as helpful:1-5. Raises InputError for an invalid one, or two of one name."""
    scales = []
    for text in [written] if isinstance(written, str) else written:
        match = re.fullmatch(r"([^:]{1,60}):(-?\d{1,5})-(-?\d{1,5})", text.strip())
        if match is None or int(match[2]) >= int(match[3]):
            raise InputError(f"--scales are written as name:low-high, such as helpful:1-5, not {text!r}.")
        scales.append(Scale(name=match[1].strip(), low=int(match[2]), high=int(match[3])))
    if len({scale.name for scale in scales}) < len(scales):
        raise InputError("two of --scales have the same name.")
    return scales


def _gold(row: SourceRow, scales: Sequence[Scale]) -> Ratings:
    """The ratings in a row. Raises InputError where one is missing or off its scale."""
    known = row.columns.get("ratings")
    for scale in scales:
        value = known.get(scale.name) if isinstance(known, Mapping) else None
        if type(value) is not int or not scale.low <= value <= scale.high:
            raise InputError(
                f"{row.where}: a gold question has the column ratings, with a whole number from {scale.low} to "
                f"{scale.high} for {scale.name!r}."
            )
    return Ratings(ratings={scale.name: known[scale.name] for scale in scales})  # type: ignore[index]
