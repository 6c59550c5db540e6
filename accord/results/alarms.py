"""Which alarms a log raises: how it was read, what rang and why, and what cannot be judged."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

from rich.table import Table

from accord.results.base import Evaluation, Name, Record


class ReadColumn(Record):
    """A number of the log, and what it was read as."""

    column: str
    """accord's column; none where it was not read."""
    read: str
    """Its name in the log; `1 - NAME`, or `NAME * LENGTH` of a mean over tokens."""
    rows: int
    """Rows that have it."""
    why: str = ""
    """Why it was not read, where it looks like something that alarms see."""


class RungAlarm(Record):
    """An alarm as it would have rung."""

    step: int
    """The step after which."""
    alarm: str
    """Which."""
    saw: str
    """What it saw."""
    advice: str
    """What to try."""


class JudgedAlarm(Record):
    """What an alarm could see in the log."""

    alarm: str
    """Which."""
    ways: list[list[str]]
    """The columns by which it was judged, a list for each way to see it; none where it could not be."""
    lacks: list[str]
    """The columns that would have made it judged, where it was not; none where it is of another kind of run."""
    steps: list[int]
    """Steps at which it rang."""

    @property
    def said(self) -> str:
        """Whether it rang, and when, or what kept it from being judged."""
        if self.steps:
            return f"rang at step {', '.join(map(str, self.steps))}"
        if self.ways:
            return "silent"
        return f"not judged: no {' and '.join(self.lacks)}" if self.lacks else "of other methods"


class AlarmsResult(Evaluation):
    """The alarms over a log of any trainer's."""

    kind: Literal["alarms"] = "alarms"
    log: Name
    """The log that was read."""
    trainer: str
    """Whose it is."""
    rows: int
    """Rows of numbers in it."""
    first: int
    """The step of the first row."""
    last: int
    """The step of the last row."""
    columns: list[ReadColumn]
    """What was read, and what was not though it looks like it."""
    unread: list[str]
    """Other names of the log."""
    alarms: list[RungAlarm]
    """What rang, in order."""
    judged: list[JudgedAlarm]
    """A row an alarm."""

    def _rows(self) -> Iterable[Mapping[str, Any]]:
        return self.model_dump(mode="json")["alarms"]

    def tables(self) -> Iterator[Table]:
        """How the log was read; each alarm, whether it rang, and by what it was judged; what those saw that rang."""
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
