"""Judgments: pairwise comparisons with annotator and source, for evaluating preference models.

Unlike a preference, a judgment may be a tie; unlike a ranking, it may contradict others of the same completions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from math import isfinite
from typing import Any

from accord.data.column_names import CHATS
from accord.data.columns import is_listed, paragraphs, value_at
from accord.data.conventions import CONVENTIONS, named, read_completion
from accord.data.encoding import branches_of
from accord.data.load import Source, open_rows, read_rows, require_rows
from accord.data.messages import align, read_prompt
from accord.data.mix import called
from accord.data.verdicts import CONTRADICTORY, LISTS, verdict
from accord.errors import InputError, located, nearest
from accord.records import Preference, Ranking, Row, Text

ROLES = ("prompt", "first", "second", "completions", "label", "source", "annotator", "group")
"""The roles that columns can be named for, besides `STANDARD`."""

STANDARD = {*LISTS, *CHATS, "chosen_probability", *(name for convention in CONVENTIONS for name in convention.needs)}
STANDARD -= {*ROLES}
"""Columns of preferences and rankings; naming one of them means that rows are read as `load_data` reads them."""


@dataclass(frozen=True, slots=True)
class Judgment:
    """One annotator's comparison of two completions: `label` is 1 if the first is better, 0 the second, .5 a tie.

    If the row gives a probability for its preference, `label` is the probability that the first is better. `row` is the
    index of the data row (from 0), which may hold several judgments. `source` is the row's own statement of its origin,
    `annotator` the row's `annotator` or else its `user`, `group` the annotator's group; each is empty if the row does
    not say. `weight` is the row's `sampling_weight`, the inverse of its relative probability of being drawn. `columns`
    are the row's, for judges that read them.
    """

    prompt: Text
    first: Text
    second: Text
    label: float
    row: int = -1
    source: str = ""
    annotator: str = ""
    group: str = ""
    weight: float = 1.0
    columns: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)


def load_judgments(
    data: Source, *, columns: Mapping[str, str] | None = None, split: str = "train", limit: int | None = None
) -> list[Judgment]:
    """Read the judgments in a file, a dataset on the Hub, or rows in memory, in order.

    By default rows are preferences or rankings, as `load_data` reads them, with `columns` as there: every pair of a
    row's completions is a judgment, a tie if their ranks are equal. If `columns` has `first` and `second`, or
    `completions`, every row has a prompt, a label and two or K answers:

    - `first`, `second`: the columns of two answers; `accord.data.verdicts.verdict` reads their label.
    - `completions`: the columns of K answers, separated by commas; the label is a list with one label per pair, in the
      order 12, 13, ..., 1K, 23, ...; the labels need not be consistent with any ranking.
    - `prompt`, `label`: by default "prompt" and "label". Several prompt columns, separated by commas, are joined with
      empty lines between; a list of texts is one paragraph. Several label columns are as many annotators, named by
      their columns; an empty label is no judgment.
    - `source`, `annotator`: by default "source", and "annotator" or else "user"; optional in rows of either kind.
    - `group`: the annotators' groups; read if named, and as "group" in rows with a "user".

    Raises InputError as `load_data` does, and for an unknown role, a missing column, a label that cannot be read, and
    labels of 0 and 1 alone, where 0 may mean a tie or the second answer.
    """
    names = dict(columns or {})
    if "user" in names:
        if "annotator" in names:
            raise InputError("columns name both user and annotator, which mean the same: name one of them")
        names["annotator"] = names.pop("user")
    for role in names:
        if role not in (*ROLES, *STANDARD):
            hint = nearest(role, ROLES) or f"; there are {', '.join(ROLES)}"
            raise InputError(f"columns has no role {role!r}{hint}")
    if names.keys() <= {"prompt", "source", "annotator", "group"} or names.keys() & STANDARD:
        return _conventional(data, names, split, limit)
    if names.keys() & {"first", "second", "completions"} not in ({"first", "second"}, {"completions"}):
        raise InputError("name the columns of two answers as first and second, or those of several as completions")
    answers = _list(names["completions"]) if "completions" in names else [names["first"], names["second"]]
    if len(answers) < 2:
        raise InputError(f"a comparison needs two completions, and only {answers[0]} is named; separate them by commas")
    judgments: list[Judgment] = []
    labels: set[str] = set()
    for row, (_, where, cells) in enumerate(open_rows(data, split, limit)):
        with located(f"{where}: "):
            judgments += _named(cells, names, answers, row, labels)
    require_rows(judgments, data, split)
    if {"0", "1"} <= labels and labels <= {"0", "1", "tie"}:
        raise InputError(
            f"{called(data)}: the labels are 0 and 1, and 0 may mean a tie or the second answer: write 2 for the "
            "second, tie for a tie"
        )
    return judgments


def _conventional(data: Source, names: Mapping[str, str], split: str, limit: int | None) -> list[Judgment]:
    """The judgments of preferences and rankings: one per pair of a row's completions."""
    judgments: list[Judgment] = []
    for number, (row, columns, _) in enumerate(read_rows(data, split, limit, columns=names, keep=True)):
        pairs = compared(row)
        if CONTRADICTORY in columns:  # they give no ranking, but are judgments
            pairs = [(a, b, label) for (a, b, _), label in zip(pairs, columns[CONTRADICTORY], strict=True)]
        if not pairs:
            raise InputError(
                f"{called(data)} holds no comparisons: rows need chosen and rejected, or completions and ranks, or "
                "columns named by --columns.first, --columns.second and --columns.label"
            )
        who = _who(columns, dict.fromkeys({"group"} & names.keys(), "group"))
        weight = weight_of(columns)
        judgments += [
            Judgment(row.prompt, a, b, label, number, *who, weight=weight, columns=columns) for a, b, label in pairs
        ]
    return judgments


