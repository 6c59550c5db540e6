"""The tracking services, each behind its own client: TensorBoard, Weights & Biases, trackio and MLflow.

Each gets the settings, every row as it is logged, the alarms, and how the run ended. Its own environment variables
(docs/tracking.md) say where it writes and with which key. A client is imported when its service begins.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, TypeAlias

PROJECT = "accord"
"""The project, or experiment, where the environment names none."""
Ended: TypeAlias = Literal["finished", "failed", "interrupted"]
Known: TypeAlias = dict[str, str]
"""A service's own identifiers of a run, by name."""


@dataclass(frozen=True)
class TrackedRun:
    """A run that begins or resumes after `step`; `known` has the service's identifiers, if it has the run already."""

    folder: Path
    name: str
    settings: Mapping[str, Any]
    step: int
    known: Known


class Tracker(Protocol):
    """One tracking service. All methods may raise whatever its client raises."""

    install: ClassVar[str]
    """What to install where the client is missing."""

    def begin(self, run: TrackedRun) -> Known:
        """Open the run in the service; returns its identifiers there."""

    def last(self) -> int | None:
        """The last step that the service has of a resumed run, if known."""

    def log(self, step: int, row: Mapping[str, float]) -> None:
        """Log the numbers of a step (counted from 1)."""

    def alarm(self, step: int, name: str, text: str) -> None:
        """Log an alarm and what it saw."""

    def close(self, ended: Ended) -> None:
        """Mark how the run ended; no call follows."""


class TensorBoard:
    """Event files in the run's folder."""

    install: ClassVar[str] = "tensorboard: pip install tensorboard"

    def begin(self, run: TrackedRun) -> Known:
        from torch.utils.tensorboard import SummaryWriter

        folder = run.folder / "tensorboard"
        made = [file.name.split(".")[3] for file in folder.glob("events.out.tfevents.*")]
        seconds = [int(second) for second in made if second.isdecimal()]
        # TensorBoard reads event files in the order of their names, which begin with the second they were made in: of
        # two made in one second, the later might be read first, and then drops none of the earlier one's steps.
        time.sleep(max(0.0, min(1.0, max(seconds, default=0) + 1 - time.time())))
        self.writer: Any = SummaryWriter(str(folder), purge_step=run.step + 1)
        if not run.known:
            lines = (f"    {name}: {value}" for name, value in run.settings.items())
            self.writer.add_text("settings", "\n".join(lines), run.step)
        self.step = run.step
        return {"folder": "tensorboard"}

    def last(self) -> int | None:
        return self.step

    def log(self, step: int, row: Mapping[str, float]) -> None:
        for name, value in row.items():
            self.writer.add_scalar(name, value, step)

    def alarm(self, step: int, name: str, text: str) -> None:
        self.writer.add_text(f"alarms/{name}", text, step)

    def close(self, ended: Ended) -> None:
        self.writer.close()


class WeightsAndBiases:
    """Weights & Biases, online or offline."""

    install: ClassVar[str] = "the wandb extra: pip install wandb"

    def begin(self, run: TrackedRun) -> Known:
        import wandb

        project = run.known.get("project") or os.environ.get("WANDB_PROJECT") or PROJECT
        self.run: Any = wandb.init(
            project=project,
            name=run.name,
            id=run.known.get("id"),
            resume="allow" if run.known else None,
            config=dict(run.settings),
            reinit="create_new",  # leaves the user's own run alone
        )
        return {"id": self.run.id, "project": project}

    def last(self) -> int | None:
        return self.run.starting_step - 1 if self.run.starting_step else None  # offline it is 0

    def log(self, step: int, row: Mapping[str, float]) -> None:
        self.run.log(dict(row), step=step)

    def alarm(self, step: int, name: str, text: str) -> None:
        self.run.alert(title=name, text=f"step {step}: {text}", level="WARN")

    def close(self, ended: Ended) -> None:
        self.run.summary["ended"] = ended
        self.run.finish(exit_code=0 if ended == "finished" else 1)


class Trackio:
    """trackio, in a local database, on a server or in a Space of the Hub."""

    install: ClassVar[str] = "the trackio extra: pip install trackio"

    def begin(self, run: TrackedRun) -> Known:
        import trackio

        name = run.known.get("name") or run.name
        resume = "allow" if run.known else "never"
        self.run: Any = trackio.init(project=PROJECT, name=name, config=dict(run.settings), resume=resume)
        self.run.id = run.known.get("id") or self.run.id  # the name alone would resume the latest run so called
        return {"id": self.run.id, "name": name}

    def last(self) -> int | None:
        from trackio.sqlite_storage import SQLiteStorage

        return SQLiteStorage.get_max_step_for_run(PROJECT, self.run.name, run_id=self.run.id)

    def log(self, step: int, row: Mapping[str, float]) -> None:
        self.run.log(dict(row), step=step)

    def alarm(self, step: int, name: str, text: str) -> None:
        self.run.alert(title=name, text=text, step=step)

    def close(self, ended: Ended) -> None:
        import trackio

        if ended != "finished":
            self.run.alert(title=f"the run {ended}", level=trackio.AlertLevel.ERROR)
        trackio.finish()


class MLflow:
    """MLflow, in a database, in files or on a server."""

    install: ClassVar[str] = "the mlflow extra: pip install mlflow-skinny sqlalchemy alembic"

    def begin(self, run: TrackedRun) -> Known:
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # seven, the default, stall training for minutes
        from mlflow import MlflowClient
        from mlflow.entities import Param

        self.client: Any = MlflowClient()
        self.id = run.known.get("run_id") or ""
        if self.id:
            self.client.update_run(self.id, status="RUNNING")
        else:
            self.id = self.client.create_run(self._experiment(), run_name=run.name).info.run_id
            params = [Param(name, str(value)[:6000]) for name, value in run.settings.items()]
            self.client.log_batch(self.id, params=params)
        return {"run_id": self.id}

    def _experiment(self) -> str:
        if number := os.environ.get("MLFLOW_EXPERIMENT_ID"):
            return number
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or PROJECT
        experiment = self.client.get_experiment_by_name(name)
        return str(experiment.experiment_id if experiment else self.client.create_experiment(name))

    def last(self) -> int | None:
        return max((metric.step for metric in self.client.get_metric_history(self.id, "seconds")), default=None)

    def log(self, step: int, row: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        metrics = [Metric(re.sub(r"[^\w .:-]", "_", name), float(v), now, step) for name, v in row.items()]
        self.client.log_batch(self.id, metrics=metrics)

    def alarm(self, step: int, name: str, text: str) -> None:
        self.client.set_tag(self.id, f"alarm.{name}", f"step {step}: {text}")

    def close(self, ended: Ended) -> None:
        status = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}[ended]
        self.client.set_terminated(self.id, status)
