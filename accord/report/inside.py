"""The page of `accord inspect`: how a model reads one text, in tables and figures."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise, product
from pathlib import Path

import numpy as np
from markupsafe import Markup, escape

from accord.outputs import save_text
from accord.report.html import fill
from accord.report.reading import SHARES, SURPRISES, EmbeddedToken, Parts, Reading, Weights, Words

WIDTH, HEIGHT = 760, 460
"""Size of the figure of embeddings."""

NAMED = 14
"""Up to this many tokens, the numbers and the mask are written into a matrix."""


def write_inside(model: str, reading: Reading | None, words: Words, path: Path) -> None:
    """Write the page as one self-contained file without network or scripts."""
    drawn = {} if reading is None else _figures(reading)
    save_text(path, fill("inside.html", model=model, reading=reading, words=words, **drawn))


def _figures(reading: Reading) -> dict[str, object]:
    layer, head = reading.chosen
    labels = [token.text for token in reading.tokens]
    return {
        "labels": labels,
        "maps": [[small_map(head) for head in layer] for layer in reading.attention],
        "large": large_map(reading.attention[layer][head], labels) if reading.attention else "",
        "scores": score_map(reading.scores[layer][head], labels) if reading.scores else "",
        "bars": bars(reading.parts) if reading.parts else "",
        "scatter": scatter(reading.spots),
        "surprises": SURPRISES,
        "shares": SHARES,
    }


def small_map(weights: Weights) -> Markup:
    """A matrix (T, T) as a small figure: rows are queries from the top, columns keys; runs of one shade are merged."""
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
    """The same matrix large enough to read, with tokens on both axes and each weight as its cell's title."""
    grid = _Grid(labels, "Attention")
    for i, name in enumerate(grid.names):
        grid.add_row(i)
        for j in np.flatnonzero(weights[i, : i + 1] >= 0.005):
            share = f"{weights[i, j]:.2f}"
            grid.add_cell(i, int(j), "", share, f"{name} → {grid.names[j]}: {share}")
    return grid.drawn()


def score_map(scores: Weights, labels: Sequence[str]) -> Markup:
    """A head's scores before the softmax: darker is farther from 0, negative scores have the other color.

    For few tokens each cell has its number, or -∞ where the key is masked.
    """
    grid = _Grid(labels, "Scores before the softmax")
    seen = np.isfinite(scores)
    largest = max(float(np.abs(scores[seen]).max()), 1e-9)
    writes = len(labels) <= NAMED
    for i, name in enumerate(grid.names):
        grid.add_row(i)
        for j, other in enumerate(grid.names):
            if not seen[i, j]:
                if writes:
                    grid.add_number(i, j, "−∞")
                continue
            sign, share = "minus" if scores[i, j] < 0 else "", f"{0.75 * abs(scores[i, j]) / largest:.2f}"
            grid.add_cell(i, j, sign, share, f"{name} → {other}: {scores[i, j]:.2f}")
            if writes:
                grid.add_number(i, j, f"{scores[i, j]:.1f}")
    return grid.drawn()


class _Grid:
    """A matrix of tokens by tokens, drawn cell by cell: rows are queries, columns keys."""

    def __init__(self, labels: Sequence[str], what: str) -> None:
        self.names = list(map(escape, labels))
        self.cell = 28 if len(labels) <= 24 else 18
        self.margin = 12 + round(7.2 * max(map(len, labels)))
        side = self.margin + self.cell * len(labels) + 1
        self.svg = f'<svg class="large" viewBox="0 0 {side} {side}" style="width: {side}px" role="img"'
        self.svg += f' aria-label="{what}">'

    def add_row(self, i: int) -> None:
        """The token's label at its row and column, and a line to the diagonal."""
        margin, middle = self.margin, self.margin + self.cell * i + self.cell / 2
        self.svg += f'<text class="row" x="{margin - 6}" y="{middle + 4}">{self.names[i]}</text>'
        turned = f"translate({middle + 4} {margin - 6}) rotate(-90)"
        self.svg += f'<text class="column" transform="{turned}">{self.names[i]}</text>'
        self.svg += f'<path class="rail" d="M{margin} {middle}h{self.cell * i}"/>'

    def add_cell(self, i: int, j: int, kind: str, opacity: str, title: str) -> None:
        x, y = self.margin + self.cell * j + 1, self.margin + self.cell * i + 1
        side, kind = self.cell - 2, f' class="{kind}"' if kind else ""
        self.svg += f'<rect{kind} x="{x}" y="{y}" width="{side}" height="{side}" rx="2"'
        self.svg += f' fill-opacity="{opacity}"><title>{title}</title></rect>'

    def add_number(self, i: int, j: int, number: str) -> None:
        x, y = (self.margin + self.cell * (index + 0.5) for index in (j, i))
        self.svg += f'<text class="number" x="{x}" y="{y + 3}">{number}</text>'

    def drawn(self) -> Markup:
        return Markup(self.svg + "</svg>")


def bars(parts: Parts) -> Markup:
    """Each layer's contribution to the logit, of attention and MLP or of the whole layer, as bars from 0."""
    split = bool(parts.attention)
    first, second = (parts.attention, parts.mlp) if split else (parts.layers, ())
    rows: list[tuple[str, list[tuple[str, float]]]] = [("embedding", [("whole", parts.embedding)])]
    for i, value in enumerate(first):
        both = [("attention" if split else "whole", value), *([("mlp", second[i])] if split else [])]
        rows.append((f"layer {i + 1}", both))
    if parts.constant:
        rows.append(("biases", [("whole", parts.constant)]))
    values = [0.0, *(value for _, some in rows for _, value in some)]
    low, span, left, wide, high = min(values), max(max(values) - min(values), 1e-9), 84, 560, 18
    zero = left - low / span * wide
    height = high * len(rows) + 4
    svg = f'<svg class="adds" viewBox="0 0 {left + wide + 60} {height}" role="img" aria-label="What each part adds">'
    for i, (name, some) in enumerate(rows):
        y = high * i + 2
        svg += f'<text class="row" x="{left - 8}" y="{y + 12}">{name}</text>'
        thick = (high - 4) / len(some)
        for k, (kind, value) in enumerate(some):
            x, length = zero + min(value, 0) / span * wide, abs(value) / span * wide
            where = f'x="{x:.1f}" y="{y + k * thick:.1f}" width="{length:.1f}" height="{thick:.1f}"'
            svg += f'<rect class="{kind}" {where}><title>{name}, {kind}: {value:+.2f}</title></rect>'
    return Markup(f'{svg}<path class="rail" d="M{zero:.1f} 0V{height}"/></svg>')


def scatter(spots: Sequence[EmbeddedToken]) -> Markup:
    """Embeddings on a plane: the text's tokens filled, their neighbors hollow and connected to them."""
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
    """A free place for a label, which is then taken; None where there is none."""
    wide, high = 7.0 * len(text), 12.0
    for down, side in product((4.0, -8.0, 16.0, -20.0, 28.0), (7.0, -7.0 - wide, -wide / 2)):
        box = (x + side, y + down - high + 3, x + side + wide, y + down + 3)
        inside = box[0] >= 0 and box[1] >= 0 and box[2] <= WIDTH and box[3] <= HEIGHT
        if inside and not any(box[0] < t[2] and t[0] < box[2] and box[1] < t[3] and t[1] < box[3] for t in taken):
            taken.append(box)
            return x + side, y + down
    return None
