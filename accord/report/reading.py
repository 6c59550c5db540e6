"""Data of the page of `accord inspect`: a model's reading of one text, and its embeddings of words."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Weights = npt.NDArray[np.float64]

SURPRISES = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Thresholds of a token's shade, in nats."""

SHARES = (0.05, 0.2, 0.4, 0.6, 0.8)
"""Thresholds of shades for probabilities and attention weights."""


@dataclass(frozen=True)
class Token:
    """A token of the text, with its log-probability and rank under the model, and the entropy before it."""

    text: str
    id: int
    logp: float | None = None
    rank: int | None = None
    entropy: float | None = None

    @property
    def probability(self) -> float | None:
        return None if self.logp is None else float(np.exp(self.logp))

    @property
    def shade(self) -> int:
        """The surprise, 0 to 5."""
        return 0 if self.logp is None else sum(-self.logp >= bound for bound in SURPRISES)


@dataclass(frozen=True)
class Guess:
    """A candidate for the next token."""

    text: str
    id: int
    logp: float

    @property
    def probability(self) -> float:
        return float(np.exp(self.logp))

    @property
    def shade(self) -> int:
        """The confidence, 0 to 5."""
        return sum(self.probability >= bound for bound in SHARES)


@dataclass(frozen=True)
class EmbeddedToken:
    """A token's embedding on a plane; for a neighbor, `of` is the index of the text's token."""

    text: str
    x: float
    y: float
    of: int | None = None


@dataclass(frozen=True)
class Key:
    """A token that a head looks at: the score q . k / sqrt(d), the weight that the softmax makes of it, how long the
    vector is that weight and value add, and the tokens whose logits it raises most, with by how much."""

    text: str
    score: float | None
    weight: float
    length: float
    raised: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class HeadReading:
    """What one head attends to at one position, and what it adds there."""

    position: int
    keys: tuple[Key, ...]


@dataclass(frozen=True)
class Parts:
    """What every part of the model adds at one position: to the logit of one token above the mean token's, and the
    length of the vector it adds to the residual stream; where attention and MLP cannot be told apart, of whole layers.
    """

    position: int
    token: str
    embedding: float
    constant: float
    attention: tuple[float, ...]
    mlp: tuple[float, ...]
    layers: tuple[float, ...]
    attention_lengths: tuple[float, ...]
    mlp_lengths: tuple[float, ...]
    layer_lengths: tuple[float, ...]

    @property
    def total(self) -> float:
        """The token's logit above the mean token's."""
        return self.embedding + sum(self.layers) + self.constant


@dataclass(frozen=True)
class Reading:
    """The results for a text; layers, heads and positions count from 0 here, and from 1 on the page."""

    text: str
    is_chat: bool
    tokens: tuple[Token, ...]
    following: tuple[Guess, ...]
    entropy: float
    attention: tuple[Weights, ...]
    scores: tuple[Weights, ...]
    chosen: tuple[int, int]
    is_asked_for: bool
    look: HeadReading | None
    parts: Parts | None
    lens: tuple[tuple[Guess, ...], ...]
    neighbors: tuple[tuple[str, tuple[tuple[str, float], ...]], ...]
    spots: tuple[EmbeddedToken, ...]
    kept_variance: float

    @property
    def surprise(self) -> float | None:
        """The mean of -log p over the tokens after the first, in nats."""
        surprises = [-token.logp for token in self.tokens if token.logp is not None]
        return float(np.mean(surprises)) if surprises else None


@dataclass(frozen=True)
class Analogy:
    """A sum of embeddings: its own tokens with their cosines to it, and the nearest others."""

    terms: str
    own: tuple[tuple[str, float], ...]
    nearest: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class TokenProjection:
    """A token's projection on a direction: the dot product of its embedding with it, and the cosine."""

    text: str
    dot: float
    cosine: float


@dataclass(frozen=True)
class Direction:
    """The mean difference of the embeddings of pairs. Each pair is projected on the mean of the other pairs."""

    pairs: tuple[tuple[TokenProjection, TokenProjection], ...]
    others: tuple[TokenProjection, ...]
    length: float

    @property
    def agreeing(self) -> int:
        """The number of pairs whose second word projects farther."""
        return sum(second.dot > first.dot for first, second in self.pairs)


@dataclass(frozen=True)
class Words:
    """Results about embeddings alone."""

    analogy: Analogy | None = None
    direction: Direction | None = None
