"""Several answers with verdicts, scores or ranks, converted to the columns of `accord.data.conventions`.

    completions, responses, answers ...     a list with `scores` (higher is better), with the index of the best, or of
                                            objects with an answer and its score or rank
    response_1, response_2; answer_a ...    one answer per column, with a verdict, or one score each: score_1 ...
    prediction 1, ... prediction 4          the same with a verdict per pair, in the order 12, 13, 14, 23, 24, 34

Which answer is better is never guessed: a number decides only in columns whose meaning is known.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any

from accord.data.messages import parsed
from accord.errors import InputError

Columns = Mapping[str, Any]

LISTS = ("completions", "responses", "answers", "summaries", "candidates", "generations")
TEXTS = ("response", "text", "completion", "content", "answer", "output", "generation", "value")
TOLD = ("custom_system_prompt", "system_prompt", "system")
"""What an answer of a list may have been told before it was written (UltraFeedback)."""
SCORES = ("scores", "ratings", "rewards", "rating")
SCORE = ("overall_score", "score", "rating", "reward", "pm_score")
CHOICES = ("choice", "best_index", "chosen_index", "preferred_index", "winner_index")
"""The index of the best answer of a list, from 0."""

ANSWER = re.compile(
    r"((?:response|answer|completion|conversation|output|summary|candidate|generation|prediction|human_ref)[_ ]?)"
    r"([0-9]|[a-zA-Z])"
)
"""The column name of one answer among several: a word, and a digit or a letter."""
SIGNS = ("preference_strength", "overall_preference")
"""Columns in which a number below 0 prefers the first of two answers, above 0 the second (HelpSteer)."""
INDICES = ("better_response_id",)
"""Columns in which 0 prefers the first of two answers, 1 the second (PKU-SafeRLHF)."""
WINNERS = ("winner", "preference", "preferred", "verdict", "label")
"""Columns that hold a word that `verdict` reads, or the name or last character of an answer's column."""

VERDICTS = {
    **dict.fromkeys(("1", "a", "first", "left", "true"), 1.0),
    **dict.fromkeys(("2", "b", "second", "right", "false"), 0.0),
    **dict.fromkeys(("0", "c", "tie", "ties", "tied", "both", "bothbad", "both bad", "both good"), 0.5),
    **dict.fromkeys(("tie (bothbad)", "tie bothbad", "neither"), 0.5),
    **dict.fromkeys(("equal", "draw", "same", "none", "no preference"), 0.5),
}
"""Labels of comparisons, in lower case, as P(first is better)."""

_SIGNS = {">": 1.0, "<": 0.0, "=": 0.5}
_COMPARED = re.compile(r"(.+?)\s*(>+|<+|=+)\s*(.+)")
_NAMED = re.compile(r"(model|response|answer|output|option|assistant|completion|candidate|conversation)[ _-]?")


def verdict(value: Any) -> float | None:
    """Read a comparison's label: 1 if the first answer is better, 0 the second, .5 for a tie, None if unreadable.

    Labels are 1, 2 or 0 (a tie), A or B, first or second, true or false (the first is better), also spelled as in
    "model_a", "Response 2", "[[B]]", "A>B" or "A << B".
    """
    text = str(value).strip().strip("[]").lower().removesuffix(".0").replace("_", " ")  # a number may be 1.0
    text = text[1:-1] if text.startswith("(") and text.endswith(")") else text
    if match := _COMPARED.fullmatch(text):
        sides = [VERDICTS.get(_NAMED.sub("", match[side], count=1)) for side in (1, 3)]
        first = _SIGNS[match[2][0]]
        return first if sides == [1.0, 0.0] else 1 - first if sides == [0.0, 1.0] else None
    return VERDICTS.get(_NAMED.sub("", text, count=1))


LABELS = {
    **dict.fromkeys(("true", "1", "1.0", "+1", "yes", "desirable"), True),
    **dict.fromkeys(("up", "thumbs up", "thumbs_up", "👍"), True),
    **dict.fromkeys(("false", "0", "0.0", "-1", "-1.0", "no", "undesirable"), False),
    **dict.fromkeys(("down", "thumbs down", "thumbs_down", "👎"), False),
}
"""Labels of single completions, in lower case."""

_SKINS = "".join(map(chr, range(0x1F3FB, 0x1F400)))
"""Emoji modifiers for skin tones."""


def desirable(value: Any) -> bool | None:
    """Whether a label calls a completion desirable; None if it cannot be read."""
    return LABELS.get(str(value).strip().strip("\ufe0f").rstrip(_SKINS).lower())


def is_tied(columns: Columns) -> bool:
    """Whether a row's column `tied` says that neither of its two answers is preferred."""
    value = columns.get("tied")
    if value is None or value != value or value == "":  # as tables have it in rows that are none
        return False
    if (tied := desirable(value)) is None:
        raise InputError(f"'tied' must be true or false, not {value!r}: leave it out by --columns tied=")
    return tied


