"""Prompt formats of tasks: the only code that writes a row as prompt and target, or extracts answers from output.

    format       prompt                                             target
    zero         the instruction                                    the answer
    few          exemplars, the instruction                         the answer
    cot          the instruction, a trigger                         the rationale, the answer phrase, the answer
    few-cot      exemplars, the instruction, a trigger              the rationale, the answer phrase, the answer
    inverse      the answer                                         the instruction
    inverse-cot  the rationale, the answer                          the instruction
    prefix       the task's name and the row's fields, as in T5     the answer

An exemplar is another row of the task, prompt and target as text, as in GPT-3's and FLAN's prompts. Exemplars are
training rows, never rows that any task is evaluated on. Chains of thought follow FLAN-PaLM (Chung et al. 2022,
arXiv:2210.11416), inversions the FLAN collection (Longpre et al. 2023, arXiv:2301.13688).
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeAlias

from accord.data.examples import Example, examples_of
from accord.data.tasks import Task
from accord.data.templates import content_free, fill
from accord.errors import InputError, nearest
from accord.records import Demonstration, Message, Text

Form: TypeAlias = Literal["chat", "plain"]
"""How a model is prompted: by a user message in its chat template, or by plain text to continue."""

SHOTS = 3
"""The default number of exemplars in few-shot formats."""

FORMATS: dict[str, dict[str, Any]] = {
    "zero": {},
    "few": {"shots": SHOTS},
    "cot": {"cot": True},
    "few-cot": {"shots": SHOTS, "cot": True},
    "inverse": {"inverse": True},
    "inverse-cot": {"inverse": True, "cot": True},
    "prefix": {"prefix": True},
}
"""The fields of each named `Format`."""


@dataclass(frozen=True, slots=True)
class Format:
    """How a row is written as prompt and target.

    `shots` is the number of exemplars, drawn by `seed` and row. `cot` adds a chain of thought, `inverse` swaps answer
    and instruction, and `prefix` replaces the instruction by the task's T5-style prefix.
    """

    form: Form = "chat"
    shots: int = 0
    cot: bool = False
    inverse: bool = False
    prefix: bool = False
    seed: int = 0

    @property
    def name(self) -> str:
        """The format's name in `FORMATS`."""
        first = "prefix" if self.prefix else "inverse" if self.inverse else "few" if self.shots else ""
        return "-".join(filter(None, (first, "cot" if self.cot else ""))) or "zero"

    def missing_key(self, task: Task) -> str | None:
        """The task key that this format needs and the task lacks, else None."""
        if self.prefix and not task.prefix:
            return "prefix"
        return "rationale" if self.cot and not task.rationale else None

    def instructions(self, example: Example) -> tuple[str, ...]:
        """The row in each instruction template, or in the prefix."""
        return (example.prefix,) if self.prefix else example.prompts


def weighted_formats(spec: str | None, shots: int | None, form: Form, seed: int) -> dict[Format, float]:
    """Parse formats and weights, `zero:2,few:1`; names alone weigh the same.

    None means `few` if `shots` is given, else `zero`. Raises InputError for an unknown or repeated format, a weight
    that is not above 0, weights on only some formats, or `shots` without a few-shot format.
    """
    weights: dict[str, float | None] = {}
    for part in (spec if spec is not None else "zero" if shots is None else "few").split(","):
        name, colon, weight = (side.strip() for side in part.partition(":"))
        if name not in FORMATS:
            raise InputError(
                f"there is no format {name!r}{nearest(name, FORMATS)}; --formats takes {', '.join(FORMATS)}, each with "
                "its weight, as zero:2,few:1."
            )
        if name in weights:
            raise InputError(f"--formats has {name} twice.")
        weights[name] = _weight(name, weight) if colon else None
    without = [name for name, weight in weights.items() if weight is None]
    if 0 < len(without) < len(weights):
        raise InputError(
            f"{without[0]} has no weight in --formats, but others do: give every format a weight, or none."
        )
    if shots is not None and not any("shots" in FORMATS[name] for name in weights):
        raise InputError(f"--shots is for the formats few and few-cot, and --formats has {', '.join(weights)} alone.")
    formats = {Format(form, seed=seed, **FORMATS[name]): 1.0 if w is None else w for name, w in weights.items()}
    return {replace(f, shots=shots) if f.shots and shots else f: weight for f, weight in formats.items()}


