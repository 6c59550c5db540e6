"""`accord demo`: the whole loop in a small world, from random weights to a report.

`accord report`: the page of a run or of a pipeline, or one that lays several beside each other.

`accord run`: the stages of a recipe.

`accord world`: the files of a small world with known truth.

`accord tasks`: demonstrations of some clusters of tasks, for a model that is then asked about the others.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Table

import accord
from accord.cli.pipeline import run_pipeline
from accord.data.examples import Mixed, mixture, overlapping
from accord.data.tasks import Task, clusters_named, read_tasks
from accord.errors import InputError
from accord.files import write_rows
from accord.records import row_to_json
from accord.report import write_comparison, write_report
from accord.report.compare import runs_in
from accord.report.folder import is_story
from accord.results.base import warn
from accord.worlds import cafe, sums


def demo(*, out: str = "runs/demo", seed: int = 0) -> Path:
    """From nothing to an aligned model: pretraining, fine-tuning, comparisons, reward model, PPO, DPO, evaluation.

    Everything happens in a small world whose true reward is known, so the table at the end says what was really gained.
    It runs the recipe recipes/cafe.yaml, takes a few minutes on two cores, and skips what it has done before.

    Args:
        out: the folder for everything, the report included.
        seed: decides everything that is drawn at random.
    """
    return run_pipeline(packaged("cafe"), out, {"seed": seed})


def packaged(name: str) -> Path:
    """A recipe that comes with accord: inside the installed package, or beside it in a checkout."""
    home = Path(accord.__file__).parent
    places = [folder / "recipes" / f"{name}.yaml" for folder in (home, home.parent)]
    return next(place for place in places if place.exists())


def report(folder: str | list[str], out: str | None = None) -> Path:
    """Write the page of a run or of a pipeline; of several, a page that lays them beside each other.

    Args:
        folder: where the run or the pipeline is; several, or a folder that holds several, are compared.
        out: the page's file, or the folder for it; else report.html goes to the run's own folder, and comparison.html
            to the one that holds the runs.

    Raises:
        InputError: a folder holds no run, several were given without out, or nothing can be written there.
    """
    folders = [folder] if isinstance(folder, str) else folder
    first = Path(folders[0])
    if len(folders) == 1 and not is_story(first):
        inside = runs_in(first)
        page = write_comparison(inside, out or first) if len(inside) > 1 else write_report(first, out)
    elif len(folders) == 1:
        page = write_report(first, out)
    elif out is None:
        raise InputError("comparing runs needs --out, the page's file, such as --out compare.html.")
    else:
        page = write_comparison(folders, out)
    print(page)
    return page


def run(recipe: str, *, out: str | None = None, overrides: dict[str, str] | None = None) -> Path:
    """Run the stages of a recipe in order, those whose inputs or settings have changed; then write the report.

    Every variable of the recipe and every option of a stage is an option here: --data pairs.jsonl sets the variable
    `data`, --sft.max-steps 10 the option of the stage `sft`.

    Args:
        recipe: the YAML file.
        out: the folder for the stages' results; by default runs/ and the recipe's name.
        overrides: values for variables and for stages' options, by name.
    """
    return run_pipeline(recipe, out or f"runs/{Path(recipe).stem}", overrides)


def world(out: str, *, name: Literal["cafe", "sums"] = "cafe", seed: int = 0, width: int | None = None) -> Path:
    """Write a small world: demonstrations, prompts to train on and to evaluate on, and an untrained model.

    Args:
        out: the folder to write.
        name: which world: cafe (questions about dishes, with a gold reward) or sums (addition on a scratchpad).
        seed: decides everything that is drawn at random.
        width: of the café's untrained model, a multiple of 12; 192 (1.1 M parameters) unless given.

    Raises:
        InputError: no model has that width.
    """
    if name == "cafe":
        cafe.write(Path(out), seed, cafe.WIDTH if width is None else width)
    elif width is not None:
        raise InputError(f"--width is for the world cafe; the model of {name} has one size.")
    else:
        sums.write(Path(out), seed)
    return Path(out)


def tasks(
    tasks: str,
    out: str,
    *,
    leave_out: str | None = None,
    data: str | None = None,
    per_task: int = 3000,
    mixing_temperature: float = 1.0,
    rows: int | None = None,
    form: Literal["chat", "plain"] = "chat",
    seed: int = 0,
) -> Path:
    """Write demonstrations of the tasks of all clusters but those left out, to fine-tune on with `accord sft`.

    Tasks are mixed in proportion to their rows, each counting --per-task at most; a row is put in one of its task's
    instructions, drawn at random.

    Args:
        tasks: a YAML file of tasks in clusters.
        out: the JSONL file to write.
        leave_out: the cluster, or several with commas, to hold out for evaluation.
        data: the folder of the tasks' data files, where they are not beside the tasks file.
        per_task: rows beyond which a task gets no larger share.
        mixing_temperature: 1 mixes in proportion, higher ones bring all tasks' shares nearer to equal.
        rows: rows to write; all there are, up to --per-task of each task, unless given.
        form: chat writes chats of two turns, plain texts for models without a chat template.
        seed: decides which rows, which instructions and their order.

    Raises:
        InputError: the tasks, their rows or an option cannot be used, or nothing is left to train on.
    """
    for option, count in (("per-task", per_task), ("rows", rows)):
        if count is not None and count < 1:
            raise InputError(f"--{option} must be at least 1, not {count}.")
    if mixing_temperature <= 0:
        raise InputError(f"--mixing-temperature must be positive, not {mixing_temperature:g}.")
    given = read_tasks(tasks, data)
    left = clusters_named(leave_out, given)
    mixed, told = mixture(
        given, left, per_task=per_task, temperature=mixing_temperature, total=rows, form=form, seed=seed
    )
    shared = {t.label: overlapping(t) for t in given if t.cluster not in left}
    warn(
        [*told]
        + [f"{label}: {n} rows are evaluated on too; set split and train_split" for label, n in shared.items() if n]
    )
    Console().print(as_table(given, mixed))
    write_rows(out, ({**row_to_json(m.demonstration), "cluster": m.task.cluster, "task": m.task.name} for m in mixed))
    return Path(out)


def as_table(given: list[Task], mixed: list[Mixed]) -> Table:
    """How many rows each task has in the mix."""
    counts = Counter(row.task.label for row in mixed)
    grid = Table("cluster", "task", "rows", "share")
    for task in given:
        n = counts[task.label]
        grid.add_row(task.cluster, task.name, str(n), f"{n / len(mixed):.1%}")
    return grid
