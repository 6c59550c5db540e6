"""Files of tasks as the field has them, each as a file of tasks in YAML would say it, and their rows.

    natural-instructions   Super-NaturalInstructions: a JSON object a task, or a folder of them (arXiv:2204.07705)
    cot                    the FLAN collection's chains of thought: question, answer and rationale, separated by tabs
    gsm8k                  GSM8K's problems: a question, and an answer that is a rationale, "####" and a number
    (rows)                 FLAN-like rows with `inputs`, `targets`, and the names of their task and of its source

The first three are layouts that a task may name (`layout: cot`); of GSM8K's the task has to, as its rows tell no name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from accord.data.load import open_rows
from accord.data.readers import FORMATS, OPENERS, PLAIN, open_text, reader_of, where_json
from accord.data.sources import pick
from accord.errors import InputError, located
from accord.parsing import parse_json

Clusters: TypeAlias = dict[str, dict[str, dict[str, Any]]]
"""What a file of tasks holds under `clusters`: the keys of each task by its name, by its cluster."""

ASKED = 100
"""Instances of a Super-NaturalInstructions task that are its test rows: the first."""


def are_tasks(path: Path) -> bool:
    """Whether tasks are read from the file or folder by its layout, and not as YAML."""
    return path.is_dir() or (path.is_file() and _has_rows(path))


def clusters_in(path: Path) -> Clusters:
    """The tasks of a file, or of all files of a folder.

    Raises InputError where a file is of no known layout, two tasks have one name, or there are no files.
    """
    files = sorted(file for file in path.iterdir() if file.is_file() and _has_rows(file)) if path.is_dir() else [path]
    clusters: Clusters = {}
    for file in files:
        for cluster, name, task in _tasks(file):
            if name in clusters.setdefault(cluster, {}):
                raise InputError(f"{file}: the cluster {cluster} has a task {name} already; rename one.")
            clusters[cluster][name] = {"data": file.name, **task}
    if not clusters:
        read = ", ".join(suffix for suffix in FORMATS if suffix not in PLAIN)
        raise InputError(f"{path} holds no tasks; they are read from {read}, those of text also compressed.")
    return clusters


def rows_of(path: Path, layout: str | None, split: str) -> Iterator[tuple[int, str, Any]]:
    """The rows of a task's data: each with its number, from 1, and where messages say that it is."""
    if layout is None:
        yield from open_rows(path, split)
        return
    unit, read = LAYOUTS[layout]
    for number, row in pick(read(path), split):
        yield number, f"{path}, {unit} {number}", row


def _has_rows(file: Path) -> bool:
    """Whether it is a file of rows: of the readable ones those of plain text, as a folder's README, are not."""
    return reader_of(file) not in (None, *PLAIN.values())


def _tasks(file: Path) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """The tasks of a file: cluster, name, and keys, of which `data` is the file."""
    name = (file.with_suffix("") if file.suffix.lower() in OPENERS else file).stem
    if ".tsv" in file.suffixes:
        columns = {"prompt": "{question}", "output": "answer", "rationale": "rationale"}
        yield name, name, {"layout": "cot", "metric": "exact", **columns}
    elif ".json" in file.suffixes and isinstance(given := _json(file), Mapping):
        task = _instructions(file, given)
        yield task["Categories"][0], name, _natural(task)
    else:
        yield from _flan(file)


def _natural(task: Mapping[str, Any]) -> dict[str, Any]:
    """A task of Super-NaturalInstructions: asked about its first instances, and trained on the others.

    One that has no others is asked about and trained on all of them. Answers are scored by ROUGE-L, as in its paper.
    """
    prompts = [f"{{Definition.{i}}}\n\n{{input}}" for i in range(len(task["Definition"]))]
    keys = {"layout": "natural-instructions", "metric": "rouge-l", "prompt": prompts, "output": "output"}
    if len(task["Instances"]) > ASKED:
        keys |= {"split": f"train[:{ASKED}]", "train_split": f"train[{ASKED}:]"}
    return keys


