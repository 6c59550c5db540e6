"""ROUGE-L by the package rouge-score."""

from __future__ import annotations

import pytest

rouge_scorer = pytest.importorskip("rouge_score.rouge_scorer")

SCORER = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=False)


def by_package(first: str, second: str) -> float:
    return float(SCORER.score(first, second)["rougeL"].fmeasure)