CONTRADICTORY = "contradictory_verdicts"
"""The column that rows get whose verdicts on pairs of answers are no ranking."""


def add_preference(row: dict[str, Any]) -> dict[str, Any]:
    """The row with its answers as chosen and rejected (with `tied` for a tie), or as a ranking.

    Raises InputError if scores or a verdict cannot be read.
    """
    if {"chosen", "rejected", "completion"} & row.keys():
        return row
    name = next((name for name in LISTS if isinstance(row.get(name), list)), None)
    if "ranks" in row:
        rest = {key: value for key, value in row.items() if key != name}
        return row if name is None else rest | {"completions": row[name]}
    if name is not None:
        return _listed(row, name)
    groups: dict[str, list[str]] = {}
    for column in row:
        if match := ANSWER.fullmatch(column):
            groups.setdefault(match[1], []).append(column)
    for stem, columns in groups.items():
        columns.sort()
        verdicts = _paired(row, columns)
        if verdicts is not None:
            ranks = ranks_of_verdicts(len(columns), verdicts)
            ranked = _ranked(row, columns, ranks or [0] * len(columns))
            return ranked if ranks else ranked | {CONTRADICTORY: verdicts}
        ranks = _ranks(row, stem, columns) if len(columns) > 1 else None
        if ranks is not None:
            return _ranked(row, columns, ranks)
    return row


def _paired(row: Columns, columns: Sequence[str]) -> list[float] | None:
    """The verdicts on all pairs of three or more answers; None if no column has one per pair.

    Raises InputError if one cannot be read.
    """
    pairs = math.comb(len(columns), 2)
    name = next((n for n in WINNERS if isinstance(row.get(n), list) and len(row[n]) == pairs > 1), None)
    if name is None:
        return None
    verdicts = [verdict(value) for value in row[name]]
    if None in verdicts:
        raise InputError(f"{name!r} must have 1, 2 or 0 (a tie) for every pair of answers, not {row[name]!r}")
    return verdicts  # type: ignore[return-value]


def ranks_of_verdicts(number: int, verdicts: Sequence[float]) -> list[int] | None:
    """The ranks of `number` answers that reproduce the verdicts on all pairs (12, 13, ..., 23, ...), None if none do.

    An answer's rank is the number of answers better than it, with gaps closed. People's verdicts need not be
    transitive, so there may be no such ranks.
    """
    worse = [0] * number
    pairs = list(combinations(range(number), 2))
    for (i, j), first in zip(pairs, verdicts, strict=True):
        worse[i] += first == 0
        worse[j] += first == 1
    order = sorted(set(worse))
    ranks = [order.index(count) for count in worse]
    labels = [0.5 + 0.5 * ((ranks[i] < ranks[j]) - (ranks[i] > ranks[j])) for i, j in pairs]
    return ranks if labels == list(verdicts) else None


def missing_verdict(columns: Iterable[str]) -> str:
    """A hint for messages, if the columns hold answers without a verdict; else ""."""
    answers = sorted(name for name in columns if ANSWER.fullmatch(name))
    if len(answers) < 2:
        return ""
    first, second = answers[:2]
    return f"no column says whether {first} or {second} is better (--columns chosen={first},rejected={second})"


def _listed(row: dict[str, Any], name: str) -> dict[str, Any]:
    """The row with its list of answers as a ranking, by their scores or ranks, or by the index of the best."""
    texts: list[Any] = row[name]
    scores: list[Any] | None = None
    choice = next((column for column in CHOICES if column in row), None)
    column = next((column for column in SCORES if isinstance(row.get(column), list)), None)
    if texts and all(isinstance(item, Mapping) and "role" not in item and first_key(item, TEXTS) for item in texts):
        items, texts = texts, [item[first_key(item, TEXTS)] for item in texts]
        if told := next((key for key in TOLD if any(item.get(key) for item in items)), None):
            row = row | {f"{name}.{told}": [item.get(told) for item in items]}
        if all("rank" in item for item in items):
            scores = [-rank if is_number(rank := as_number(item["rank"])) else rank for item in items]
        elif choice is None and column is None:
            scores = [item[key] if (key := first_key(item, SCORE)) else None for item in items]
    if scores is None and column is not None:
        scores = row[column]
    if scores is None and choice is not None:
        best = row[choice]
        if not is_number(best) or best not in range(len(texts)):
            raise InputError(f"{choice!r} must be the index of one of {len(texts)} answers, from 0, not {best!r}")
        scores = [float(i == best) for i in range(len(texts))]
        if len(texts) == 2:
            pair = {f"{name}[{i}]": text for i, text in enumerate(texts)}
            rest = {key: value for key, value in row.items() if key not in (name, choice)}
            return _ranked(rest | pair, list(pair), [int(-score) for score in scores])
    if scores is None:
        return row
    scores = [as_number(score) for score in scores]
    if len(scores) != len(texts) or not all(map(is_number, scores)):
        raise InputError(
            f"{name!r} needs a number for each of its {len(texts)} answers{f' in {column!r}' if column else ''}, not "
            f"{scores}"
        )
    order = sorted(set(scores), reverse=True)
    rest = {key: value for key, value in row.items() if key not in (name, column)}
    return rest | {"completions": texts, "ranks": [order.index(score) for score in scores]}