def _instructions(file: Path, given: Mapping[str, Any]) -> Mapping[str, Any]:
    """The JSON object of a task, its Definition as a list of texts; InputError where it is none."""
    for key in ("Definition", "Categories", "Instances"):
        if key not in given:
            raise InputError(
                f"{file} has no {key!r}: a JSON object is read as a task of Super-NaturalInstructions, which has "
                "Definition, Categories and Instances."
            )
    said = given["Definition"]
    task = {**given, "Definition": [said] if isinstance(said, str) else said}
    for key in ("Definition", "Categories"):
        if not _is_list(task[key], str) or not all(text.strip() for text in task[key]):
            raise InputError(f"{file}: {key!r} must be a text, or a list of texts, not {given[key]!r}.")
    if not _is_list(task["Instances"], Mapping):
        raise InputError(f"{file}: 'Instances' must be a list of objects with an input and an output.")
    return task


def _is_list(value: Any, of: type) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, of) for one in value)


def _instances(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """The instances of a task, each beside what the task has for all: `Definition.0`, `Positive Examples.0.input`."""
    given = _json(path)
    if not isinstance(given, Mapping):
        raise InputError(f"{path} must hold a JSON object, a task of Super-NaturalInstructions.")
    task = _instructions(path, given)
    shared = {key: value for key, value in task.items() if key != "Instances"}
    yield from enumerate(({**shared, **instance} for instance in task["Instances"]), start=1)


def _json(path: Path) -> Any:
    """What a file of JSON holds, or None where it is one object a line."""
    with open_text(path) as file:
        text = file.read()
    with where_json(path):
        try:
            return parse_json(text)
        except ValueError as error:
            if getattr(error, "msg", "") == "Extra data":
                return None
            raise


def _flan(file: Path) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """The tasks that rows name as theirs, in the order in which they come; a source is a cluster.

    Answers are scored by ROUGE-L: the targets of such files are words, sentences and chains of thought.
    """
    found: dict[tuple[str, ...], tuple[str, str, dict[str, Any]]] = {}
    for _, where, row in open_rows(file):
        with located(f"{where}: "):
            names, sources = (
                [column for column in columns if column in row]
                for columns in (("task_name", "_task_name", "task"), ("task_source", "_task_source"))
            )
            if not {"inputs", "targets"} <= row.keys() or not names + sources:
                raise InputError(
                    "no row of tasks: these have inputs, targets, and the name of their task as task_name, task, or "
                    f"task_source, and here are {', '.join(row)}."
                )
            told = {column: row[column] for column in (*sources[:1], *names[:1])}
            for column, value in told.items():
                if not isinstance(value, str) or not value.strip():
                    raise InputError(f"the column {column!r} must name the row's task, not {value!r}.")
        values = tuple(told.values())
        task = {"metric": "rouge-l", "prompt": "{inputs}", "output": "targets", "where": told}
        found.setdefault(values, (values[0], values[-1], task))
    yield from found.values()


def _chains(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    r"""A question, its answer and a rationale a line, with `\n` for the end of a line in them, and no header.

    Where a question lists its options, the lines after "Options:" without their dashes, they are a column too, each
    once.
    """
    with open_text(path, newline="\n") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            cells = [cell.replace("\\n", "\n").strip() for cell in line.split("\t")]
            if len(cells) != 3:
                raise InputError(
                    f"{path}, line {number}: {len(cells)} cells; a line of chains of thought has a question, an answer "
                    "and a rationale, separated by tabs."
                )
            row: dict[str, Any] = dict(zip(("question", "answer", "rationale"), cells, strict=True))
            _, has_options, listed = cells[0].partition("Options:\n")
            if has_options:
                lines = [option.removeprefix("- ").strip() for option in listed.splitlines()]
                row["options"] = list(dict.fromkeys(line for line in lines if line))
            yield number, row


def _problems(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """GSM8K's problems: question, answer alone, and rationale, without its marks for a calculator (`<<3*4=12>>`)."""
    for number, where, row in open_rows(path):
        solution = row.get("answer")
        rationale, found, answer = solution.rpartition("####") if isinstance(solution, str) else ("", "", "")
        if "question" not in row or not found or not rationale.strip() or not answer.strip():
            raise InputError(
                f"{where}: no problem of GSM8K's: these have a question, and an answer that tells how it is found, "
                'then "####" and the number.'
            )
        yield number, {**row, "rationale": CALCULATOR.sub("", rationale).strip(), "answer": answer.strip()}


CALCULATOR = re.compile("<<[^<>]*>>")
"""What GSM8K's solutions have for a calculator, before each of its results."""

LAYOUTS = {"natural-instructions": ("instance", _instances), "cot": ("line", _chains), "gsm8k": ("row", _problems)}
"""How rows are read that are not one of the formats of `accord.data.readers`: what a row is called, and its reader."""
