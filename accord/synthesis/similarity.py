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
    """The F-measure of a common subsequence of `common` words between texts of m and n words; 0 without one."""
    if not common:
        return 0.0
    precision, recall = common / m, common / n
    return 2 * precision * recall / (precision + recall)


class ComparedText:
    """A text to compare with many others."""

    def __init__(self, text: str) -> None:
        self.words = words(text)
        self._places: dict[str, int] = {}
        for i, word in enumerate(self.words):
            self._places[word] = self._places.get(word, 0) | 1 << i

    def common(self, other: Sequence[str]) -> int:
        """The length of the longest common subsequence with `other`.

        The bits of an integer are a row of the dynamic programming table, with a 0 where the length grows by one (Hyyrö
        2004, "Bit-parallel LCS-length computation revisited"), so each word costs one addition.
        """
        full = (1 << len(self.words)) - 1
        row = full
        for word in other:
            matched = row & self._places.get(word, 0)
            row = ((row + matched) | (row - matched)) & full
        return len(self.words) - row.bit_count()

    def rouge(self, other: Sequence[str]) -> float:
        """ROUGE-L's F-measure with `other`; 0 where either is empty."""
        return f_measure(self.common(other), len(self.words), len(other))

    def nearest(self, others: Iterable[Sequence[str]]) -> float:
        """The highest ROUGE-L with any of the others; 0 without others.

        A subsequence is at most as long as the shorter text, so F <= 2 min(m, n) / (m + n); texts that cannot exceed
        the maximum so far are skipped.
        """
        best, m = 0.0, len(self.words)
        for other in others:
            n = len(other)
            if 2 * min(m, n) > (best - 1e-9) * (m + n):
                best = max(best, self.rouge(other))
        return best
