"""`accord report`: the page of a run or of a pipeline, or one that lays several beside each other."""

from __future__ import annotations

from pathlib import Path

from accord.errors import InputError
from accord.report import write_comparison, write_report
from accord.report.compare import runs_in
from accord.report.folder import is_story


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
