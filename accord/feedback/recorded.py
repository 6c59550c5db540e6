"""People as a judge: their verdicts were given before, in a file, and are looked up."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import combinations
from pathlib import Path

from accord.data.load import load_data
from accord.data.readers import format_of
from accord.errors import InputError
from accord.feedback.judge import unsampled
from accord.records import Comparison, Message, Preference, Ranking, Row, Sample, Text, Verdict


class Recorded:
    """A judge whose verdicts are rows: preferences (`chosen`, `rejected`), or rankings, where equal ranks are a tie.

    A pair is found by its prompt and its two texts, in either order. Where several rows compare it, P(first wins) is
    the share of them that prefer the first, ties half. A pair that no row compares has an invalid verdict, unless its
    texts are the same, which is a tie. A plain prompt and a chat of that one user message are the same; so are a plain
    completion and the assistant's message.

    Raises InputError where a row is no comparison.
    """

    symmetric = True

    def __init__(self, rows: Iterable[Row], name: str = "the rows") -> None:
        self.name = name
        self.votes: dict[tuple[Text, str, str], list[float]] = defaultdict(list)
        for i, row in enumerate(rows):
            for prompt, first, second, first_wins in _compared(row, f"{name}, row {i + 1}"):
                self._note(prompt, unsampled(prompt, first).text, unsampled(prompt, second).text, first_wins)

    def __call__(self, comparisons: Sequence[Comparison]) -> list[Verdict]:
        """One verdict per comparison."""
        return [
            self._verdict(c.prompt, unsampled(c.prompt, c.first).text, unsampled(c.prompt, c.second).text)
            for c in comparisons
        ]

    def samples(self, first: Sequence[Sample], second: Sequence[Sample]) -> list[Verdict]:
        """One verdict per pair of samples of one prompt."""
        return [self._verdict(a.prompt.prompt, a.text, b.text) for a, b in zip(first, second, strict=True)]

    def _note(self, prompt: Text, first: str, second: str, first_wins: float) -> None:
        self.votes[_chat(prompt), first, second].append(first_wins)
        self.votes[_chat(prompt), second, first].append(1 - first_wins)

    def _verdict(self, prompt: Text, first: str, second: str) -> Verdict:
        if first == second:
            return Verdict(0.5)
        votes = self.votes.get((_chat(prompt), first, second))
        return Verdict(sum(votes) / len(votes)) if votes else Verdict(None, f"nobody compared this pair in {self.name}")


def people_named(name: str) -> Recorded | None:
    """The people whose verdicts a file of rows holds; None where the name is no file of rows.

    Raises:
        InputError: there is no such file, or it holds no comparisons.
    """
    return Recorded(load_data(name), name) if format_of(Path(name)) is not None else None


def _compared(row: Row, place: str) -> Iterable[tuple[Text, Text, Text, float]]:
    """Every pair that a row compares: prompt, first, second, and how much the first wins."""
    match row:
        case Preference(prompt, chosen, rejected):
            return [(prompt, chosen, rejected, 1.0)]
        case Ranking(prompt, completions, ranks):
            ranked = combinations(zip(completions, ranks, strict=True), 2)
            return [(prompt, a, b, 0.5 + 0.5 * ((i < j) - (i > j))) for (a, i), (b, j) in ranked]
        case _:
            raise InputError(f"{place}: a verdict has the columns chosen and rejected, or completions and ranks.")


def _chat(prompt: Text) -> Text:
    return (Message("user", prompt),) if isinstance(prompt, str) else prompt
