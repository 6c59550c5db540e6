"""Published task collections, converted to the keys of a YAML task file (`accord.data.tasks`), and their rows.

    natural-instructions   Super-NaturalInstructions: one JSON object per task, or a folder of them (arXiv:2204.07705)
    cot                    the FLAN collection's chains of thought: question, answer and rationale, separated by tabs
    gsm8k                  GSM8K problems: a question, and an answer made of a rationale, "####" and a number
    (rows)                 FLAN-like rows with `inputs`, `targets`, and the names of their task and its source

The first three are layouts that a task may name (`layout: cot`). GSM8K needs it, as its rows do not name their task.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from accord.data.load import open_rows
from accord.data.readers import FORMATS, PLAIN, reader_of, where_json
from accord.data.sources import slice_rows
from accord.data.text_files import OPENERS, open_text
from accord.errors import InputError, located
from accord.parsing import parse_json

Clusters: TypeAlias = dict[str, dict[str, dict[str, Any]]]
"""The value of `clusters` in a task file: cluster name to task name to the task's keys."""

TEST_INSTANCES = 100
"""The first instances of a Super-NaturalInstructions task are its test rows; this many."""


def are_tasks(path: Path) -> bool:
    """Whether the path is a folder or a file of rows, rather than a YAML task file."""
    return path.is_dir() or (path.is_file() and _has_rows(path))


def clusters_in(path: Path) -> Clusters:
    """Read the tasks of a file, or of all files in a folder.

    Raises InputError if a file has no known layout, two tasks share a name, or there are no files.
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
        raise InputError(f"{path} holds no task files: give files of the formats {read} (text may be compressed).")
    return clusters


def rows_of(path: Path, layout: str | None, split: str) -> Iterator[tuple[int, str, Any]]:
    """Yield the rows of a task's data as (number from 1, location for messages, columns)."""
    if layout is None:
        yield from open_rows(path, split)
        return
    unit, read = LAYOUTS[layout]
    for number, row in slice_rows(read(path), split):
        yield number, f"{path}, {unit} {number}", row


def _has_rows(file: Path) -> bool:
    """Whether the file holds rows; plain text, such as a folder's README, does not."""
    return reader_of(file) not in (None, *PLAIN.values())


def _tasks(file: Path) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield the file's tasks as (cluster, name, keys), without the key `data`."""
    name = (file.with_suffix("") if file.suffix.lower() in OPENERS else file).stem
    if ".tsv" in file.suffixes:
        columns = {"prompt": "{question}", "output": "answer", "rationale": "rationale"}
        yield name, name, {"layout": "cot", "metric": "exact", **columns}
    elif ".json" in file.suffixes and isinstance(contents := _json(file), Mapping):
        task = _checked_instructions(file, contents)
        yield task["Categories"][0], name, _natural_instructions(task)
    else:
        yield from _flan(file)


