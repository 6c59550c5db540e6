"""Sends a run's metrics to the services of `--track`, and keeps what each has been sent.

No service is sent a password or a key. tracking.json in the run's folder keeps each service's identifiers of the run,
so that a resumed run continues there too. Rows are not sent twice, except to TensorBoard, which drops its own. A
service that fails during the run is not used any more, and the run goes on.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any

from accord.console import error_text, without_secrets
from accord.errors import InputError, nearest
from accord.files import write_text
from accord.train.trackers import Ended, Known, MLflow, TensorBoard, TrackedRun, Tracker, Trackio, WeightsAndBiases

DEFAULT, NONE = "tensorboard", "none"

SERVICES: dict[str, type[Tracker]] = {
    "wandb": WeightsAndBiases, "trackio": Trackio, "mlflow": MLflow, "tensorboard": TensorBoard,
}  # fmt: skip
"""In the order in which they begin: services that may refuse come before the one that writes into the folder."""


def services(track: str) -> list[str]:
    """The services named in a comma-separated list; TensorBoard by default, if installed.

    Raises InputError where a name is unknown or its package is not installed.
    """
    names = [name for part in track.split(",") if (name := part.strip()) and name != NONE]
    for name in names:
        if name not in SERVICES:
            hint = nearest(name, SERVICES) or f"; there are {', '.join(SERVICES)}, and {NONE} for none of them."
            raise InputError(f"track: there is no service {name!r}{hint}")
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:  # a folder of that name, such as wandb's output, is not the package
            if track == DEFAULT:
                return []
            raise InputError(f"track: {name} needs {SERVICES[name].install}")
    return [name for name in SERVICES if name in names]


class Tracking:
    """The services that track one run; `say` prints a line to the terminal."""

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
            except Exception as error:  # clients raise all kinds of errors
                raise InputError(
                    f"track: {service} cannot be used ({error_text(error)}); fix it, or leave it out."
                ) from error
            self._open[service] = tracker
            self._sent[service] = logged if known else -1
            with suppress(Exception), redirect_stdout(sys.stderr):
                if known and (last := tracker.last()) is not None:
                    self._sent[service] = last

    def keep(self, folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write the identifiers of the run, and send each service the rows of earlier sessions that it lacks."""
        if self._known:
            write_text(folder / "tracking.json", json.dumps(self._known, indent=1))
        for row in rows:
            self.log(int(row["step"]), row)

    def log(self, step: int, row: Mapping[str, Any]) -> None:
        """Send the numbers of a step (counted from 1)."""
        numbers = {name: v for name, v in row.items() if isinstance(v, int | float) and name != "step"}
        names = [name for name, last in self._sent.items() if step > last and name not in self._failed]
        self._tell(lambda tracker: tracker.log(step, numbers), names)

    def alarm(self, step: int, name: str, text: str) -> None:
        """Send an alarm, unless an earlier session logged its step."""
        if step > self._logged:
            names = [service for service in self._open if service not in self._failed]
            self._tell(lambda tracker: tracker.alarm(step, name, text), names)

    def close(self, ended: Ended) -> None:
        """Tell the services how the run ended."""
        self._tell(lambda tracker: tracker.close(ended), list(self._open))
        self._open = {}

    def _tell(self, call: Callable[[Tracker], None], names: Sequence[str]) -> None:
        """Call the services named; print the first failure of each."""
        for name in names:
            try:
                with redirect_stdout(sys.stderr):
                    call(self._open[name])
            except Exception as error:  # a failing tracker must not end the run
                if name not in self._failed:
                    self.say(f"{name} failed and is not used any more; the run goes on: {error_text(error)}")
                self._failed.add(name)


def _read_known(file: Path) -> dict[str, Known]:
    """The identifiers in tracking.json, by service. Raises InputError where the file is damaged."""
    try:
        known = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        return {service: dict(name) for service, name in known.items()}
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise InputError(
            f"{file} does not hold the services' identifiers of the run: restore it, or remove it for new ones."
        ) from None
