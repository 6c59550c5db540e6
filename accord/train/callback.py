"""accord's alarms inside the runs of transformers and trl: a callback for their trainers."""

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
"""Where alarms are written, in the run's folder."""


class AlarmCallback(TrainerCallback):
    """Rings accord's alarms (docs/alarms.md) in a run of the Trainer of transformers, or of trl's:

        trainer = GRPOTrainer(..., callbacks=[accord.AlarmCallback(stop_when="collapse,kl-burst")])

    Whenever the trainer logs, the alarms that its numbers raise are said on standard error and written to alarms.jsonl
    in `output_dir`, a row each with step, alarm, saw and try. They are those that `accord alarms` finds in the run's
    trainer_state.json afterwards. A run that goes on from a checkpoint hears of what it logged before, and rings anew
    only for what is new.

    Args:
        stop_when: alarms that end the run, with commas between them, or True for any of them.
        columns: the trainer's names by accord's columns, where accord does not know them: {"watched": "eval_gold"};
            `1 - NAME` and `NAME * LENGTH` are read too.
        trainer: whose names they are, as in `accord alarms`, where they do not tell.

    Raises:
        InputError: there is no alarm, column or trainer of a name.
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
        """What rang, in order."""
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
        """Hear of what a run that goes on has logged before."""
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
        """Say and write the alarms that what is logged raises; the run ends where one is to end it."""
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
        """Say where nothing that was logged was a column that alarms look at."""
        missing = [column for column, way in self.columns.items() if not self._names.issuperset(_names(column, way))]
        if state.is_world_process_zero and (missing or not self._readings):
            what = ", ".join(missing) or "anything that alarms look at"
            status(f"The trainer logged no {what}; `accord alarms` tells what is in its {STATE}.")

    def _see(self, logs: Mapping[str, Any], step: int) -> list[Alarm]:
        """The alarms that what is logged at a step raises, and that did not ring before."""
        row = numbers_of(logs)
        if not row:
            return []
        row["step"] = step
        self._rows.append(row)
        rung = []
        if new := row.keys() - self._names:
            self._names |= new
            readings = readings_of(trainer_of(self._names, self.trainer), self.columns, self._names)
            if readings != self._readings:  # as an evaluation brings columns, or tells whose log it is
                self._readings, self._listener = readings, Listener(readings)
                for before in self._rows[:-1]:
                    rung += self._listener.see(before)
        rung += self._listener.see(row)
        known = {(one.step, one.name) for one in self.alarms}
        rung = [one for one in rung if (one.step, one.name) not in known]
        self.alarms += rung
        return rung

    def _write(self, args: TrainingArguments, state: TrainerState) -> None:
        """Write what rang so far, whole, by the first process alone."""
        if state.is_world_process_zero and args.output_dir:
            lines = [json.dumps(one.as_row(), ensure_ascii=False) + "\n" for one in self.alarms]
            write_text(Path(args.output_dir) / FILE, "".join(lines))


def _names(column: str, way: str) -> tuple[str, ...]:
    return Reading.of(column, way).names
