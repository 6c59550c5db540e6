"""A file of tasks: clusters of them, each with its data, its instructions, and how answers are scored.

    clusters:
      inference:
        rte:
          data: rte.jsonl                     # beside this file
          metric: options                     # exact | number | options | rouge-1 | rouge-2 | rouge-l
          prompt: ["{premise} Does it follow that {hypothesis}", "..."]
          output: label                       # the column that holds the right answer
          options: ["yes", "no"]              # or the column that holds a row's options
          split: train[-200:]                 # the rows evaluated, and ...
          train_split: train[:-200]           # ... those trained on (`train_data`: their file, where it is another)

A column may be a path into a row: `instances[0].input`. A task may also choose its rows by what they hold
(`where: {language: en}`), and limit their number and the length of answers (`limit`, `max_new_tokens`).

`formats:` beside `clusters:` has what prompts are put together with (`accord.data.formats`), where it is not the usual.
"""

from __future__ import annotations

import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from accord.data.task_files import LAYOUTS, are_tasks, clusters_in
from accord.data.templates import USUAL, Wording, checked_templates, read_wording
from accord.errors import InputError, located, nearest
from accord.parsing import read_yaml

METRICS = ("exact", "number", "options", "rouge-1", "rouge-2", "rouge-l")
"""How the answers of a task are scored; `options` chooses among given answers, the others read what is written."""

