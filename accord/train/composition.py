"""The composition of pretraining text: how much of each file is read, its share, and how often (as the Pile's table 1).

Gao et al. 2020 (arXiv:2101.00027). Mixing weights count rows; this table shows the resulting tokens.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text as Line

from accord.console import legible
from accord.records import Row, Tokenization

if TYPE_CHECKING:
    from accord.engine import Tree
    from accord.train.held_out import RunData


def composition(rows: RunData[Row], trees: Sequence[Tree], passes: float) -> list[dict[str, Any]]:
    """One row per source: what of it is trained on, in the trees that its rows became, over `passes` passes.

    `documents` counts the source's documents that became a tree, out of `of`; `tokens` are those learned in one pass
    and `share` is their share; `epochs` is how often the source as a whole is seen. `bytes` is None where rows are
    tokens.
    """
    sources, numbers = rows.left_out.sources, rows.left_out.numbers
    ends = [source.last for source in sources]
    tokens, documents = [0] * len(sources), [dict[int, int | None]() for _ in sources]
    for tree in trees:
        i = bisect_left(ends, int(numbers[tree.row]))
        tokens[i] += sum(len(branch.tokens) for branch in tree.branches)
        documents[i][tree.row] = _bytes(rows.rows[tree.row])
    return [
        {
            "file": source.name,
            "weight": source.weight,
            "documents": len(documents[i]),
            "of": source.of,
            "bytes": None if None in (sizes := documents[i].values()) else sum(size or 0 for size in sizes),
            "tokens": tokens[i],
            "share": tokens[i] / sum(tokens),
            "epochs": passes * len(documents[i]) / source.of,
        }
        for i, source in enumerate(sources)
    ]


def _bytes(row: Row) -> int | None:
    """The UTF-8 bytes of a document, or of a chat's messages; None for token rows."""
    if isinstance(row, Tokenization):
        return None
    texts = (getattr(row, name) for name in ("prompt", "completion"))
    contents = (text if isinstance(text, str) else "".join(message.content for message in text) for text in texts)
    return sum(len(text.encode()) for text in contents)


def composition_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """The rows of `composition` as a table for the terminal."""
    is_mix = any(row["weight"] is not None for row in rows)
    table = Table("file", *(["weight"] if is_mix else []), "documents", "bytes", "tokens", "share", "epochs")
    for row in rows:
        weight = [f"{row['weight']:g}" if row["weight"] is not None else ""] if is_mix else []
        size = "" if row["bytes"] is None else f"{row['bytes']:,}"
        counts = (f"{row['documents']:,} of {row['of']:,}", size, f"{row['tokens']:,}")
        table.add_row(Line(legible(row["file"])), *weight, *counts, f"{row['share']:.1%}", f"{row['epochs']:.2f}")
    return table
