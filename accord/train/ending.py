"""What is written at a run's end beside its model, and what is taken away."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from accord import report
from accord.engine.config import TrainingConfig
from accord.files import changed, sync, write_sums
from accord.train.rows import read_metrics
from accord.train.run import SEALED, Run

LAST_GOOD = "last-good"
"""The folder of the model that a run leaves which stopped itself."""


def seal(run: Run) -> None:
    """Have the finished run's rows and their digests on the disk, or, where they were before, say what has changed."""
    if not run.finished:
        write_sums(run.folder, *SEALED)
        sync(run.folder)  # before there is a model, which says that the run is finished
    elif file := changed(run.folder):
        run.print(f"{run.folder / file} is not as it was when the run ended: its numbers may be others.")


def conclude(run: Run, method: TrainingConfig) -> tuple[list[dict[str, float]], Path]:
    """Take away what has served, and write the card and the report; the rows of numbers, and where the report is."""
    for served in ("checkpoints", LAST_GOOD):
        shutil.rmtree(run.folder / served, ignore_errors=True)
    report.write_card(run.folder, method=sys.modules[type(method).__module__].__doc__ or "")
    return read_metrics(run.folder), report.refresh_report(run.folder)
