"""What text a pretraining was made of, as a picture and a table: the share of each file, and how often it is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.ticker import PercentFormatter

from accord.console import legible
from accord.report.figures import HUES, INK, Figure, blank, drawing, inline
from accord.report.html import Json, number, percent

NUMBERS = ("documents", "of", "tokens", "share", "epochs")
"""What a row must have."""

LONGEST_NAME = 34
"""Characters of a file's name that are drawn, its end."""


@dataclass(frozen=True)
class Composition:
    """The files, the largest share first, and their picture, where there are several."""

    files: list[Json]
    figure: Figure | None


def composition_of(rows: Sequence[Json]) -> Composition | None:
    """What rows of composition.jsonl say; None where none says anything."""
    known = [{**row, "file": legible(str(row["file"]))} for row in rows if "file" in row]
    known = [row for row in known if all(isinstance(row.get(n), int | float) for n in NUMBERS)]
    files = sorted(({"weight": None, "bytes": None, **row} for row in known), key=lambda row: -row["share"])
    return Composition(files, _drawn(files) if len(files) > 1 else None) if files else None


@drawing
def _drawn(files: Sequence[Json]) -> Figure:
    figure, axes = blank(7.4, 0.6 + 0.32 * len(files), "share of the tokens")
    axes.grid(visible=False)
    for place, row in enumerate(files):
        axes.barh(place, row["share"], height=0.7, color=HUES[0])
        often = "once" if row["epochs"] == 1 else f"{number(row['epochs'])} times"
        axes.annotate(
            f"{row['tokens']:,} tokens, read {often}", (row["share"], place), (4, 0), textcoords="offset points",
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
        f"{percent(first['share'])} of the tokens of a pass over the data are of {first['file']}. How often a file is "
        "read counts all of it, also what the mix does not take."
    )
    return Figure("What the text is made of", inline(figure), caption)
