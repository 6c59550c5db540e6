"""accord's alarms inside runs of transformers and trl: a callback for their trainers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from accord.console import status
from accord.files import write_text
from accord.train.alarms import Alarm, chosen
from accord.train.other_logs import STATE, Listener, Row, numbers_of
from accord.train.trainers import Reading, readings_of, require_columns, trainer_of

FILE = "alarms.jsonl"
"""The file of alarms, in the run's folder."""


class AlarmCallback(TrainerCallback):
    """Raises accord's alarms (docs/alarms.md) in a run of the Trainer of transformers, or of trl's:

        trainer = GRPOTrainer(..., callbacks=[accord.AlarmCallback(stop_when="collapse,kl-burst")])

    Whenever the trainer logs, the alarms that its numbers raise are printed to standard error and written to
    alarms.jsonl in `output_dir`, one row each with step, alarm, saw and try. They are the ones that `accord alarms`
    finds in the run's trainer_state.json afterwards. A run resumed from a checkpoint takes over what it logged before,
    and raises only new alarms.

    Args:
        stop_when: alarms that end the run, separated by commas, or True for any of them.
        columns: the trainer's names of accord's columns, where accord does not know them: {"watched": "eval_gold"};
            `1 - NAME` and `NAME * LENGTH` are understood too.
        trainer: the trainer whose names they are, as in `accord alarms`, where the names alone do not tell.

    Raises:
        InputError: an alarm, column or trainer is unknown.
    """

    def __init__(
        self,
        stop_when: str | bool | None = None,
        *,
        columns: Mapping[str, str] | None = None,
        trainer: str | None = None,
    ) -> None:
        self.stops_at_any = stop_when is True
        self.stop_when = chosen(stop_when) if isinstance(stop_when, str) else ()
        self.columns, self.trainer = dict(columns or {}), trainer
        require_columns(self.columns)
        trainer_of((), trainer)
        self.alarms: list[Alarm] = []
        """The alarms raised so far, in order."""
        self._begin()

    def _begin(self) -> None:
        self.alarms.clear()
        self._rows: list[Row] = []
        self._names: set[str] = set()
        self._readings: list[Reading] = []
        self._listener = Listener([])

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Take over what a resumed run logged before."""
        self._begin()
        for entry in state.log_history:
            self._see(entry, int(entry["step"]))
        self._write(args, state)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Print and write the alarms that the logged numbers raise, and end the run where one of them is to end it."""
        rung = self._see(logs or {}, state.global_step)
        if not rung:
            return
        self._write(args, state)
        ends = next((one for one in rung if self.stops_at_any or one.name in self.stop_when), None)
        if ends:
            control.should_training_stop = True
        if state.is_world_process_zero:
            for one in rung:
                status(f"step {one.step}, {one.name}: {one.saw}. To try: {one.advice}.")
            if ends:
                status(f"The alarm {ends.name} ends the run, as stop_when asks.")

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Warn where the trainer logged no column that alarms look at, or lacked one named by `columns`."""
        missing = [column for column, way in self.columns.items() if not self._names.issuperset(_names(column, way))]
        if state.is_world_process_zero and (missing or not self._readings):
            what = ", ".join(missing) or "anything that alarms look at"
            status(f"The trainer logged no {what}; `accord alarms` shows what is in its {STATE}.")

    def _see(self, logs: Mapping[str, Any], step: int) -> list[Alarm]:
        """The new alarms that the numbers logged at a step raise."""
        row = numbers_of(logs)
        if not row:
            return []
        row["step"] = step
        self._rows.append(row)
        rung = []
        if new := row.keys() - self._names:
            self._names |= new
            readings = readings_of(trainer_of(self._names, self.trainer), self.columns, self._names)
            if readings != self._readings:  # e.g. an evaluation adds columns, or identifies the trainer
                self._readings, self._listener = readings, Listener(readings)
                for before in self._rows[:-1]:
                    rung += self._listener.see(before)
        rung += self._listener.see(row)
        known = {(one.step, one.name) for one in self.alarms}
        rung = [one for one in rung if (one.step, one.name) not in known]
        self.alarms += rung
        return rung

    def _write(self, args: TrainingArguments, state: TrainerState) -> None:
        """Write the alarms so far; only the first process does."""
        if state.is_world_process_zero and args.output_dir:
            lines = [json.dumps(one.as_row(), ensure_ascii=False) + "\n" for one in self.alarms]
            write_text(Path(args.output_dir) / FILE, "".join(lines))


def _names(column: str, way: str) -> tuple[str, ...]:
    return Reading.of(column, way).names