TOP = ("clusters", "formats")
NEEDED = ("data", "metric", "prompt", "output")
TAKEN = (
    *NEEDED,
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

OWN = {"probes": Path(__file__).parent / "probes" / "tasks.yaml"}
"""The project's own files of tasks; their names stand for them."""


@dataclass(frozen=True, slots=True)
class Task:
    """One task of a cluster: where its rows are, how they are asked, and how answers are scored.

    `prompts` are its instruction templates; `options` are the answers to choose from, or the column that lists them;
    `rationale` is the column that tells how a row's answer is found, `prefix` the template of T5's kind, `chance` what
    guessing scores, where it is not one in the options; `layout` is how its rows are read, where the name of their file
    does not tell (`accord.data.task_files`), and `train_data` the file of the rows to train on, where it is another.
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
    wording: Wording = USUAL

    @property
    def label(self) -> str:
        """What messages call it."""
        return f"{self.cluster}/{self.name}"

    @property
    def training_file(self) -> Path:
        """Where the rows to train on are."""
        return self.train_data or self.data


def read_tasks(
    path: str | os.PathLike[str], folder: str | os.PathLike[str] | None = None, templates: int | None = None
) -> list[Task]:
    """The tasks in a YAML file, cluster after cluster; `folder` holds their data files, if they are not beside it.

    `path` may also be the name of one of the project's own files (`OWN`), or a file or folder whose rows tell their
    tasks (`accord.data.task_files`). Of each task's instruction templates the first `templates` are taken, all unless
    given.

    Raises InputError where the file cannot be read, is no file of tasks, or a task has an unknown, missing or unfit
    key, or data that are not there.
    """
    if templates is not None and templates < 1:
        raise InputError(f"--templates must be at least 1, not {templates}.")
    name, path = os.fspath(path), OWN.get(os.fspath(path), Path(path))
    if folder is not None and (name in OWN or are_tasks(path)):
        raise InputError(f"{name} holds the rows of its tasks itself: leave --data out.")
    beside = path if path.is_dir() else path.parent
    clusters, wording = (clusters_in(path), USUAL) if are_tasks(path) else _contents(path)
    tasks = []
    for cluster, members in clusters.items():
        if not isinstance(members, Mapping) or not members:
            raise InputError(f"{path}: the cluster {cluster} must hold tasks by name.")
        for name, given in members.items():
            with located(f"{path}, task {cluster}/{name}: "):
                task = _task(str(cluster), str(name), given, Path(folder or beside))
            tasks.append(replace(task, prompts=task.prompts[:templates], wording=wording))
    return tasks


def clusters_named(names: str | None, tasks: Sequence[Task]) -> list[str]:
    """The clusters in a list with commas; InputError where one is not among the tasks'."""
    known = list(dict.fromkeys(task.cluster for task in tasks))
    wanted = [name.strip() for name in (names or "").split(",") if name.strip()]
    for name in wanted:
        if name not in known:
            hint = nearest(name, known)
            raise InputError(f"there is no cluster {name!r}{hint}; the clusters are {', '.join(known)}.")
    return wanted


def clusters_beyond(most: int | None, left_out: Sequence[str], tasks: Sequence[Task], seed: int) -> list[str]:
    """The clusters that are not left out, beyond the first `most` in an order drawn by the seed.

    With one seed a larger `most` trains on all that a smaller one does, and more; None leaves none out. Raises
    InputError where there are not so many.
    """
    names = [name for name in dict.fromkeys(task.cluster for task in tasks) if name not in left_out]
    if most is None:
        return []
    if not 1 <= most <= len(names):
        raise InputError(f"there are {len(names)} clusters to train on, and so 1 to {len(names)} of them, not {most}.")
    random.Random(f"clusters {seed}").shuffle(names)
    return names[most:]


def _contents(path: Path) -> tuple[Mapping[str, Any], Wording]:
    """The clusters in a file, and the wording of its prompts."""
    given = read_yaml(path, "the tasks file")
    if not isinstance(given, Mapping) or not isinstance(given.get("clusters"), Mapping) or set(given) - {*TOP}:
        raise InputError(
            f"{path} must hold `clusters`, each a name with its tasks, perhaps `formats`, and nothing else."
        )
    if not given["clusters"]:
        raise InputError(f"{path} has no clusters.")
    with located(f"{path}, formats: "):
        return given["clusters"], read_wording(given.get("formats", {}))


def _task(cluster: str, name: str, given: Any, folder: Path) -> Task:
    if not isinstance(given, Mapping):
        raise InputError(f"a task is a mapping with {', '.join(sorted(NEEDED))}.")
    for key in given:
        if key not in TAKEN:
            raise InputError(f"unknown key {key!r}{nearest(str(key), TAKEN)}; a task takes {', '.join(TAKEN)}.")
    for key in NEEDED:
        if given.get(key) is None:
            raise InputError(f"the key {key!r} is missing.")
    for key in ("data", "metric", "output", "rationale", "prefix", "split", "train_data", "train_split"):
        if not isinstance(given.get(key, ""), str):
            raise InputError(f"{key!r} must be text, not {given[key]!r}.")
    metric, where = given["metric"], given.get("where", {})
    if metric not in METRICS:
        hint = nearest(metric, METRICS)
        raise InputError(f"there is no metric {metric!r}{hint}; the metrics are {', '.join(METRICS)}.")
    if (metric == "options") != ("options" in given):
        raise InputError("'options' are given where the metric is options, and only there.")
    files = {key: folder / given[key] for key in ("data", "train_data") if key in given}
    for file in files.values():
        if not file.is_file():
            raise InputError(f"there is no file {file}.")
    if (layout := given.get("layout")) is not None and layout not in LAYOUTS:
        raise InputError(f"there is no layout {layout!r}; the layouts are {', '.join(LAYOUTS)}.")
    if not isinstance(where, Mapping):
        raise InputError("'where' must be a mapping from columns to the values that rows must have there.")
    for key in ("limit", "max_new_tokens"):
        value = given.get(key)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise InputError(f"{key!r} must be a whole number from 1 up, not {value!r}.")
    chance = given.get("chance")
    if chance is not None and (isinstance(chance, bool) or not isinstance(chance, int | float) or not 0 <= chance < 1):
        raise InputError(f"'chance' is the share that guessing gets right, from 0 to below 1, not {chance!r}.")
    read = {**files, "prompts": checked_templates(given["prompt"], "prompt", may_be_empty=metric == "options")}
    if "prefix" in given:
        read["prefix"], *_ = checked_templates(given["prefix"], "prefix")
    if metric == "options":
        read["options"] = _options(given["options"])
    return Task(cluster, name, **{key: value for key, value in given.items() if key != "prompt"} | read)


def _options(given: Any) -> tuple[str, ...] | str:
    """The options as text, or the column that holds them."""
    if isinstance(given, str):
        return given
    if not isinstance(given, list):
        raise InputError("'options' must be a list of answers, or the column that holds a row's list.")
    if any(isinstance(option, bool) for option in given):
        raise InputError("'options' holds true or false, as YAML reads yes and no too: put the options in quotes.")
    return checked_options(given)


def checked_options(given: Sequence[Any]) -> tuple[str, ...]:
    """Options as different texts, two or more; InputError where they are not."""
    options = [str(option).strip() for option in given if isinstance(option, str | int | float)]
    if len(options) != len(given) or not all(options):
        raise InputError("every option must be a text that is not empty, or a number.")
    if len(options) < 2 or len(set(options)) != len(options):
        raise InputError(f"options must be two or more different texts, not {', '.join(options) or 'none'}.")
    return tuple(options)
