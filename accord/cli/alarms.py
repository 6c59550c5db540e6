"""`accord alarms`: which of accord's alarms would have rung in a run of another trainer, from its log."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from accord.errors import TrainingStopped
from accord.evaluate.options import checked_by
from accord.outputs import require_folder
from accord.results.alarms import AlarmsResult, JudgedAlarm, ReadColumn, RungAlarm
from accord.results.base import FILE
from accord.train.alarms import RULES, Alarm, chosen
from accord.train.history import Rule
from accord.train.other_logs import Listener, Log, read_log
from accord.train.trainers import TRAINERS, Reading, readings_of, require_columns, require_readings, trainer_of


@checked_by(chosen)
def alarms(
    log: str,
    *,
    columns: dict[str, str] | None = None,
    trainer: str | None = None,
    stop_when: str | None = None,
    out: str | None = None,
) -> AlarmsResult:
    """Say which alarms would have rung in a run of trl, transformers, verl or OpenRLHF, at which step, and why.

    A log is the trainer_state.json of transformers and trl, or the folder of a run or checkpoint with one; the JSONL of
    verl's file logger; a history exported from W&B (CSV, JSON or JSONL); or accord's own metrics.jsonl. The output says
    how each column was read, and which alarms cannot be judged for lack of columns.

    Exit status: 0, whether or not alarms rang; 2 if the log cannot be read; 3 if an alarm named by --stop-when rang.

    Args:
        log: a log file, or a folder with one.
        columns: the log's names for accord's columns, where accord does not know them: watched=eval_gold. Formulas work
            too: 'ended=1 - clipped', or 'kl=my_kl * my_length' for a mean per token.
        trainer: the trainer that wrote the log, if accord cannot tell from its columns: accord, verl, trl-grpo,
            trl-ppo, trl-dpo, trl-reward, openrlhf-ppo, openrlhf-dpo, openrlhf-reward or transformers.
        stop_when: alarms, separated by commas; if one of them would have rung, the exit status is 3.
        out: a folder for evaluation.json, which `accord report` reads (default: nothing is written).

    Raises:
        InputError: there is no such log, it has no numbers that alarms read, or its trainer is unknown.
        TrainingStopped: an alarm of `stop_when` rang.
    """
    wanted = chosen(stop_when)
    if out:
        require_folder(out, log, leaves=[FILE])
    read = read_log(log)
    names = read.names
    require_columns(columns or {}, names)
    whose = trainer_of(names, trainer)
    readings = readings_of(whose, columns or {}, names)
    require_readings(readings, names)
    listener = Listener(readings)
    rang = [alarm for row in read.rows for alarm in listener.see(row)]
    result = result_of(log, whose, read, readings, rang)
    if out:
        result.save(out)
    result.announce()
    if ended := next((alarm for alarm in rang if alarm.name in wanted), None):
        raise TrainingStopped(f"the alarm {ended.name} rings at step {ended.step}: {ended.saw}.")
    return result


def result_of(
    log: str, whose: str | None, read: Log, readings: Sequence[Reading], rang: Sequence[Alarm]
) -> AlarmsResult:
    """The result: the columns read, and the alarms that rang."""
    names, known = read.names, TRAINERS[whose] if whose else None
    columns = [
        ReadColumn(column=one.column, read=str(one), rows=sum(one.of_row(row) is not None for row in read.rows))
        for one in readings
    ]
    others: Mapping[str, str] = known.others if known else {}
    columns += [
        ReadColumn(column="", read=name, rows=names[name], why=others[name]) for name in others if name in names
    ]
    taken = {name for one in readings for name in one.names} | others.keys() | {"step"}
    steps = [int(row["step"]) for row in read.rows]
    apart = int(np.median(np.diff(steps))) if len(steps) > 1 else 1
    warning = f"rows stand {apart} steps apart: where an alarm counts steps, these are rows." if apart > 1 else ""
    return AlarmsResult(
        log=log,
        trainer=known.title if known else "by the names given",
        rows=len(steps),
        first=steps[0],
        last=steps[-1],
        columns=columns,
        unread=sorted(names.keys() - taken),
        alarms=[RungAlarm(step=one.step, alarm=one.name, saw=one.saw, advice=one.advice) for one in rang],
        judged=[judged(rule, {"step", *(one.column for one in readings)}, rang) for rule in RULES],
        warnings=[*read.warnings, *filter(None, [warning])],
    )


def judged(rule: Rule, columns: Collection[str], rang: Sequence[Alarm]) -> JudgedAlarm:
    """How an alarm could be judged from these columns, which it lacks, and the steps at which it rang."""
    ways = rule.ways(columns)
    is_other = bool(set(columns) & set(rule.apart_from))
    return JudgedAlarm(
        alarm=rule.name,
        ways=[way.split() for way in ways],
        lacks=[] if ways or is_other else rule.lacks(columns),
        steps=[alarm.step for alarm in rang if alarm.name == rule.name],
    )
