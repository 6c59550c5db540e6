"""Where a run's numbers go besides its folder: TensorBoard, Weights & Biases, trackio and MLflow, each by its client.

A service is told the settings, every row as it is logged, the alarms, and how the run ended; never a password or key.
Where it writes, and with whose key, is said by its own environment variables (docs/tracking.md). The run's folder keeps
in tracking.json by what each knows the run, so that a run that goes on goes on there too; what a service has is not
sent again, but for rows to TensorBoard, which drops its own. One that fails while the run is under way is left alone,
and the run goes on.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, TypeAlias

from accord.console import said, without_secrets
from accord.errors import InputError, nearest
from accord.files import write_text

PROJECT = "accord"
"""The project, or experiment, of runs for which the environment names none."""
DEFAULT, NONE = "tensorboard", "none"
Ended: TypeAlias = Literal["finished", "failed", "interrupted"]
Known: TypeAlias = dict[str, str]
"""By what a service knows a run."""


@dataclass(frozen=True)
class TrackedRun:
    """A run that begins or goes on after `step`, as a service is told of it; `known` where it has the run already."""

    folder: Path
    name: str
    settings: Mapping[str, Any]
    step: int
    known: Known


class Tracker(Protocol):
    """One service at work. All may raise whatever its client raises."""

    install: ClassVar[str]
    """What it needs, in words for who has not got it."""

    def begin(self, run: TrackedRun) -> Known:
        """Open the run there; by what it is known."""

    def last(self) -> int | None:
        """The last step that it has of a run that goes on, where it can say."""

    def log(self, step: int, row: Mapping[str, float]) -> None:
        """The numbers of a step, counted from 1."""

    def alarm(self, step: int, name: str, text: str) -> None:
        """An alarm, and what it saw."""

    def close(self, ended: Ended) -> None:
        """The last that it is told."""


class TensorBoard:
    """Event files in the run's folder."""

    install: ClassVar[str] = "tensorboard: pip install tensorboard"

    def begin(self, run: TrackedRun) -> Known:
        from torch.utils.tensorboard import SummaryWriter

        self.writer: Any = SummaryWriter(str(run.folder / "tensorboard"), purge_step=run.step + 1)
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
            reinit="create_new",  # a run of the user's own stays as it is
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
    """trackio, in a database of this machine, on a server or in a Space of the Hub."""

    install: ClassVar[str] = "the trackio extra: pip install trackio"

    def begin(self, run: TrackedRun) -> Known:
        import trackio

        name = run.known.get("name") or run.name
        resume = "allow" if run.known else "never"
        self.run: Any = trackio.init(project=PROJECT, name=name, config=dict(run.settings), resume=resume)
        self.run.id = run.known.get("id") or self.run.id  # by name it would be the latest that is called so
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
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # seven take minutes, and training waits
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
        found = self.client.get_experiment_by_name(name)
        return str(found.experiment_id if found else self.client.create_experiment(name))

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


SERVICES: dict[str, type[Tracker]] = {
    "wandb": WeightsAndBiases, "trackio": Trackio, "mlflow": MLflow, "tensorboard": TensorBoard,
}  # fmt: skip
"""In the order in which they begin: the one that writes into the folder after those that may refuse."""


def services(track: str) -> list[str]:
    """The services named, with commas between them; TensorBoard, where nobody asked, is one if it is installed.

    Raises InputError where there is none of a name, or one is not installed.
    """
    names = [name for part in track.split(",") if (name := part.strip()) and name != NONE]
    for name in names:
        if name not in SERVICES:
            hint = nearest(name, SERVICES) or f"; there are {', '.join(SERVICES)}, and {NONE} for none of them."
            raise InputError(f"track: there is no service {name!r}{hint}")
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:  # a folder of that name, as wandb makes one, is no package
            if track == DEFAULT:
                return []
            raise InputError(f"track: {name} needs {SERVICES[name].install}")
    return [name for name in SERVICES if name in names]


class Tracking:
    """The services at work on one run; `say` prints a line for the person watching."""

    def __init__(self, names: Sequence[str], say: Callable[[str], None]) -> None:
        self.names, self.say = names, say
        self._open: dict[str, Tracker] = {}
        self._known: dict[str, Known] = {}
        self._sent: dict[str, int] = {}
        self._logged, self._failed = -1, set[str]()

    def begin(self, folder: Path, name: str, settings: Mapping[str, Any], step: int, logged: int) -> None:
        """Open the run in every service, after `step`, where an earlier session logged steps up to `logged`.

        Raises InputError where a service refuses.
        """
        settings = {key: without_secrets(v) if isinstance(v, str) else v for key, v in settings.items()}
        self._logged = logged
        self._known = _read_known(folder / "tracking.json")
        for service in self.names:
            known, tracker = self._known.get(service, {}), SERVICES[service]()
            try:
                with redirect_stdout(sys.stderr):
                    self._known[service] = tracker.begin(TrackedRun(folder, name, settings, step, known))
            except Exception as error:  # clients raise whatever they please
                raise InputError(
                    f"track: {service} cannot be used ({said(error)}); mend it, or leave it out."
                ) from error
            self._open[service] = tracker
            self._sent[service] = logged if known else -1
            with suppress(Exception), redirect_stdout(sys.stderr):
                if known and (last := tracker.last()) is not None:
                    self._sent[service] = last

    def keep(self, folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write by what the services know the run, and send what they do not have of the rows logged before."""
        if self._known:
            write_text(folder / "tracking.json", json.dumps(self._known, indent=1))
        for row in rows:
            self.log(int(row["step"]), row)

    def log(self, step: int, row: Mapping[str, Any]) -> None:
        """Send the numbers of a step, counted from 1."""
        numbers = {name: v for name, v in row.items() if isinstance(v, int | float) and name != "step"}
        names = [name for name, last in self._sent.items() if step > last and name not in self._failed]
        self._tell(lambda tracker: tracker.log(step, numbers), names)

    def alarm(self, step: int, name: str, text: str) -> None:
        """Send an alarm, unless it is of a step that an earlier session logged."""
        if step > self._logged:
            names = [service for service in self._open if service not in self._failed]
            self._tell(lambda tracker: tracker.alarm(step, name, text), names)

    def close(self, ended: Ended) -> None:
        """Say how the run ended."""
        self._tell(lambda tracker: tracker.close(ended), list(self._open))
        self._open = {}

    def _tell(self, call: Callable[[Tracker], None], names: Sequence[str]) -> None:
        """Call those named, and say once of each that it failed."""
        for name in names:
            try:
                with redirect_stdout(sys.stderr):
                    call(self._open[name])
            except Exception as error:  # a run must not end by what watches it
                if name not in self._failed:
                    self.say(f"{name} failed and gets no more of this run, which goes on: {said(error)}")
                self._failed.add(name)


def _read_known(file: Path) -> dict[str, Known]:
    """By what the services know a run that goes on. Raises InputError where the file does not say that."""
    try:
        known = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        return {service: dict(name) for service, name in known.items()}
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise InputError(
            f"{file} does not say by what services know the run: restore it, or remove it for a new one."
        ) from None
