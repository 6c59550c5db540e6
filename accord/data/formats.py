"""How a row of a task is put into words: the one place that writes prompts, and reads answers out of what is written.

    format       what a model reads                                 what it is to write
    zero         the instruction                                    the answer
    few          exemplars, the instruction                         the answer
    cot          the instruction, a trigger                         the rationale, the answer phrase, the answer
    few-cot      exemplars, the instruction, a trigger              the rationale, the answer phrase, the answer
    inverse      the answer                                         the instruction
    inverse-cot  the rationale, the answer                          the instruction
    prefix       the task's name and the row's parts, as T5 has it  the answer

An exemplar is another row of the task, all that is read and written of it as text, as in GPT-3's prompts and FLAN's. It
is of those that are trained on, and never of those that any task is asked about. Chains of thought are FLAN-PaLM's
(Chung et al. 2022, arXiv:2210.11416), inversions the FLAN collection's (Longpre et al. 2023, arXiv:2301.13688).
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
from accord.data.templates import blank as blank_of
from accord.data.templates import fill
from accord.errors import InputError, nearest
from accord.records import Demonstration, Message, Text

Form: TypeAlias = Literal["chat", "plain"]
"""How a model is asked: by a user's message in its chat template, or by plain text that it goes on from."""

SHOTS = 3
"""Exemplars of the formats that have some, unless so many are asked for."""

FORMATS: dict[str, dict[str, Any]] = {
    "zero": {},
    "few": {"shots": SHOTS},
    "cot": {"cot": True},
    "few-cot": {"shots": SHOTS, "cot": True},
    "inverse": {"inverse": True},
    "inverse-cot": {"inverse": True, "cot": True},
    "prefix": {"prefix": True},
}
"""The formats that rows are mixed in, by name."""


@dataclass(frozen=True, slots=True)
class Format:
    """How a row is written: in which form, after how many exemplars (`shots`), which `seed` and row decide.

    `cot` is with a chain of thought, `inverse` from the answer to the instruction, and `prefix` with the task's prefix
    in the place of an instruction.
    """

    form: Form = "chat"
    shots: int = 0
    cot: bool = False
    inverse: bool = False
    prefix: bool = False
    seed: int = 0

    @property
    def name(self) -> str:
        """Its name in `FORMATS`."""
        first = "prefix" if self.prefix else "inverse" if self.inverse else "few" if self.shots else ""
        return "-".join(filter(None, (first, "cot" if self.cot else ""))) or "zero"

    def lacking(self, task: Task) -> str | None:
        """The key that the task would need to be written so, where it has not got it."""
        if self.prefix and not task.prefix:
            return "prefix"
        return "rationale" if self.cot and not task.rationale else None

    def instructions(self, example: Example) -> tuple[str, ...]:
        """The row in each of the instructions that it is asked in."""
        return (example.prefix,) if self.prefix else example.prompts


