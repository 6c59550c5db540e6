"""What the trials of models of preferences, and of their annotators, say in the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

PARTS = {"by_margin": "by lead", "by_length": "by length", "by_source": "by source"}


def trial_tables(result: Mapping[str, Any]) -> list[Table]:
    """The numbers of `accord evaluate comparisons`."""
    tables = [_accuracies(result)]
    if result["calibration"]:
        tables.append(_calibration(result["calibration"]))
    further = _further(result)
    if further.row_count:
        tables.append(further)
    if result["probes"]:
        tables.append(_probes(result["probes"], result["unit"]))
    return tables


def agreement_tables(result: Mapping[str, Any]) -> list[Table]:
    """The numbers of `accord evaluate agreement`."""
    titles = {
        "agreement": "agreement",
        "strict": "agreement without ties",
        "fleiss": "Fleiss' kappa",
        "krippendorff": "Krippendorff's alpha",
        "krippendorff_ordinal": "the same, ties in the middle",
        "ceiling": "ceiling",
    }
    whole = Table("annotators", f"{len(result['annotators'])} on {result['items']} items")
    for key, title in titles.items():
        if result[key]:
            whole.add_row(title, number(result[key]))
    pairs = Table("annotators", "items", "agreement", "Cohen's kappa")
    for pair in result["pairs"]:
        both = f"{pair['a']}, {pair['b']}"
        pairs.add_row(both, str(pair["items"]), number(pair["agreement"]), number(pair["kappa"]))
    return [whole, pairs]


def number(interval: Mapping[str, float] | None) -> str:
    """An interval, or nothing where there is none."""
    return f"{interval['estimate']:.3f} [{interval['low']:.3f}, {interval['high']:.3f}]" if interval else ""


def _accuracies(result: Mapping[str, Any]) -> Table:
    grid = Table(result["name"], "", "accuracy", "pairs")
    ceiling = f" of {result['ceiling']:g}" if result["ceiling"] is not None else ""
    grid.add_row("all", "", number(result["accuracy"]) + ceiling, str(result["accuracy"]["n"]))
    for key, title in PARTS.items():
        for i, part in enumerate(result[key]):
            label = title if i == 0 else ""
            grid.add_row(label, part["label"], number(part["accuracy"]), str(part["accuracy"]["n"]))
    return grid


def _calibration(found: Mapping[str, Any]) -> Table:
    grid = Table("it says", "people agree", "pairs")
    for row in found["bins"]:
        grid.add_row(f"{row['confidence']:.3f}", number(row["frequency"]), str(row["frequency"]["n"]))
    return grid


def _further(result: Mapping[str, Any]) -> Table:
    """Whatever else there is of calibration, length, ties and rankings."""
    calibration, ties, ranking = (result[key] or {} for key in ("calibration", "on_ties", "ranking"))
    rows = {
        "calibration error": number(calibration.get("ece")),
        "uncorrected": f"{calibration['plain_ece']:.3f}" if calibration else "",
        "uncorrected, if it were calibrated": f"{calibration['if_calibrated']:.3f}" if calibration else "",
        "log-odds should be multiplied by": number(calibration.get("slope")),
        "rank correlation of lead and length": number(result["length_correlation"]),
        "equal leads": str(result["ties"] or ""),
        "invalid verdicts": str(result["invalid"] or ""),
        "people's ties": str(result["labeled_ties"] or ""),
        "distance from 1/2 on them": number(ties.get("from_half")),
        "distance from 1/2 elsewhere": number(ties.get("elsewhere")),
        "chance of a smaller lead on them": number(ties.get("nearer")),
        "rows of several answers": str(ranking.get("rows", "")),
        "of them without any order": str(ranking.get("cyclic", "")),
        "the best is found": number(ranking.get("top"))
        + (f", by lot {ranking['chance']:.3f}" if ranking.get("top") else ""),
        "Kendall's tau": number(ranking.get("tau")),
    }
    grid = Table("further", "")
    for title, value in rows.items():
        if value:
            grid.add_row(title, value)
    return grid


def _probes(found: list[Mapping[str, Any]], unit: str) -> Table:
    grid = Table("altered in", "preferred", f"lead ({unit})", "answers")
    for probe in found:
        grid.add_row(probe["name"], number(probe["preferred"]), number(probe["shift"]), str(probe["n"]))
    return grid
