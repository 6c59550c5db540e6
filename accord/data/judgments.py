"""Judgments: which of two completions somebody found better, one after the other, from any data that holds such.

Unlike a preference a judgment may be a tie, unlike a ranking it may contradict others of the same completions, and it
keeps who judged and where its row comes from. So data on which models of preferences are tried lose nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from math import isfinite
from typing import Any

from accord.data.columns import is_listed, paragraphs, value_at
from accord.data.conventions import CONVENTIONS, named, read_completion
from accord.data.encoding import branches_of
from accord.data.layouts import CHATS
from accord.data.load import Source, open_rows, read_rows, require_rows
from accord.data.messages import align, read_prompt
from accord.data.mix import called
from accord.data.verdicts import LISTS, verdict
from accord.errors import InputError, located, nearest
from accord.records import Preference, Ranking, Row, Text

ROLES = ("prompt", "first", "second", "completions", "label", "source", "annotator", "group")
"""What a column can be named for, beside those of `USUAL`."""

USUAL = {*LISTS, *CHATS, "chosen_probability", *(name for convention in CONVENTIONS for name in convention.needs)}
USUAL -= {*ROLES}
"""The columns by which a row of the usual ones is known."""


@dataclass(frozen=True, slots=True)
class Judgment:
    """Somebody's comparison of two completions: `label` is 1 where the first was found better, 0 the second, .5 a tie.

    Where the row says how likely its preference is, `label` is the probability that the first is better. `row` is the
    row of the data it comes from, counted from 0: a row may hold several. `source` is what that row says of where it
    comes from, `annotator` who judged (the row's `annotator`, or whose preference it is, its `user`), `group` of whom
    that is one; they are empty where the row does not say. `weight`
    is the row's `sampling_weight`, what makes up for having drawn it sooner or later than others. `columns` are the
    row's, for judges that are shown them.
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
    """The judgments in a file, a data set on the Hub, or rows in memory, in order.

    Without names of columns the rows are preferences or rankings, as `load_data` reads them: every pair of a row's
    completions is a judgment, those of equal rank ties. `columns` names these rows' columns as it does there. With
    `first` and `second`, or `completions`, among them every row has a prompt, a label and either two answers or K:

    - `first`, `second`: the columns of two answers; `verdict` says what their label may be.
    - `completions`: the columns of K answers, separated by commas; the label is a list of so many labels as there are
      pairs, in the order 12, 13, ..., 1K, 23, ...; they need not agree with any ranking.
    - `prompt`, `label`: "prompt" and "label" unless named. Of several columns, separated by commas, the prompt is their
      texts in that order, an empty line between them; a list of texts is one paragraph. Of several, labels are those of
      as many annotators, called as their columns are; who left a row out has no judgment of it.
    - `source`, `annotator`: "source" and "annotator", or else "user", unless named, in rows of either sort, where there
      are such.
    - `group`: of annotators; read where it is named, and as "group" where rows have a "user".

    Raises InputError as `load_data` does, and where a role is not known, a column is not there, a label says none of
    these, or the labels are 0 and 1, so that 0 may mean a tie or the second answer.
    """
    names = dict(columns or {})
    if "user" in names:
        if "annotator" in names:
            raise InputError("columns name both user and annotator, who are one: name one of them")
        names["annotator"] = names.pop("user")
    for role in names:
        if role not in (*ROLES, *USUAL):
            hint = nearest(role, ROLES) or f"; there are {', '.join(ROLES)}"
            raise InputError(f"columns can be named for no {role!r}{hint}")
    if names.keys() <= {"prompt", "source", "annotator", "group"} or names.keys() & USUAL:
        return _conventional(data, names, split, limit)
    if names.keys() & {"first", "second", "completions"} not in ({"first", "second"}, {"completions"}):
        raise InputError("name the columns of two answers as first and second, or those of several as completions")
    answers = _list(names["completions"]) if "completions" in names else [names["first"], names["second"]]
    if len(answers) < 2:
        raise InputError(f"a comparison needs two completions, and only {answers[0]} is named; separate them by commas")
    judgments: list[Judgment] = []
    said: set[str] = set()
    for row, (_, where, cells) in enumerate(open_rows(data, split, limit)):
        with located(f"{where}: "):
            judgments += _named(cells, names, answers, row, said)
    require_rows(judgments, data, split)
    if {"0", "1"} <= said and said <= {"0", "1", "tie"}:
        raise InputError(
            f"{called(data)}: its labels are 0 and 1, and 0 may be a tie or the second answer: write 2 for the second, "
            "tie for a tie"
        )
    return judgments


def _conventional(data: Source, names: Mapping[str, str], split: str, limit: int | None) -> list[Judgment]:
    """Every pair of the completions of preferences and rankings."""
    judgments: list[Judgment] = []
    for number, (row, columns, _) in enumerate(read_rows(data, split, limit, columns=names, keep=True)):
        pairs = compared(row)
        if "verdicts" in columns:  # they are no ranking, and judgments all the same
            pairs = [(a, b, label) for (a, b, _), label in zip(pairs, columns["verdicts"], strict=True)]
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
    """Every pair of a preference's or a ranking's completions, with its label; none for any other row."""
    ranked = combinations(zip(*branches_of(row), strict=False), 2)
    sure = row.probability if isinstance(row, Preference) else 1.0
    return [(a, b, 0.5 + (sure - 0.5) * ((i < j) - (i > j))) for (a, i), (b, j) in ranked]


def to_pairs(ranking: Ranking) -> list[Preference]:
    """Every pair of completions with different ranks, the better one chosen; ties give no pair.

    K completions without ties give K(K-1)/2 pairs, in the order of the completions.
    """
    return [
        Preference(ranking.prompt, *((a, b) if label else (b, a)), user=ranking.user)
        for a, b, label in compared(ranking)
        if label != 0.5
    ]


def _named(
    columns: Mapping[str, Any], names: Mapping[str, str], answers: Sequence[str], row: int, said: set[str]
) -> list[Judgment]:
    """The judgments of a row whose columns have names of their own; what its labels say is added to `said`."""
    asked, judged = _list(names.get("prompt", "prompt")), _list(names.get("label", "label"))
    cells = {name: value_at(columns, name) for name in (*asked, *answers, *judged)}
    absent = next((name for name in (*asked, *answers) if cells[name] is None), None)
    if absent or all(cells[name] is None for name in judged):
        present = ", ".join(str(name) for name, value in columns.items() if value is not None)
        raise InputError(f"there is no {absent or judged[0]!r}; the columns found are {present}")
    if len(asked) == 1 and not is_listed(cells[asked[0]]):
        prompt = read_prompt(cells[asked[0]], asked[0])
    else:
        prompt = "\n\n".join(paragraphs(cells[name], name) for name in asked)
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
            raise InputError(
                f"{column!r} must be a list of {len(pairs)} labels, of the pairs {order}, and is {labels!r}"
            )
        said.update(str(label).strip().lower() for label in labels)
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
            f"{column!r} is {value!r}, and must be 1, A or first where the first is better, 2, B or second where the "
            "second is, tie (or 0) where neither is"
        )
    return label


def _said(columns: Mapping[str, Any], names: Mapping[str, str], role: str) -> str:
    """What a row says in a column that it may lack, unless that was named."""
    value = value_at(columns, names[role]) if role in names else columns.get(role)
    if value is None or role == "source":
        return "" if value is None else str(value)
    return named(value, names.get(role, role))


def _who(columns: Mapping[str, Any], names: Mapping[str, str]) -> tuple[str, str, str]:
    """A row's source, annotator and group."""
    by_user = "annotator" not in names and columns.get("annotator") is None
    annotator = _said(columns, names, "user" if by_user else "annotator")
    group = _said(columns, names, "group") if "group" in names or columns.get("user") is not None else ""
    return _said(columns, names, "source"), annotator, group


def weight_of(columns: Mapping[str, Any]) -> float:
    """A row's `sampling_weight`, 1 unless it has one."""
    value = columns.get("sampling_weight")
    if value is None:
        return 1.0
    if type(value) not in (int, float) or not isfinite(value):
        raise InputError(f"'sampling_weight' must be a number, not {value!r}")
    return float(value)


def _list(names: str) -> list[str]:
    return [name.strip() for name in names.split(",")]
