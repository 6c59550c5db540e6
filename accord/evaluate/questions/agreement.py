"""`accord evaluate agreement`: how far annotators agree, and what that allows a model of their preferences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from accord.data.judgments import Judgment, load_judgments
from accord.errors import InputError
from accord.evaluate.agreement import between, ratings, together
from accord.evaluate.questions.shared import tell, write
from accord.evaluate.questions.tables import agreement_tables
from accord.evaluate.statistics import Interval, as_json
from accord.files import require_folder

PAIRS = 50
"""Pairs of annotators that are reported on, at most: crowds have thousands."""

FEW = 20
"""With fewer items an interval is not to be trusted."""


def agreement(
    out: str,
    *,
    data: str | None = None,
    annotators: dict[str, str] | None = None,
    columns: dict[str, str] | None = None,
    split: str = "train",
    limit: int | None = None,
) -> Path:
    """Measure how far annotators agree beyond chance, and the accuracy that this allows a model of their preferences.

    What they judged is matched by the prompt and the two completions, in whatever order.

    Args:
        out: the folder to write evaluation.json to.
        data: a file or Hub name of judgments with a column that says who judged: annotator, or --columns.annotator.
        annotators: instead, a file of judgments for each annotator, as --annotators.ann first.jsonl.
        columns: the data's columns by what they hold: prompt, first and second (or completions, several separated by
            commas), label, annotator.
        split: which rows, such as train, train[:100] or train[-100:].
        limit: only the first so many rows.

    Raises:
        InputError: the options do not fit each other or the data, or no item was judged by two annotators.
    """
    require_folder(out)
    if (data is None) == (annotators is None):
        raise InputError("give --data, a file that says who judged, or --annotators.NAME, a file for each of them.")
    judgments = _read(data, annotators or {}, columns, split, limit)
    found = ratings(judgments)
    if len(found.annotators) < 2:
        raise InputError(f"only {found.annotators[0]} judged; agreement needs two annotators.")
    counts = found.counts
    if not len(counts):
        raise InputError("no two annotators judged the same completions of the same prompt.")
    every, pairs = together(counts), between(found, PAIRS)
    result: dict[str, Any] = {
        "kind": "agreement",
        "data": data or ", ".join((annotators or {}).values()),
        "annotators": list(found.annotators),
        "items": every.items,
        "pairs": [
            {
                "a": pair.a,
                "b": pair.b,
                "items": pair.items,
                "agreement": as_json(pair.agreement),
                "kappa": _interval(pair.kappa),
            }
            for pair in pairs
        ],
        "agreement": as_json(every.agreement),
        "strict": _interval(every.strict),
        "fleiss": _interval(every.fleiss),
        "krippendorff": _interval(every.krippendorff),
        "krippendorff_ordinal": _interval(every.ordinal),
        "ceiling": _interval(every.ceiling),
    }
    result["warnings"] = _warnings(result, found.repeated)
    for table in agreement_tables(result):
        Console().print(table)
    tell(result["warnings"])
    return write(result, out)


def _read(
    data: str | None, annotators: Mapping[str, str], columns: dict[str, str] | None, split: str, limit: int | None
) -> list[Judgment]:
    """The judgments, each with the name of who gave it."""
    if data is None:
        files = {
            name: load_judgments(file, columns=columns, split=split, limit=limit) for name, file in annotators.items()
        }
        return [replace(j, annotator=name) for name, some in files.items() for j in some]
    judgments = load_judgments(data, columns=columns, split=split, limit=limit)
    nameless = next((j for j in judgments if not j.annotator), None)
    if nameless is not None:
        raise InputError(
            f"{data}, row {nameless.row + 1}: nothing says who judged; name the column by --columns.annotator."
        )
    return judgments


def _warnings(result: Mapping[str, Any], repeated: int) -> list[str]:
    """What the numbers leave out, and what makes them less sure than they look."""
    found = []
    if result["items"] < FEW:
        found.append(f"The intervals rest on {result['items']} items: with fewer than {FEW} they say little.")
    if result["fleiss"] is None:
        found.append(
            "Fleiss' kappa needs as many annotators for every item, and more than one category: Krippendorff's alpha "
            "allows for any number."
        )
    if result["ceiling"] is None:
        found.append("Annotators agree on fewer than half of what they decide, so no ceiling follows.")
    if repeated:
        found.append(f"{repeated} judgments repeat an annotator's own on the same item, and are left out.")
    if len(result["pairs"]) == PAIRS:
        found.append(f"Of the pairs of annotators only the {PAIRS} that share most items are listed.")
    return found


def _interval(interval: Interval | None) -> dict[str, float] | None:
    return None if interval is None else as_json(interval)
