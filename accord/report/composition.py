"""The composition of pretraining text, as a figure and a table: each file's share, and how often it is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.ticker import PercentFormatter

from accord.console import legible
from accord.report.figures import HUES, INK, Figure, blank, drawing, inline
from accord.report.html import Json, number, percent

NUMBERS = ("documents", "of", "tokens", "share", "epochs")
"""Required numbers of a row."""

LONGEST_NAME = 34
"""Maximum characters of a file's name in the figure; the end is kept."""


@dataclass(frozen=True)
class Composition:
    """The files, largest share first, and their figure, where there are several."""

    files: list[Json]
    figure: Figure | None


def composition_of(rows: Sequence[Json]) -> Composition | None:
    """The composition from rows of composition.jsonl; None without a valid row."""
    known = [{**row, "file": legible(str(row["file"]))} for row in rows if "file" in row]
    known = [row for row in known if all(isinstance(row.get(n), int | float) for n in NUMBERS)]
    files = sorted(({"weight": None, "bytes": None, **row} for row in known), key=lambda row: -row["share"])
    return Composition(files, _bars(files) if len(files) > 1 else None) if files else None


@drawing
def _bars(files: Sequence[Json]) -> Figure:
    figure, axes = blank(7.4, 0.6 + 0.32 * len(files), "share of the tokens")
    axes.grid(visible=False)
    for index, row in enumerate(files):
        axes.barh(index, row["share"], height=0.7, color=HUES[0])
        often = "once" if row["epochs"] == 1 else f"{number(row['epochs'])} times"
        axes.annotate(
            f"{row['tokens']:,} tokens, read {often}", (row["share"], index), (4, 0), textcoords="offset points",
            color=INK, va="center", fontsize=7.5, annotation_clip=False,
        ).set_in_layout(False)  # fmt: skip
    names = [row["file"] for row in files]
    shown = [name if len(name) <= LONGEST_NAME else f"…{name[1 - LONGEST_NAME :]}" for name in names]
    axes.set_yticks(range(len(files)), shown)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.6 * max(row["share"] for row in files))
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    first = files[0]
    caption = (
        f"{percent(first['share'])} of the tokens of a pass over the data are from {first['file']}. How often a file "
        "is read is relative to the whole file, including rows that the mix does not use."
    )
    return Figure("Composition of the text", inline(figure), caption)