def first_key(item: Columns, names: Sequence[str]) -> str:
    """The first of these columns that is there and not null; "" where none is."""
    return next((name for name in names if item.get(name) is not None), "")


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def as_number(value: Any) -> Any:
    """A number that is written as a text, as all are in CSV; other values unchanged."""
    is_text = isinstance(value, str) and re.fullmatch(r"\s*[-+]?(\d+\.?\d*|\.\d+)\s*", value)
    return float(value) if is_text else value


def _ranked(row: dict[str, Any], columns: Sequence[str], ranks: Sequence[int]) -> dict[str, Any]:
    """The row with the answers in `columns` as chosen and rejected, or as a ranking, by `ranks` (lowest is best)."""
    rest = {name: value for name, value in row.items() if name not in columns}
    texts = _dialogues(rest, [row[name] for name in columns])
    if "human_ref_A" in columns and "history" in rest:
        rest["prompt"] = rest.pop("history")  # SHP's: the post that both answer
    order = sorted(set(ranks))
    if len(columns) > 2:
        return rest | {"completions": texts, "ranks": [order.index(rank) for rank in ranks]}
    chosen, rejected = texts if ranks[0] <= ranks[1] else texts[::-1]
    return rest | {"chosen": chosen, "rejected": rejected} | ({"tied": True} if len(order) == 1 else {})


def _dialogues(rest: dict[str, Any], answers: list[Any]) -> list[Any]:
    """The answers; if the prompt and each answer are lists of equally many texts, they become whole dialogues."""
    texts = (rest.get("prompt"), *answers)
    questions, *replies = (parsed(text) if isinstance(text, str) and text.startswith("[") else text for text in texts)
    if not isinstance(questions, list) or not all(isinstance(text, str) for text in questions):
        return answers
    if not all(isinstance(turns, list) and len(turns) == len(questions) for turns in replies):
        raise InputError(
            f"'prompt' is a list of {len(questions)} texts, and an answer is not: give each answer as many"
        )
    del rest["prompt"]
    roles = ("user", "assistant")
    return [
        [
            {"role": r, "content": t}
            for pair in zip(questions, turns, strict=True)
            for r, t in zip(roles, pair, strict=True)
        ]
        for turns in replies
    ]


def _ranks(row: Columns, stem: str, columns: Sequence[str]) -> list[int] | None:
    """The ranks of the answers in `columns` (lowest is best), by a verdict or by scores; None without either."""
    ends = [column.removeprefix(stem) for column in columns]
    if len(columns) == 2:
        label = _label(row, columns, ends)
        if label is not None:
            return [label < 0.5, label > 0.5]
    for name in SCORE:
        scores: list[Any] = [as_number(row.get(f"{name}{'_' if stem.endswith('_') else ''}{end}")) for end in ends]
        if all(map(is_number, scores)):
            order = sorted(set(scores), reverse=True)
            return [order.index(score) for score in scores]
    return None


def _label(row: Columns, columns: Sequence[str], ends: Sequence[str]) -> float | None:
    """The row's verdict on two answers, with values as in `verdict`; None if no column has one."""
    hot = [str(row.get(f"winner_{end}")) for end in ("model_a", "model_b", "tie")]
    if sorted(hot) == ["0", "0", "1"]:
        return (1.0, 0.0, 0.5)[hot.index("1")]
    if columns[0].startswith("human_ref") and row.get("labels") in (0, 1):
        return float(row["labels"])
    name = next((name for name in (*SIGNS, *INDICES, *WINNERS) if name in row), None)
    if name is None:
        return None
    value, label = row[name], None
    number = float(value) if re.fullmatch(r"-?\d+(\.\d+)?", str(value).strip()) else None
    if name in SIGNS and number is not None:
        return 0.5 - 0.5 * ((number > 0) - (number < 0))
    if name in INDICES and str(value) in ("0", "1", "False", "True"):
        return float(str(value) in ("0", "False"))
    if name in WINNERS:
        text = str(value).strip().removesuffix(".0").lower()
        models = [str(row.get(f"model_{end}")) for end in ends]
        named = list(zip(columns, ends, models, strict=True))
        alike = [i for i, names in enumerate(named) if text in map(str.lower, names)]
        alike = alike if len(alike) == 1 else []
        label = 1.0 - alike[0] if alike else None if number is not None or isinstance(value, bool) else verdict(value)
    if label is None:
        raise InputError(
            f"{name!r} is {value!r}, which does not say whether {columns[0]!r} or {columns[1]!r} is better: write "
            f"{ends[0]}, {ends[1]} or tie, or, where it is their index from 0, name it by --columns {INDICES[0]}={name}"
        )
    return label
