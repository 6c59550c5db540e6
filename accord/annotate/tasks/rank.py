"""Ranking of K answers: with ties, or only the best few, or with none good enough."""

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
    comment_of,
    flagged,
    grouped,
)
from accord.errors import InputError
from accord.records import Preference, Ranking


class Several(Content):
    """A prompt and its answers."""

    prompt: JsonText
    answers: list[JsonText]


class Ranks(Content):
    """The rank of each answer, by index in the item: 0 is best, equal ranks are ties, None is unranked.

    Unranked answers are worse than ranked ones. `none_will_do` says that even the best is not good enough.
    """

    ranks: list[int | None]
    none_will_do: bool = False
    comment: str = ""


MOST = 9
"""Maximum answers that digits can rank."""


class Rank(Task):
    """Ranking of all answers to a prompt."""

    name = "rank"
    asks = "Put the answers in order"
    content = Several
    answer = Ranks
    actions = (Action("done", "Done", "d"), Action("none", "None of these will do", "n"))
    uses_digits = True
    makes = "rankings"

    def items(self, rows: Sequence[SourceRow], *, gold: bool, **settings: Any) -> Iterator[NewItem]:
        """One item with all the distinct answers to a prompt."""
        self.no_settings(settings)
        for first, prompt, answers, _ in grouped(rows):
            kept = [answer for i, answer in enumerate(answers) if answer not in answers[:i]]
            if not 2 <= len(kept) <= MOST:
                raise InputError(f"{first.where}: {len(kept)} different answers cannot be ranked; 2 to {MOST} can.")
            yield NewItem(
                first, "", Several(prompt=prompt, answers=kept), _gold(first, answers, kept) if gold else None
            )

    def read(self, form: Form, content: Several, shown: Sequence[int]) -> Content:
        """The chosen ranks, with gaps closed."""
        if flag := flagged(form):
            return flag
        typed = {index: form.get(f"rank-{position}", "") for position, index in enumerate(shown)}
        chosen = {index: int(rank) for index, rank in typed.items() if rank.isdecimal() and len(rank) < 3}
        none_will_do = form.get("choice") == "none"
        if not chosen and not none_will_do:
            raise Incomplete("Give at least the best answer a rank, or say that none will do.")
        order = sorted(set(chosen.values()))
        ranks = [order.index(chosen[index]) if index in chosen else None for index in range(len(content.answers))]
        return Ranks(ranks=ranks, none_will_do=none_will_do, comment=comment_of(form))

    def fill(self, answer: Mapping[str, Any], shown: Sequence[int]) -> dict[str, str]:
        """The rank of each answer as shown, from 1."""
        if "flag" in answer:
            return {"flag": answer["flag"], "comment": answer["comment"]}
        ranks = [answer["ranks"][index] for index in shown]
        places = {f"rank-{position}": str(rank + 1) for position, rank in enumerate(ranks) if rank is not None}
        return {**places, "comment": answer["comment"]}

    def rows(self, content: Several, answer: Ranks | Flagged) -> list[dict[str, Any]]:
        """A ranking in which unranked answers share the last rank; `ranked` is the number of ranked ones."""
        if isinstance(answer, Flagged):
            return []
        known = [rank for rank in answer.ranks if rank is not None]
        last = max(known, default=-1) + 1
        ranks = [last if rank is None else rank for rank in answer.ranks]
        how = {"ranked": len(known), "none_will_do": answer.none_will_do}
        return [{"prompt": content.prompt, "completions": content.answers, "ranks": ranks, **how}]


def _gold(row: SourceRow, answers: list[JsonText], kept: list[JsonText]) -> Ranks:
    match row.record:
        case Preference():
            return Ranks(ranks=[0, 1])
        case Ranking(_, _, ranks):
            return Ranks(ranks=[ranks[answers.index(answer)] for answer in kept])
    raise InputError(f"{row.where}: a gold question has the columns completions and ranks, or chosen and rejected.")