def weighted_formats(spec: str | None, shots: int | None, form: Form, seed: int) -> dict[Format, float]:
    """Formats and their weights, from names as `zero:2,few:1`, or from names alone, of which each weighs the same.

    Without names it is `few` where `shots` are given, and else `zero`. Raises InputError where there is no such format,
    one is named twice, a weight is not above 0 or only some have one, or shots are given and none of them has any.
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
        raise InputError(f"{without[0]} has no weight in --formats, and others have: give every format one, or none.")
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
    """An instruction and its answer: a chat of two turns, or plain text, with a space between the two."""
    if form == "chat":
        return Demonstration((Message("user", prompt),), (Message("assistant", answer),))
    return Demonstration(prompt, f" {answer}" if prompt else answer)


def asked(prompt: str, form: Form) -> Text:
    """The instruction as a model is prompted with it."""
    return dialogue(prompt, "", form).prompt


def question(
    task: Task, example: Example, template: int, format: Format, shown: Sequence[Example] = (), *, blank: bool = False
) -> str:
    """What a model is asked about a row: the exemplars `shown`, then the row in the instruction of this number.

    Exemplars are in the same instruction, each with its answer after a space, and end with the task's separator. With
    `blank` the row's own columns are left out of its instruction.
    """
    templates = (task.prefix,) if format.prefix else task.prompts
    last = blank_of(templates[template]) if blank else format.instructions(example)[template]
    before = [(format.instructions(e)[template], f" {answer(task, e, format)}") for e in shown]
    trigger = f" {task.wording.trigger}".rstrip() if format.cot else ""
    return task.wording.separator.join(f"{text}{trigger}{said}" for text, said in [*before, (last, "")])


def answer(task: Task, example: Example, format: Format) -> str:
    """What is to be written about a row; InputError where what reads it again would not find its answer."""
    right = example.references[0]
    if not format.cot:
        return right
    if len(right.splitlines()) > 1:
        raise InputError(
            f"{task.training_file}, row {example.row}, for the task {task.label}: the answer has several lines, and of "
            "what stands behind the answer phrase of a chain of thought one line is read."
        )
    return f"{example.rationale} {task.wording.answer_phrase} {right}"


def demonstration(
    task: Task, example: Example, template: int, format: Format, shown: Sequence[Example] = (), inversion: int = 0
) -> Demonstration:
    """A row to learn from; of an inversion the question is learned, which the template `inversion` asks for."""
    if format.inverse:
        given = {"answer": example.references[0], "rationale": example.rationale}
        return dialogue(fill(inversions(task, format)[inversion], given), example.prompts[template], format.form)
    prompt = question(task, example, template, format, shown)
    return dialogue(prompt, answer(task, example, format), format.form)


def inversions(task: Task, format: Format) -> tuple[str, ...]:
    """The templates that ask for a question."""
    return task.wording.inverse_cot if format.cot else task.wording.inverse


def answer_in(text: str, phrase: str) -> str | None:
    """What stands behind the last answer phrase in a text, to the end of its line; None where nothing does.

    Letter case and white space in the phrase do not count, nor does a colon behind it.
    """
    words = r"\s+".join(map(re.escape, phrase.split()))
    begin, end = (r"\b" if sign.isalnum() else "" for sign in (phrase.strip()[0], phrase.strip()[-1]))
    ends = [found.end() for found in re.finditer(f"{begin}{words}{end}", text, re.IGNORECASE)]
    said = text[ends[-1] :].lstrip().removeprefix(":").strip() if ends else ""
    return said.splitlines()[0].strip() if said else None


class Exemplars:
    """The rows of tasks that may be shown: those to train on, but for rows that any `known` task is asked about.

    Rows are told apart by their file and their number in it.
    """

    def __init__(self, known: Iterable[Task]) -> None:
        self._known = list(known)
        self._pools: dict[str, list[Example]] = {}

    def of(self, task: Task, example: Example, format: Format) -> tuple[Example, ...]:
        """As many as the format shows, in the order to show them: different rows, none of them the one asked about.

        The task, the row and the seed decide which, whatever model is asked and whether it is to learn. Raises
        InputError where there are too few.
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
                f"{task.training_file} has {rows} to show as exemplars of the task {task.label}, beside row "
                f"{example.row}, of those it is trained on and no task is asked about: ask for --shots {len(shown)} or "
                "fewer, or give it more by train_split."
            )
        return tuple(shown)

    @cached_property
    def _asked(self) -> set[tuple[Path, int]]:
        return {(task.data.resolve(), e.row) for task in self._known for e in examples_of(task)}

    def _pool(self, task: Task) -> list[Example]:
        """All rows of the task that may be shown, in the order of its file."""
        if task.label not in self._pools:
            file = task.training_file.resolve()
            rows = examples_of(task, training=True)
            self._pools[task.label] = [e for e in rows if (file, e.row) not in self._asked]
        return self._pools[task.label]
