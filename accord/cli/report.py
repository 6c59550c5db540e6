"""`accord report`: the page of a run or a recipe, or one that compares several runs."""

from __future__ import annotations

from pathlib import Path

from accord.errors import InputError


def report(folder: str | list[str], out: str | None = None) -> Path:
    """Write the page of a run or a recipe; for several, a page that compares them side by side.

    Args:
        folder: the folder of a run or a recipe; several folders, or one that holds several runs, are compared.
        out: the HTML file to write, or the folder for it (default: report.html in the run's folder, or comparison.html
            in the folder that holds the runs).

    Raises:
        InputError: a folder holds no run, several were given without --out, or the page cannot be written.
    """
    from accord.report import write_comparison, write_report
    from accord.report.compare import runs_in
    from accord.report.folder import is_story

    folders = [folder] if isinstance(folder, str) else folder
    first = Path(folders[0])
    if len(folders) > 1 and out is None:
        raise InputError("comparing runs needs --out, the page's file, such as --out compare.html.")
    if len(folders) == 1 and not is_story(first):
        folders = list(map(str, runs_in(first))) or folders
    page = write_comparison(folders, out or first) if len(folders) > 1 else write_report(first, out)
    print(page)
    return page
