"""The page of `accord inspect`: a model as it reads one text, in tables and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import numpy.typing as npt
from markupsafe import Markup, escape

from accord.outputs import save_text
from accord.report.html import fill

Weights = npt.NDArray[np.float64]

SURPRISES = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Nats at which the shade of a token grows."""

WIDTH, HEIGHT = 760, 460
"""Of the picture of embeddings."""

SHARES = (0.05, 0.2, 0.4, 0.6, 0.8)
"""Probabilities, and shares of attention, at which a shade grows."""


@dataclass(frozen=True)
class Token:
    """A token of the text. What the model thought before it came: its log-probability, its rank, and the entropy."""

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
        """How surprising it was, 0 to 5."""
        return 0 if self.logp is None else sum(-self.logp >= bound for bound in SURPRISES)


@dataclass(frozen=True)
class Guess:
    """A token that may come next."""

    text: str
    id: int
    logp: float

    @property
    def probability(self) -> float:
        return float(np.exp(self.logp))

    @property
    def shade(self) -> int:
        """How sure the guess is, 0 to 5."""
        return sum(self.probability >= bound for bound in SHARES)


@dataclass(frozen=True)
class Spot:
    """A token's embedding on a plane; `of` is the index, among the spots, of the text's token it is a neighbor of."""

    text: str
    x: float
    y: float
    of: int | None = None


@dataclass(frozen=True)
class Reading:
    """All that the page shows; layers and heads are counted from 0 here, and from 1 on the page."""

    model: str
    text: str
    is_chat: bool
    tokens: tuple[Token, ...]
    following: tuple[Guess, ...]
    entropy: float
    attention: tuple[Weights, ...]
    chosen: tuple[int, int]
    is_asked_for: bool
    lens: tuple[tuple[Guess, ...], ...]
    neighbors: tuple[tuple[str, tuple[tuple[str, float], ...]], ...]
    spots: tuple[Spot, ...]
    kept_variance: float

    @property
    def surprise(self) -> float | None:
        """The mean of -log p of the tokens after the first, in nats."""
        given = [-token.logp for token in self.tokens if token.logp is not None]
        return float(np.mean(given)) if given else None


def write_inside(reading: Reading, path: Path) -> None:
    """Write the page: one file that needs no other, no network and no script."""
    layer, head = reading.chosen
    labels = [token.text for token in reading.tokens]
    page = fill(
        "inside.html",
        reading=reading,
        labels=labels,
        maps=[[small_map(head) for head in layer] for layer in reading.attention],
        large=large_map(reading.attention[layer][head], labels) if reading.attention else "",
        scatter=scatter(reading.spots),
        surprises=SURPRISES,
        shares=SHARES,
    )
    save_text(path, page)


def small_map(weights: Weights) -> Markup:
    """A matrix (T, T) as a small picture: a row a query, from the top, a column a key; runs of one shade are one."""
    shades = sum((weights >= bound).astype(int) for bound in SHARES)
    paths: dict[int, list[str]] = {}
    for row, line in enumerate(np.asarray(shades)):
        edges = [0, *(np.flatnonzero(np.diff(line)) + 1).tolist(), len(line)]
        for start, end in pairwise(edges):
            if line[start]:
                paths.setdefault(int(line[start]), []).append(f"M{start} {row}h{end - start}v1h{start - end}z")
    size = len(weights)
    drawn = "".join(f'<path class="a{shade}" d="{"".join(runs)}"/>' for shade, runs in sorted(paths.items()))
    return Markup(f'<svg viewBox="0 0 {size} {size}" aria-hidden="true">{drawn}</svg>')


def large_map(weights: Weights, labels: Sequence[str]) -> Markup:
    """The same large enough to read, with the tokens on both axes and the weights in each cell's title."""
    names = list(map(escape, labels))
    cell = 28 if len(names) <= 24 else 18
    margin = 12 + round(7.2 * max(map(len, labels)))
    side = margin + cell * len(names) + 1
    svg = f'<svg class="large" viewBox="0 0 {side} {side}" style="width: {side}px" role="img" aria-label="Attention">'
    for i, name in enumerate(names):
        y = margin + cell * i
        middle = y + cell / 2
        svg += f'<text class="row" x="{margin - 6}" y="{middle + 4}">{name}</text>'
        svg += f'<text class="column" transform="translate({middle + 4} {margin - 6}) rotate(-90)">{name}</text>'
        svg += f'<path class="rail" d="M{margin} {middle}h{cell * i}"/>'
        for j in np.flatnonzero(weights[i, : i + 1] >= 0.005):
            share = f"{weights[i, j]:.2f}"
            svg += f'<rect x="{margin + cell * j + 1}" y="{y + 1}" width="{cell - 2}" height="{cell - 2}" rx="2"'
            svg += f' fill-opacity="{share}"><title>{name} → {names[j]}: {share}</title></rect>'
    return Markup(svg + "</svg>")


def scatter(spots: Sequence[Spot]) -> Markup:
    """Embeddings on a plane, the text's tokens filled and their neighbors hollow, each tied to its token."""
    if not spots:
        return Markup("")
    plane = np.array([(spot.x, spot.y) for spot in spots])
    low, span = plane.min(0), np.maximum(np.ptp(plane, 0), 1e-9)
    corners = (plane - low) / span * (WIDTH - 160, HEIGHT - 50) + (70, 25)
    corners[:, 1] = HEIGHT - corners[:, 1]
    svg = f'<svg class="scatter" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="Embeddings on a plane">'
    for spot, corner in zip(spots, corners, strict=True):
        if spot.of is not None:
            svg += '<path class="tie" d="M{:.1f} {:.1f}L{:.1f} {:.1f}"/>'.format(*corners[spot.of], *corner)
    taken: list[tuple[float, ...]] = [(x - 4.0, y - 4.0, x + 4.0, y + 4.0) for x, y in corners]
    for spot, (x, y) in zip(spots, corners, strict=True):
        kind = "own" if spot.of is None else "near"
        svg += f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>'
        if at := _room(spot.text, x, y, taken):
            svg += f'<text class="{kind}" x="{at[0]:.1f}" y="{at[1]:.1f}">{escape(spot.text)}</text>'
    return Markup(svg + "</svg>")


def _room(text: str, x: float, y: float, taken: list[tuple[float, ...]]) -> tuple[float, float] | None:
    """Where a label covers no other and no spot; None where there is no room. It is taken from then on."""
    wide, high = 7.0 * len(text), 12.0
    for down, side in product((4.0, -8.0, 16.0, -20.0, 28.0), (7.0, -7.0 - wide, -wide / 2)):
        box = (x + side, y + down - high + 3, x + side + wide, y + down + 3)
        inside = box[0] >= 0 and box[1] >= 0 and box[2] <= WIDTH and box[3] <= HEIGHT
        if inside and not any(box[0] < t[2] and t[0] < box[2] and box[1] < t[3] and t[1] < box[3] for t in taken):
            taken.append(box)
            return x + side, y + down
    return None
