"""ROUGE-L between instructions, exact and fast: how like each other two are, and the nearest of many.

With L the length of the longest common subsequence of words, P = L / m and R = L / n, the measure is F = 2PR / (P + R)
(Lin 2004). Words are runs of a-z and 0-9 in lower case. It is what the package rouge-score computes, to the last bit.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_WORD = re.compile(r"[a-z0-9]+")


def words(text: str) -> tuple[str, ...]:
    """The words that ROUGE compares."""
    return tuple(_WORD.findall(text.lower()))


def f_measure(common: int, m: int, n: int) -> float:
    """F of a common subsequence of so many words, of texts of m and n words; 0 where they share nothing."""
    if not common:
        return 0.0
    precision, recall = common / m, common / n
    return 2 * precision * recall / (precision + recall)


class ComparedText:
    """A text that is compared with many others."""

    def __init__(self, text: str) -> None:
        self.words = words(text)
        self._places: dict[str, int] = {}
        for i, word in enumerate(self.words):
            self._places[word] = self._places.get(word, 0) | 1 << i

    def common(self, other: Sequence[str]) -> int:
        """The length of the longest common subsequence with other words.

        Bits of an integer are a row of the table of dynamic programming: a 0 where the length grows by one (Hyyrö 2004,
        "Bit-parallel LCS-length computation revisited"), so a word of the other costs one addition.
        """
        full = (1 << len(self.words)) - 1
        row = full
        for word in other:
            matched = row & self._places.get(word, 0)
            row = ((row + matched) | (row - matched)) & full
        return len(self.words) - row.bit_count()

    def rouge(self, other: Sequence[str]) -> float:
        """ROUGE-L's F with other words; 0 where either has none."""
        return f_measure(self.common(other), len(self.words), len(other))

    def nearest(self, others: Iterable[Sequence[str]]) -> float:
        """The highest ROUGE-L to any of the others, 0 where there are none.

        No subsequence is longer than the shorter text, so F <= 2 min(m, n) / (m + n); what cannot pass the highest so
        far is not computed.
        """
        best, m = 0.0, len(self.words)
        for other in others:
            n = len(other)
            if 2 * min(m, n) > (best - 1e-9) * (m + n):
                best = max(best, self.rouge(other))
        return best