def compared(row: Row) -> list[tuple[Text, Text, float]]:
    """Every pair of a preference's or ranking's completions as (first, second, label); none for any other row."""
    ranked = combinations(zip(*branches_of(row), strict=False), 2)
    sure = row.probability if isinstance(row, Preference) else 1.0
    return [(a, b, 0.5 + (sure - 0.5) * ((i < j) - (i > j))) for (a, i), (b, j) in ranked]


def to_pairs(ranking: Ranking) -> list[Preference]:
    """Every pair of completions with different ranks as a preference; K untied completions give K(K-1)/2 pairs."""
    return [
        Preference(ranking.prompt, *((a, b) if label else (b, a)), user=ranking.user)
        for a, b, label in compared(ranking)
        if label != 0.5
    ]


def _named(
    columns: Mapping[str, Any], names: Mapping[str, str], answers: Sequence[str], row: int, seen: set[str]
) -> list[Judgment]:
    """The judgments of a row with named columns; its labels, in lower case, are added to `seen`."""
    prompts, judged = _list(names.get("prompt", "prompt")), _list(names.get("label", "label"))
    cells = {name: value_at(columns, name) for name in (*prompts, *answers, *judged)}
    absent = next((name for name in (*prompts, *answers) if cells[name] is None), None)
    if absent or all(cells[name] is None for name in judged):
        present = ", ".join(str(name) for name, value in columns.items() if value is not None)
        raise InputError(f"the column {absent or judged[0]!r} is empty; the row has values in {present}")
    if len(prompts) == 1 and not is_listed(cells[prompts[0]]):
        prompt = read_prompt(cells[prompts[0]], prompts[0])
    else:
        prompt = "\n\n".join(paragraphs(cells[name], name) for name in prompts)
    prompt, texts = align(prompt, *(read_completion(cells[name], name) for name in answers))
    source, annotator, group = _who(columns, names)
    pairs, weight = list(combinations(texts, 2)), weight_of(columns)
    judgments = []
    for column in judged:
        if cells[column] is None:
            continue
        labels = cells[column] if "completions" in names else [cells[column]]
        if not isinstance(labels, Sequence) or isinstance(labels, str) or len(labels) != len(pairs):
            order = " ".join(f"{a}{b}" for a, b in combinations(range(1, len(answers) + 1), 2))
            raise InputError(f"{column!r} must be a list of {len(pairs)} labels, of the pairs {order}, not {labels!r}")
        seen.update(str(label).strip().lower() for label in labels)
        who = annotator if len(judged) == 1 else column
        judgments += [
            Judgment(prompt, first, second, _label(label, column, answers), row, source, who, group, weight, columns)
            for (first, second), label in zip(pairs, labels, strict=True)
        ]
    return judgments


def _label(value: Any, column: str, answers: Sequence[str]) -> float:
    label = verdict(value)
    if label is None and len(answers) == 2 and value in answers:
        label = 1.0 - answers.index(value)
    if label is None:
        raise InputError(
            f"{column!r} is {value!r}, and must be 1, A or first if the first is better, 2, B or second if the second "
            "is, tie (or 0) if neither is"
        )
    return label


def _optional(columns: Mapping[str, Any], names: Mapping[str, str], role: str) -> str:
    """The text of an optional column, empty if absent; a column named by the user must exist."""
    value = value_at(columns, names[role]) if role in names else columns.get(role)
    if value is None or role == "source":
        return "" if value is None else str(value)
    return named(value, names.get(role, role))


def _who(columns: Mapping[str, Any], names: Mapping[str, str]) -> tuple[str, str, str]:
    """A row's source, annotator and group."""
    by_user = "annotator" not in names and columns.get("annotator") is None
    annotator = _optional(columns, names, "user" if by_user else "annotator")
    group = _optional(columns, names, "group") if "group" in names or columns.get("user") is not None else ""
    return _optional(columns, names, "source"), annotator, group


def weight_of(columns: Mapping[str, Any]) -> float:
    """The row's `sampling_weight`, 1 if it has none."""
    value = columns.get("sampling_weight")
    if value is None:
        return 1.0
    if type(value) not in (int, float) or not isfinite(value):
        raise InputError(f"'sampling_weight' must be a number, not {value!r}")
    return float(value)


def _list(names: str) -> list[str]:
    return [name.strip() for name in names.split(",")]
