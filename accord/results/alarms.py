"""Alarms that a training log raises: how the log was read, which alarms rang and why, and which cannot be judged."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

from rich.table import Table

from accord.results.base import Evaluation, Name, Record


class ReadColumn(Record):
    """A metric of the log and the column it was read as."""

    column: str
    """accord's column; empty where the metric was not read."""
    read: str
    """Its name in the log; `1 - NAME`, or `NAME * LENGTH` of a mean over tokens."""
    rows: int
    """Rows that have it."""
    why: str = ""
    """The reason, for a metric that resembles a column of alarms but was not read."""


class RungAlarm(Record):
    """An alarm that was raised."""

    step: int
    """The step after which it was raised."""
    alarm: str
    """Its name."""
    saw: str
    """What it saw."""
    advice: str
    """What to try."""


class JudgedAlarm(Record):
    """Whether an alarm could be judged from the log, and when it was raised."""

    alarm: str
    """Its name."""
    ways: list[list[str]]
    """The sets of columns it was judged by, one list per alternative; empty where it could not be."""
    lacks: list[str]
    """Columns missing to judge it; empty where it was judged, or belongs to another kind of run."""
    steps: list[int]
    """Steps at which it was raised."""

    @property
    def said(self) -> str:
        """When it was raised, or why it could not be judged."""
        if self.steps:
            return f"rang at step {', '.join(map(str, self.steps))}"
        if self.ways:
            return "silent"
        return f"not judged: no {' and '.join(self.lacks)}" if self.lacks else "for other kinds of runs"


class AlarmsResult(Evaluation):
    """The alarms over a log of any trainer."""

    kind: Literal["alarms"] = "alarms"
    log: Name
    """The log that was read."""
    trainer: str
    """The trainer that wrote it."""
    rows: int
    """Rows of numbers in it."""
    first: int
    """The step of the first row."""
    last: int
    """The step of the last row."""
    columns: list[ReadColumn]
    """Metrics that were read, and similar ones that were not."""
    unread: list[str]
    """Other names in the log."""
    alarms: list[RungAlarm]
    """The alarms raised, in order."""
    judged: list[JudgedAlarm]
    """One row per alarm."""

    def _rows(self) -> Iterable[Mapping[str, Any]]:
        return self.model_dump(mode="json")["alarms"]

    def tables(self) -> Iterator[Table]:
        """How the log was read; each alarm's outcome; details of those that were raised."""
        read = Table("accord's column", "in the log", "rows", title=f"{self.log}: {self.trainer}, {self.rows:,} rows")
        for one in self.columns:
            read.add_row(one.column or "not read", f"{one.read}: {one.why}" if one.why else one.read, f"{one.rows:,}")
        yield read
        judged = Table("alarm", "", "judged by", title=f"steps {self.first:,} to {self.last:,}")
        for alarm in self.judged:
            judged.add_row(alarm.alarm, alarm.said, "; ".join(" and ".join(way) for way in alarm.ways))
        yield judged
        if self.alarms:
            rung = Table("step", "alarm", "saw", "try")
            for rang in self.alarms:
                rung.add_row(f"{rang.step:,}", rang.alarm, rang.saw, rang.advice)
            yield rung
