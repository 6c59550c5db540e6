"""Alarms: what the numbers of a run say when training goes wrong, while there is time to stop it.

A rule is a pure function of the rows so far, over whichever columns a run has: a sentence with the numbers it saw, or
None where it sees nothing. A change counts where it is beyond noise. A peak is looked for over the whole run, so that
the z which is asked of a fall from it is larger; the thresholds and the rates of false alarms are in docs/alarms.md. An
alarm is raised once, and again only after its rule was silent for `SILENCE` rows on end.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from accord.errors import InputError, nearest
from accord.train import alarms_of_rows, alarms_of_samples
from accord.train.history import History

RULES = (*alarms_of_samples.RULES, *alarms_of_rows.RULES)
"""All alarms, in the order in which they are looked for."""
SILENCE = 10
"""Rows on end in which a rule must see nothing before its alarm can be raised again."""


@dataclass(frozen=True)
class Alarm:
    """An alarm as it was raised: after which step, which, what it saw, and what to try."""

    step: int
    name: str
    saw: str
    advice: str

    def as_row(self) -> dict[str, Any]:
        """It as a row of alarms.jsonl."""
        return {"step": self.step, "alarm": self.name, "saw": self.saw, "try": self.advice}


class Alarms:
    """The alarms of a run as its rows come in."""

    def __init__(self) -> None:
        self.history = History()
        self._silent: dict[str, int] = {}

    def see(self, row: Mapping[str, Any]) -> list[Alarm]:
        """The alarms that one more row raises."""
        self.history.add(row)
        return self._look(row, 1)

    def see_more(self, row: Mapping[str, Any]) -> list[Alarm]:
        """The alarms that more columns of the last row raise, which were measured apart from it."""
        self.history.extend(row)
        return self._look(row, 0)

    def _look(self, row: Mapping[str, Any], rows: int) -> list[Alarm]:
        raised = []
        for rule in RULES:
            saw = rule.look(self.history)
            silent = self._silent.get(rule.name, SILENCE)
            if saw is not None and silent >= SILENCE:
                raised.append(Alarm(int(row.get("step", len(self.history.rows))), rule.name, saw, rule.advice))
            self._silent[rule.name] = silent + rows if saw is None else 0
        return raised


def raised(rows: Iterable[Mapping[str, Any]]) -> list[Alarm]:
    """All alarms that the rows of a run raise, in order."""
    alarms = Alarms()
    return [alarm for row in rows for alarm in alarms.see(row)]


def chosen(names: str | None) -> tuple[str, ...]:
    """The alarms named, with commas between them; InputError where there is none of a name."""
    wanted = tuple(name.strip() for name in names.split(",")) if names else ()
    known = [rule.name for rule in RULES]
    for name in wanted:
        if name not in known:
            hint = nearest(name, known) or f"; the alarms are {', '.join(known)}."
            raise InputError(f"stop_when: there is no alarm {name!r}{hint}")
    return wanted
