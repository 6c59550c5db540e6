"""Directions among a model's embeddings: differences between words, and how far other words lie along them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity


def analogy(embeddings: Tensor, plus: Sequence[int], minus: Sequence[int], k: int) -> tuple[Tensor, Tensor]:
    """The k tokens nearest to a sum of embeddings, by cosine and without those of the sum: ids and cosines, (k,) each.

    king - man + woman is plus (king, woman) and minus (man,). The sum is of the rows of `embeddings` (V, d) as they
    are, not normalized, unlike in Mikolov et al. 2013 (Linguistic Regularities in Continuous Space Word
    Representations, section 4). The tokens of the sum are excluded because the nearest is nearly always one of them.
    """
    cosines = toward(embeddings, plus, minus)
    cosines[[*plus, *minus]] = -torch.inf
    best = cosines.topk(min(k, len(cosines) - len({*plus, *minus})))
    return best.indices, best.values


def toward(embeddings: Tensor, plus: Sequence[int], minus: Sequence[int]) -> Tensor:
    """(V,) the cosine of every token's embedding with the sum of those in plus minus those in minus."""
    rows = embeddings.detach().float().cpu()
    return cosine_similarity(rows, rows[list(plus)].sum(0) - rows[list(minus)].sum(0), dim=-1)


def differences(embeddings: Tensor, pairs: Sequence[tuple[int, int]]) -> Tensor:
    """(P, d) the second of each pair minus the first, such as E(cats) - E(cat)."""
    rows = embeddings.detach().float().cpu()
    return torch.stack([rows[second] - rows[first] for first, second in pairs])


def left_out(differences: Tensor) -> Tensor:
    """(P, d) for each pair the mean difference of the other pairs; of a single pair its own.

    A pair measured along a direction that includes its own difference would partly measure itself.
    """
    size = len(differences)
    return differences if size == 1 else (differences.sum(0) - differences) / (size - 1)


def along(embeddings: Tensor, tokens: Sequence[int], direction: Tensor) -> tuple[Tensor, Tensor]:
    """The dot product of each token's embedding with the direction (d,), and the cosine, (tokens,) each."""
    rows = embeddings.detach().float().cpu()[list(tokens)]
    return rows @ direction, cosine_similarity(rows, direction, dim=-1)