def _weight(name: str, text: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = math.nan
    if not 0 < weight < math.inf:
        raise InputError(f"the weight of {name} in --formats must be a number above 0, not {text}.")
    return weight


def dialogue(prompt: str, answer: str, form: Form) -> Demonstration:
    """A prompt and its answer as a chat of two turns, or as plain text joined by a space."""
    if form == "chat":
        return Demonstration((Message("user", prompt),), (Message("assistant", answer),))
    return Demonstration(prompt, f" {answer}" if prompt else answer)


def to_prompt(prompt: str, form: Form) -> Text:
    """The prompt as a chat of one user message, or as plain text."""
    return dialogue(prompt, "", form).prompt


def question(
    task: Task, example: Example, template: int, format: Format, shown: Sequence[Example] = (), *, blank: bool = False
) -> str:
    """The prompt of a row: the exemplars `shown`, then the row, all in the instruction template of index `template`.

    Each exemplar is followed by its answer and the task's separator. `blank` leaves the row's own columns empty, for
    the content-free prompt.
    """
    templates = (task.prefix,) if format.prefix else task.prompts
    last = content_free(templates[template]) if blank else format.instructions(example)[template]
    before = [(format.instructions(e)[template], f" {answer(task, e, format)}") for e in shown]
    trigger = f" {task.wording.trigger}".rstrip() if format.cot else ""
    return task.wording.separator.join(f"{text}{trigger}{target}" for text, target in [*before, (last, "")])


def answer(task: Task, example: Example, format: Format) -> str:
    """The target of a row. Raises InputError if `extract_answer` could not recover the answer from it."""
    right = example.references[0]
    if not format.cot:
        return right
    if len(right.splitlines()) > 1:
        raise InputError(
            f"{task.training_file}, row {example.row}, for the task {task.label}: the answer has several lines, and "
            "only one line is read after the answer phrase of a chain of thought: shorten it, or use a format without "
            "cot."
        )
    return f"{example.rationale} {task.wording.answer_phrase} {right}"


def demonstration(
    task: Task, example: Example, template: int, format: Format, shown: Sequence[Example] = (), inversion: int = 0
) -> Demonstration:
    """A row as a demonstration; an inverse format asks for the question with the inverse template `inversion`."""
    if format.inverse:
        values = {"answer": example.references[0], "rationale": example.rationale}
        return dialogue(fill(inversions(task, format)[inversion], values), example.prompts[template], format.form)
    prompt = question(task, example, template, format, shown)
    return dialogue(prompt, answer(task, example, format), format.form)


def inversions(task: Task, format: Format) -> tuple[str, ...]:
    """The task's inverse templates, with or without the rationale."""
    return task.wording.inverse_cot if format.cot else task.wording.inverse


def extract_answer(text: str, phrase: str) -> str | None:
    """The rest of the line after the last answer phrase in a text; None if there is none.

    Matching ignores case and white space in the phrase, and a colon after it.
    """
    words = r"\s+".join(map(re.escape, phrase.split()))
    begin, end = (r"\b" if sign.isalnum() else "" for sign in (phrase.strip()[0], phrase.strip()[-1]))
    ends = [found.end() for found in re.finditer(f"{begin}{words}{end}", text, re.IGNORECASE)]
    answer = text[ends[-1] :].lstrip().removeprefix(":").strip() if ends else ""
    return answer.splitlines()[0].strip() if answer else None


class Exemplars:
    """The pools of exemplars: each task's training rows without the evaluation rows of any `known` task.

    A row is identified by its file and its number in the file.
    """

    def __init__(self, known: Iterable[Task]) -> None:
        self._known = list(known)
        self._pools: dict[str, list[Example]] = {}

    def of(self, task: Task, example: Example, format: Format) -> tuple[Example, ...]:
        """Draw `format.shots` distinct exemplars for a row, none of them the row itself, in the order shown.

        The draw depends only on the task, the row and the seed, so all models see the same exemplars, in training and
        evaluation alike. Raises InputError if there are too few.
        """
        if not format.shots:
            return ()
        pool, rng = self._pool(task), random.Random(f"exemplars {task.label} {example.row} {format.seed}")
        seen: set[int] = set()
        shown: list[Example] = []
        while len(shown) < format.shots and len(seen) < len(pool):
            i = rng.randrange(len(pool))
            is_same = (pool[i].prompts, pool[i].options) == (example.prompts, example.options)
            if i not in seen and pool[i].row != example.row and not is_same:
                shown.append(pool[i])
            seen.add(i)
        if len(shown) < format.shots:
            rows = "1 row" if len(shown) == 1 else f"{len(shown)} rows"
            raise InputError(
                f"{task.training_file} has {rows} to show as exemplars of the task {task.label}, besides row "
                f"{example.row} and the rows that tasks are evaluated on: ask for --shots {len(shown)} or fewer, or "
                "give more rows by train_split."
            )
        return tuple(shown)

    @cached_property
    def _evaluated(self) -> set[tuple[Path, int]]:
        return {(task.data.resolve(), e.row) for task in self._known for e in examples_of(task)}

    def _pool(self, task: Task) -> list[Example]:
        """The task's possible exemplars, in file order."""
        if task.label not in self._pools:
            file = task.training_file.resolve()
            rows = examples_of(task, training=True)
            self._pools[task.label] = [e for e in rows if (file, e.row) not in self._evaluated]
        return self._pools[task.label]
