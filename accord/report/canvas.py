"""Figures as inline SVG with the colors and the font of the page, so that they read in light, dark and print."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

# Each color is drawn as a hexadecimal stand-in, which becomes a variable of the page's style sheet.
INK, SOFT, GRID = "#000001", "#000002", "#000003"
HUES = ("#000011", "#000012", "#000013", "#000014", "#000015", "#000016")
_VARIABLES = {INK: "--ink", SOFT: "--soft", GRID: "--grid"} | {hue: f"--hue-{i}" for i, hue in enumerate(HUES, start=1)}

ROUND = [1, 2, 2.5, 5, 10]
"""Ticks fall on these numbers times a power of ten."""

DASHES = (0, (4, 3))
"""Of lines that stand for no measurement of their own: chance, a bound, what is optimized."""

_STYLE: dict[Any, object] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "accord",
    "font.size": 8.5,
    "axes.edgecolor": GRID,
    "axes.labelcolor": SOFT,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "text.color": INK,
    "text.parse_math": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
}


@contextmanager
def drawing() -> Iterator[None]:
    """Matplotlib in the page's style while the block runs."""
    with matplotlib.rc_context(_STYLE):
        yield


def hue(index: int) -> str:
    """The color of the `index`-th thing drawn; after six they come round again, and labels tell things apart."""
    return HUES[index % len(HUES)]


def blank(width: float, height: float, xlabel: str) -> tuple[Figure, Axes]:
    """An empty figure of so many inches, with one pair of axes."""
    figure = Figure(figsize=(width, height), dpi=72, layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel(xlabel)
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=ROUND, min_n_ticks=3))
    return figure, axes


def inline(figure: Figure) -> Markup:
    """The figure as an `<svg>` element: no prologue, no metadata, no names of its own, the page's colors and font."""
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True)
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.S)
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"| version="1\.1"', "", svg).replace("xlink:href", "href")
    svg = re.sub(
        r"<clipPath.*?</clipPath>|<defs>\s*</defs>| clip-path=\"[^\"]*\"|font-family:[^;\"]*; ?", "", svg, flags=re.S
    )
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r'<svg width="[^"]*pt" height="[^"]*pt"', '<svg aria-hidden="true"', svg)
    svg = re.sub(r"<[^>]*>", lambda tag: re.sub(r"\d+\.\d{2,}", lambda n: f"{float(n.group()):.1f}", tag.group()), svg)
    for color, variable in _VARIABLES.items():
        svg = svg.replace(color, f"var({variable})")
    return Markup(re.sub(r"\s*\n\s*", "\n", svg))
