"""Task files: clusters of tasks, each with its data, instruction templates and metric.

    clusters:
      inference:
        rte:
          data: rte.jsonl                     # beside this file
          metric: options                     # exact | number | options | rouge-1 | rouge-2 | rouge-l
          prompt: ["{premise} Does it follow that {hypothesis}", "..."]
          output: label                       # the column that holds the right answer
          options: ["yes", "no"]              # or the column that holds a row's options
          split: train[-200:]                 # the rows evaluated, and ...
          train_split: train[:-200]           # ... those trained on (in the file `train_data`, if given)

A column may be a path into a row: `instances[0].input`. A task may also filter its rows by value
(`where: {language: en}`), and limit their number and the length of answers (`limit`, `max_new_tokens`).

`formats:` beside `clusters:` overrides the wording of prompts (`accord.data.templates.Wording`).
"""

from __future__ import annotations

import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from accord.data.task_files import LAYOUTS, are_tasks, clusters_in
from accord.data.templates import DEFAULT_WORDING, Wording, checked_templates, read_wording
from accord.errors import InputError, located, nearest
from accord.parsing import read_yaml

METRICS = ("exact", "number", "options", "rouge-1", "rouge-2", "rouge-l")
"""The metrics of tasks; `options` chooses among given answers, the others score generated text."""

TOP_KEYS = ("clusters", "formats")
REQUIRED_KEYS = ("data", "metric", "prompt", "output")
KEYS = (
    *REQUIRED_KEYS,
    "layout",
    "options",
    "rationale",
    "prefix",
    "chance",
    "where",
    "split",
    "train_data",
    "train_split",
    "limit",
    "max_new_tokens",
)

BUILT_IN = {"probes": Path(__file__).parent / "probes" / "tasks.yaml"}
"""The task files that come with accord, by name."""


@dataclass(frozen=True, slots=True)
class Task:
    """One task of a cluster: its data, instruction templates and metric.

    `prompts` are its instruction templates; `output` is the column of the right answer; `options` are the answers to
    choose from, or the column that lists them; `rationale` is the column of the reasoning, `prefix` a T5-style template
    (task name and inputs), `chance` the accuracy of guessing if it is not 1 / options; `layout` names the reader of the
    rows if the file name does not decide it (`accord.data.task_files`), and `train_data` the file of training rows if
    it is not `data`.
    """

    cluster: str
    name: str
    data: Path
    metric: str
    prompts: tuple[str, ...]
    output: str
    layout: str | None = None
    options: tuple[str, ...] | str = ()
    rationale: str | None = None
    prefix: str = ""
    chance: float | None = None
    where: Mapping[str, Any] = field(default_factory=dict)
    split: str = "train"
    train_data: Path | None = None
    train_split: str = "train"
    limit: int | None = None
    max_new_tokens: int | None = None
    wording: Wording = DEFAULT_WORDING

    @property
    def label(self) -> str:
        """The task's name in messages."""
        return f"{self.cluster}/{self.name}"

    @property
    def training_file(self) -> Path:
        """The file of the training rows."""
        return self.train_data or self.data


def read_tasks(
    path: str | os.PathLike[str], folder: str | os.PathLike[str] | None = None, templates: int | None = None
) -> list[Task]:
    """Read the tasks of a YAML file, cluster by cluster; `folder` holds their data files if not the file's own folder.

    `path` may also be the name of a built-in file (`BUILT_IN`), or a file or folder in one of the formats of
    `accord.data.task_files`. `templates` keeps the first templates of each task, all if None.

    Raises InputError if the file cannot be read or is no task file, or a task has an unknown, missing or invalid key,
    or its data file is missing.
    """
    if templates is not None and templates < 1:
        raise InputError(f"--templates must be at least 1, not {templates}.")
    name, path = os.fspath(path), BUILT_IN.get(os.fspath(path), Path(path))
    if folder is not None and (name in BUILT_IN or are_tasks(path)):
        raise InputError(f"{name} brings the rows of its tasks: leave --data out.")
    base = path if path.is_dir() else path.parent
    clusters, wording = (clusters_in(path), DEFAULT_WORDING) if are_tasks(path) else _contents(path)
    tasks = []
    for cluster, members in clusters.items():
        if not isinstance(members, Mapping) or not members:
            raise InputError(f"{path}: the cluster {cluster} must hold tasks by name.")
        for name, entry in members.items():
            with located(f"{path}, task {cluster}/{name}: "):
                task = _task(str(cluster), str(name), entry, Path(folder or base))
            tasks.append(replace(task, prompts=task.prompts[:templates], wording=wording))
    return tasks


def clusters_named(names: str | None, tasks: Sequence[Task]) -> list[str]:
    """Parse a comma-separated list of clusters. Raises InputError for a cluster that no task has."""
    known = list(dict.fromkeys(task.cluster for task in tasks))
    wanted = [name.strip() for name in (names or "").split(",") if name.strip()]
    for name in wanted:
        if name not in known:
            hint = nearest(name, known)
            raise InputError(f"there is no cluster {name!r}{hint}; the clusters are {', '.join(known)}.")
    return wanted


