"""Alarms: signs in a run's metrics that training is going wrong, raised while there is time to stop it.

A rule is a pure function of the rows so far, over whichever columns a run has. It returns a sentence with the numbers
it saw, or None. A change counts where it exceeds the noise. A peak is searched over the whole run, so a fall from it
needs a larger z; docs/alarms.md has the thresholds and the false-alarm rates. An alarm is raised once, and again only
after its rule was silent for `SILENCE` consecutive rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from accord.errors import InputError, nearest
from accord.train import alarms_of_rows, alarms_of_samples
from accord.train.history import History

RULES = (*alarms_of_samples.RULES, *alarms_of_rows.RULES)
"""All alarms, in the order in which they are checked."""
SILENCE = 10
"""Consecutive rows for which a rule must be silent before its alarm can be raised again."""


@dataclass(frozen=True)
class Alarm:
    """A raised alarm: the step, its name, what it saw, and what to try."""

    step: int
    name: str
    saw: str
    advice: str

    def as_row(self) -> dict[str, Any]:
        """The alarm as a row of alarms.jsonl."""
        return {"step": self.step, "alarm": self.name, "saw": self.saw, "try": self.advice}


class Alarms:
    """The alarms of a run, checked row by row."""

    def __init__(self) -> None:
        self.history = History()
        self._silent: dict[str, int] = {}

    def see(self, row: Mapping[str, Any]) -> list[Alarm]:
        """The alarms that a new row raises."""
        self.history.add(row)
        return self._check(row, 1)

    def see_more(self, row: Mapping[str, Any]) -> list[Alarm]:
        """The alarms raised by more columns of the last row, which were logged separately."""
        self.history.extend(row)
        return self._check(row, 0)

    def _check(self, row: Mapping[str, Any], rows: int) -> list[Alarm]:
        raised = []
        for rule in RULES:
            saw = rule.check(self.history)
            silent = self._silent.get(rule.name, SILENCE)
            if saw is not None and silent >= SILENCE:
                raised.append(Alarm(int(row.get("step", len(self.history.rows))), rule.name, saw, rule.advice))
            self._silent[rule.name] = silent + rows if saw is None else 0
        return raised


def raised(rows: Iterable[Mapping[str, Any]]) -> list[Alarm]:
    """All alarms that the rows of a run raise, in order."""
    alarms = Alarms()
    return [alarm for row in rows for alarm in alarms.see(row)]


def chosen(stop_when: str | None) -> tuple[str, ...]:
    """The alarms in a comma-separated list; InputError for an unknown name."""
    wanted = tuple(name.strip() for name in stop_when.split(",")) if stop_when else ()
    known = [rule.name for rule in RULES]
    for name in wanted:
        if name not in known:
            hint = nearest(name, known) or f"; the alarms are {', '.join(known)}."
            raise InputError(f"stop_when: there is no alarm {name!r}{hint}")
    return wanted
