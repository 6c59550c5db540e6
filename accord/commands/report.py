"""`accord report`: the page of a run or of a pipeline."""

from __future__ import annotations

from pathlib import Path

from accord.report import write_report


def report(folder: str) -> Path:
    """Write report.html into the folder of a run or of a pipeline.

    Args:
        folder: where the run or the pipeline is.
    """
    page = write_report(folder)
    print(page)
    return page