def clusters_beyond(most: int | None, left_out: Sequence[str], tasks: Sequence[Task], seed: int) -> list[str]:
    """The clusters to leave out, besides `left_out`, so that `most` remain for training; none if `most` is None.

    The seed fixes the order, so a larger `most` trains on a superset of the clusters of a smaller one. Raises
    InputError if there are fewer than `most` clusters.
    """
    names = [name for name in dict.fromkeys(task.cluster for task in tasks) if name not in left_out]
    if most is None:
        return []
    if not 1 <= most <= len(names):
        raise InputError(f"the number of training clusters must be 1 to {len(names)}, not {most}.")
    random.Random(f"clusters {seed}").shuffle(names)
    return names[most:]


def _contents(path: Path) -> tuple[Mapping[str, Any], Wording]:
    """The clusters of a YAML file and the wording of its prompts."""
    contents = read_yaml(path, "the tasks file")
    if (
        not isinstance(contents, Mapping)
        or not isinstance(contents.get("clusters"), Mapping)
        or set(contents) - {*TOP_KEYS}
    ):
        raise InputError(
            f"{path} must hold `clusters`, each a name with its tasks, perhaps `formats`, and nothing else."
        )
    if not contents["clusters"]:
        raise InputError(f"{path} has no clusters.")
    with located(f"{path}, formats: "):
        return contents["clusters"], read_wording(contents.get("formats", {}))


def _task(cluster: str, name: str, entry: Any, folder: Path) -> Task:
    """Read one task's keys. Raises InputError if a key is unknown, missing or invalid, or a data file is missing."""
    if not isinstance(entry, Mapping):
        raise InputError(f"a task is a mapping with {', '.join(sorted(REQUIRED_KEYS))}.")
    for key in entry:
        if key not in KEYS:
            raise InputError(f"unknown key {key!r}{nearest(str(key), KEYS)}; a task takes {', '.join(KEYS)}.")
    for key in REQUIRED_KEYS:
        if entry.get(key) is None:
            raise InputError(f"the key {key!r} is missing.")
    for key in ("data", "metric", "output", "rationale", "prefix", "split", "train_data", "train_split"):
        if not isinstance(entry.get(key, ""), str):
            raise InputError(f"{key!r} must be text, not {entry[key]!r}.")
    _check_choices(entry)
    files = {key: folder / entry[key] for key in ("data", "train_data") if key in entry}
    for file in files.values():
        if not file.is_file():
            raise InputError(f"there is no file {file}.")
    _check_values(entry)
    may_be_empty = entry["metric"] == "options"
    read = {**files, "prompts": checked_templates(entry["prompt"], "prompt", may_be_empty=may_be_empty)}
    if "prefix" in entry:
        read["prefix"], *_ = checked_templates(entry["prefix"], "prefix")
    if "options" in entry:
        read["options"] = _options(entry["options"])
    return Task(cluster, name, **{key: value for key, value in entry.items() if key != "prompt"} | read)


def _check_choices(entry: Mapping[str, Any]) -> None:
    """Raise InputError unless the metric and the layout are known, and `options` are given for the metric options."""
    metric, layout = entry["metric"], entry.get("layout")
    if metric not in METRICS:
        hint = nearest(metric, METRICS)
        raise InputError(f"there is no metric {metric!r}{hint}; the metrics are {', '.join(METRICS)}.")
    if (metric == "options") != ("options" in entry):
        raise InputError("the key 'options' and the metric 'options' go together: give both or neither.")
    if layout is not None and layout not in LAYOUTS:
        raise InputError(f"there is no layout {layout!r}; the layouts are {', '.join(LAYOUTS)}.")


def _check_values(entry: Mapping[str, Any]) -> None:
    """Raise InputError unless `where` is a mapping, limits are positive integers, and `chance` is in [0, 1)."""
    if not isinstance(entry.get("where", {}), Mapping):
        raise InputError("'where' must be a mapping from columns to the values that rows must have there.")
    for key in ("limit", "max_new_tokens"):
        value = entry.get(key)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise InputError(f"{key!r} must be a whole number from 1 up, not {value!r}.")
    chance = entry.get("chance")
    if chance is not None and (isinstance(chance, bool) or not isinstance(chance, int | float) or not 0 <= chance < 1):
        raise InputError(f"'chance' must be the accuracy of guessing, from 0 to below 1, not {chance!r}.")


def _options(value: Any) -> tuple[str, ...] | str:
    """The options as texts, or the name of the column that holds them."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise InputError("'options' must be a list of answers, or the column that holds a row's list.")
    if any(isinstance(option, bool) for option in value):
        raise InputError("'options' holds true or false, which are no texts: put the options in quotes.")
    return checked_options(value)


def checked_options(values: Sequence[Any]) -> tuple[str, ...]:
    """The options as stripped texts. Raises InputError unless there are two or more, all distinct and not empty."""
    options = [str(option).strip() for option in values if isinstance(option, str | int | float)]
    if len(options) != len(values) or not all(options):
        raise InputError("every option must be a text that is not empty, or a number.")
    if len(options) < 2 or len(set(options)) != len(options):
        raise InputError(f"options must be two or more different texts, not {', '.join(options) or 'none'}.")
    return tuple(options)
