"""`accord annotate`: the people, their progress and their answers; `accord.cli.annotate_serve` serves the pages."""

from __future__ import annotations

import importlib.util
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

from accord.console import show, status
from accord.errors import InputError, require_address
from accord.outputs import require_file

if TYPE_CHECKING:
    from accord.annotate.project import Project


def people(
    database: str, *, add: str | list[str] | None = None, renew: str | None = None, revoke: str | None = None,
    withdraw: str | None = None, url: str = "http://127.0.0.1:8080",
) -> None:  # fmt: skip
    """Create, renew and revoke people's links, or list the people.

    Args:
        database: the project's SQLite file, or its postgresql:// URL.
        add: pseudonyms of people to create links for; exported rows carry them.
        renew: give this person a new link; the old one stops working.
        revoke: end this person's link; their answers stay.
        withdraw: end this person's link and erase their answers for good; other people get those items instead.
        url: the address of the pages, with which links begin.

    Raises:
        InputError: there is no such project or person, or a name is taken.
    """
    require_address(url, f"--url {url}")
    project = opened(database, is_new=False)
    from accord.annotate.simulated import is_simulated

    for name in [add] if isinstance(add, str) else add or ():
        if is_simulated(name):
            raise InputError(f"{name} is a name reserved for simulated people: choose another.")
    links = project.add_people([add] if isinstance(add, str) else add) if add else {}
    if renew is not None:
        links[renew] = project.renew(renew)
    if revoke is not None:
        project.revoke(revoke)
    if withdraw is not None:
        status(f"annotate: erased {project.withdraw(withdraw)} answers of {withdraw}")
    for name, token in links.items():
        print(f"{name}: {url.rstrip('/')}/join/{quote(token)}")
    if not links:
        for name, state, count in project.people():
            print(f"{name}: {count} answers{state}")


def show_status(database: str, *, hourly_cost: float | None = None) -> None:
    """Show each task's progress, people's agreement, speed and order bias, and the items they disagree on most.

    If `accord annotate curve` has been run, also what more labels would gain.

    Args:
        database: the project's SQLite file, or its postgresql:// URL.
        hourly_cost: cost of an hour of people's time, to report what the answers cost.

    Raises:
        InputError: there is no such project.
    """
    require_cost(hourly_cost)
    project = opened(database, is_new=False)
    from accord.annotate.statistics import status as status_of

    tasks = status_of(project, hourly_cost)
    if not tasks:
        status("annotate: there are no items yet")
    curves = project.curves()
    for task in tasks:
        show(*task.tables())
        if task.task in curves:
            show(*curves[task.task].tables(), curves[task.task].sentence())


def require_cost(hourly_cost: float | None) -> None:
    """Raise InputError where the cost of an hour is negative or not finite."""
    if hourly_cost is not None and not 0 <= hourly_cost < inf:
        raise InputError(f"--hourly-cost must be 0 or more, not {hourly_cost:g}.")


def export(
    database: str, out: str, *, task: str | None = None, gold: bool = False,
    format: Literal["accord", "argilla", "label-studio"] = "accord",
) -> Path:  # fmt: skip
    """Write the answers so far as rows that accord reads; people may keep answering meanwhile.

    Args:
        database: the project's SQLite file, or its postgresql:// URL.
        out: the file to write: JSONL, or .json for argilla and label-studio.
        task: the task whose answers are written, where the project has several.
        gold: write the answers to gold questions too.
        format: rows for accord, records for Argilla 2, or tasks for Label Studio; accord reads all three.

    Raises:
        InputError: there is no such project, no answer yet, or the format does not fit the task or the file's name.
    """
    require_file(out, database)
    write_answers(opened(database, is_new=False), out, task, gold=gold, format=format)
    return Path(out)


def write_answers(
    project: Project, out: str, task: str | None, *, gold: bool = False,
    format: Literal["accord", "argilla", "label-studio"] = "accord",
) -> None:  # fmt: skip
    """Write the answers, and print how many rows there are and what was left out."""
    exported = project.export(out, task=task, gold=gold, form=format)
    status(f"annotate: {len(exported.rows):,} {'rows' if format == 'accord' else 'answers'} in {out}")
    for note in exported.notes:
        status(f"annotate: {note}")


def opened(database: str, *, is_new: bool = True, **settings: Any) -> Project:
    """The project in a database; InputError where the annotate extra is missing, or, unless `is_new`, the database."""
    require_extra()
    if not is_new and "://" not in database and not (Path(database).is_file() and Path(database).stat().st_size):
        what = f"{database} is an empty file" if Path(database).is_file() else f"there is no database {database}"
        raise InputError(f"{what}; `accord annotate serve` makes one.")
    from accord.annotate.project import Project

    return Project.open(database, **settings)


def require_extra() -> None:
    """Raise InputError where the annotate extra is missing."""
    missing = [name for name in ("fastapi", "uvicorn", "sqlmodel", "alembic", "markdown_it", "nh3") if not _has(name)]
    if missing:
        raise InputError(
            f"`accord annotate` needs the annotate extra, of which {', '.join(missing)} is not installed: "
            "pip install 'accord[annotate]'."
        )


def _has(module: str) -> bool:
    return importlib.util.find_spec(module) is not None
