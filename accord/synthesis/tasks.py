"""Tasks: an instruction with instances (an input and its output), and the human-written seeds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from accord import data
from accord.errors import InputError, located, row_called
from accord.records import Demonstration, Prompt, Text


@dataclass(frozen=True, slots=True)
class Instance:
    """An input of a task (empty where none is needed) and the output."""

    input: str
    output: str


@dataclass(frozen=True, slots=True)
class Task:
    """An instruction with its instances, and whether its outputs are class labels (None if unknown)."""

    instruction: str
    instances: tuple[Instance, ...] = ()
    is_classification: bool | None = None

    def rows(self) -> list[dict[str, str]]:
        """A demonstration for each instance, in the columns instruction, input and output."""
        return [{"instruction": self.instruction, "input": i.input, "output": i.output} for i in self.instances]


@dataclass(slots=True)
class Candidate:
    """A task proposed by a model, and its fate.

    `origin` is what it was made from; `rejected` the filter it failed, empty if accepted; `dropped` its rejected
    instances, each with the filter's name.
    """

    instruction: str
    origin: str = ""
    is_classification: bool | None = None
    instances: list[Instance] = field(default_factory=list)
    rejected: str = ""
    nearest: float = 0.0
    """The highest ROUGE-L with the pool before it."""
    dropped: list[tuple[str, Instance]] = field(default_factory=list)

    @property
    def task(self) -> Task:
        """The task as added to the pool."""
        return Task(self.instruction, tuple(self.instances), self.is_classification)

    def to_json(self) -> dict[str, Any]:
        """The candidate as a row of candidates.jsonl."""
        return {
            "instruction": self.instruction,
            "rejected": self.rejected,
            "nearest": self.nearest,
            "origin": self.origin,
            "is_classification": self.is_classification,
            "instances": [{"input": i.input, "output": i.output} for i in self.instances],
            "dropped": [{"rejected": by, "input": i.input, "output": i.output} for by, i in self.dropped],
        }

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Candidate:
        """The candidate in such a row; raises KeyError or TypeError where the row is invalid."""
        return cls(
            row["instruction"],
            row["origin"],
            row["is_classification"],
            [Instance(one["input"], one["output"]) for one in row["instances"]],
            row["rejected"],
            row["nearest"],
            [(one["rejected"], Instance(one["input"], one["output"])) for one in row["dropped"]],
        )


def load_seeds(source: str) -> list[Task]:
    """The tasks in a file.

    Rows in Self-Instruct's layout (`instruction`, `instances` of `input` and `output`, `is_classification`), of
    instruction, input and output, or single-turn prompts and demonstrations in any layout accord reads. Raises
    InputError, naming the row, where one is no task.
    """
    tasks: list[Task] = []
    for _, where, row in data.load.open_rows(source):
        with located(f"{where}: "):
            is_own = isinstance(row, Mapping) and isinstance(row.get("instruction"), str)
            tasks.append(_task(row) if is_own else _of_record(row))
    data.load.require_rows(tasks, source, "train")
    return tasks


def load_answers(source: str) -> list[str]:
    """The texts in a file, or the single-turn completions of its demonstrations; InputError names an invalid row."""
    answers: list[str] = []
    for index, row in enumerate(data.load_data(source)):
        with located(f"{source}, {row_called(index)}: "):
            if not isinstance(row, Demonstration):
                raise InputError("an answer is a text or the completion of a demonstration, and this row has neither")
            answers.append(_one_turn(row.completion, "completion", "assistant"))
    return answers


def _task(row: Mapping[str, Any]) -> Task:
    instruction, is_classification = row["instruction"].strip(), row.get("is_classification")
    if not instruction:
        raise InputError("'instruction' is empty")
    if is_classification is not None and not isinstance(is_classification, bool):
        raise InputError(f"'is_classification' must be true or false, not {is_classification!r}")
    instances = row.get("instances")
    if instances is None and row.get("output") is not None:
        instances = [{"input": row.get("input"), "output": row["output"]}]
    if instances is not None and not isinstance(instances, list):
        raise InputError("'instances' must be a list of objects with input and output")
    return Task(instruction, tuple(_instances(instances or [])), is_classification)


def _instances(entries: Iterable[Any]) -> Iterable[Instance]:
    for i, one in enumerate(entries):
        columns = one if isinstance(one, Mapping) else {}
        input_text, output = columns.get("input") or "", columns.get("output")
        if not isinstance(input_text, str) or not isinstance(output, str) or not output.strip():
            raise InputError(f"instances[{i}] must be an object with the texts input, which may be empty, and output")
        yield Instance(input_text.strip(), output.strip())


def _of_record(row: Any) -> Task:
    record = data.load_data([row])[0]
    if not isinstance(record, Prompt | Demonstration):
        raise InputError("a seed is a prompt or a demonstration, and this row is neither")
    instruction = _one_turn(record.prompt, "prompt", "user")
    answer = _one_turn(record.completion, "completion", "assistant") if isinstance(record, Demonstration) else ""
    if not instruction:
        raise InputError("the row has no prompt, which would be the instruction")
    return Task(instruction, (Instance("", answer),) if answer else ())


def _one_turn(text: Text, name: str, role: str) -> str:
    if isinstance(text, str):
        return text.strip()
    if len(text) != 1 or text[0].role != role:
        raise InputError(f"the {name} has {len(text)} turns, and a seed is of one, the {role}'s")
    return text[0].content.strip()