def _natural_instructions(task: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a Super-NaturalInstructions task: tested on its first instances, trained on the others.

    A task without others is tested and trained on all of them. The metric is ROUGE-L, as in the paper.
    """
    prompts = [f"{{Definition.{i}}}\n\n{{input}}" for i in range(len(task["Definition"]))]
    keys = {"layout": "natural-instructions", "metric": "rouge-l", "prompt": prompts, "output": "output"}
    if len(task["Instances"]) > TEST_INSTANCES:
        keys |= {"split": f"train[:{TEST_INSTANCES}]", "train_split": f"train[{TEST_INSTANCES}:]"}
    return keys


def _checked_instructions(file: Path, contents: Mapping[str, Any]) -> Mapping[str, Any]:
    """Check a Super-NaturalInstructions object and make its Definition a list. Raises InputError if it is none."""
    for key in ("Definition", "Categories", "Instances"):
        if key not in contents:
            raise InputError(
                f"{file} has no {key!r}: a JSON object must be a task of Super-NaturalInstructions, with Definition, "
                "Categories and Instances."
            )
    definition = contents["Definition"]
    task = {**contents, "Definition": [definition] if isinstance(definition, str) else definition}
    for key in ("Definition", "Categories"):
        if not _is_list(task[key], str) or not all(text.strip() for text in task[key]):
            raise InputError(f"{file}: {key!r} must be a text, or a list of texts, not {contents[key]!r}.")
    if not _is_list(task["Instances"], Mapping):
        raise InputError(f"{file}: 'Instances' must be a list of objects with an input and an output.")
    return task


def _is_list(value: Any, of: type) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, of) for one in value)


def _instances(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield a task's instances, each with the task's shared keys (`Definition.0`, `Positive Examples.0.input`)."""
    contents = _json(path)
    if not isinstance(contents, Mapping):
        raise InputError(f"{path} must hold a JSON object, a task of Super-NaturalInstructions.")
    task = _checked_instructions(path, contents)
    shared = {key: value for key, value in task.items() if key != "Instances"}
    yield from enumerate(({**shared, **instance} for instance in task["Instances"]), start=1)


def _json(path: Path) -> Any:
    """The file's JSON value, or None for a file with one object per line."""
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
    """Yield the tasks that FLAN-like rows name, in order of appearance; a row's source is the task's cluster.

    The metric is ROUGE-L, since targets are words, sentences and chains of thought alike.
    """
    groups: dict[tuple[str, ...], tuple[str, str, dict[str, Any]]] = {}
    for _, where, row in open_rows(file):
        with located(f"{where}: "):
            names, sources = (
                [column for column in columns if column in row]
                for columns in (("task_name", "_task_name", "task"), ("task_source", "_task_source"))
            )
            if not {"inputs", "targets"} <= row.keys() or not names + sources:
                raise InputError(
                    "a row of a task needs inputs, targets, and the name of its task as task_name, task, or "
                    f"task_source; the row has {', '.join(row)}."
                )
            labels = {column: row[column] for column in (*sources[:1], *names[:1])}
            for column, value in labels.items():
                if not isinstance(value, str) or not value.strip():
                    raise InputError(f"the column {column!r} must name the row's task, not {value!r}.")
        values = tuple(labels.values())
        task = {"metric": "rouge-l", "prompt": "{inputs}", "output": "targets", "where": labels}
        groups.setdefault(values, (values[0], values[-1], task))
    yield from groups.values()


def _chains(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    r"""Yield FLAN's chains of thought: question, answer and rationale per line, line breaks as `\n`, no header.

    Options listed in a question, in the lines after "Options:", also become a column, without dashes or duplicates.
    """
    with open_text(path, newline="\n") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            cells = [cell.replace("\\n", "\n").strip() for cell in line.split("\t")]
            if len(cells) != 3:
                raise InputError(
                    f"{path}, line {number}: the line has {len(cells)} cells; it needs a question, an answer and a "
                    "rationale, separated by tabs."
                )
            row: dict[str, Any] = dict(zip(("question", "answer", "rationale"), cells, strict=True))
            _, has_options, listed = cells[0].partition("Options:\n")
            if has_options:
                lines = [option.removeprefix("- ").strip() for option in listed.splitlines()]
                row["options"] = list(dict.fromkeys(line for line in lines if line))
            yield number, row


def _problems(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield GSM8K's problems with answer and rationale split, without calculator annotations (`<<3*4=12>>`)."""
    for number, where, row in open_rows(path):
        solution = row.get("answer")
        rationale, mark, answer = solution.rpartition("####") if isinstance(solution, str) else ("", "", "")
        if "question" not in row or not mark or not rationale.strip() or not answer.strip():
            raise InputError(
                f"{where}: a GSM8K problem needs a question, and an answer made of the solution's steps, "
                '"####" and the number.'
            )
        yield number, {**row, "rationale": CALCULATOR.sub("", rationale).strip(), "answer": answer.strip()}


CALCULATOR = re.compile("<<[^<>]*>>")
"""GSM8K's calculator annotations."""

LAYOUTS = {"natural-instructions": ("instance", _instances), "cot": ("line", _chains), "gsm8k": ("row", _problems)}
"""Layouts by name, as (unit that row numbers count, reader)."""
