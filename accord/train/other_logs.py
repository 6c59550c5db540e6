"""Logs of other trainers as rows of numbers: their formats, and the alarms that accord would have raised.

    trainer_state.json, a checkpoint's or run's folder that holds one    transformers and trl: log_history
    JSONL, {"step": ..., "data": {...}}                                  verl's file logger
    JSONL, JSON or CSV, one object or row per step                       a W&B history, OpenRLHF, accord's metrics.jsonl
    CSV of a W&B chart, columns `RUN - METRIC`                           the web page's export

Several entries for one step (training, then an evaluation; one W&B row per call) become one row. Where a run went back
and repeated steps, the repeated steps replace the earlier ones.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

from accord.data.readers import read_csv, read_json, read_jsonl, where_json
from accord.errors import InputError
from accord.parsing import parse_json
from accord.train.alarms import Alarm, Alarms
from accord.train.trainers import Reading

STATE = "trainer_state.json"
"""The file in each checkpoint where transformers keeps its log."""
STEPS = ("global_step", "training/global_step", "step", "_step", "Step")
"""Names of the step, most reliable first: W&B counts its own calls in `_step`."""

LAST_STEP = 2**53
"""No run makes as many steps, and floats represent integers exactly up to it."""

Row = Mapping[str, float]


@dataclass
class Log:
    """A log: its rows, each with its step, and warnings about how it was read."""

    rows: list[dict[str, float]]
    warnings: list[str] = field(default_factory=list)

    @property
    def names(self) -> dict[str, int]:
        """The number of rows that have each name."""
        counts: dict[str, int] = {}
        for row in self.rows:
            for name in row:
                counts[name] = counts.get(name, 0) + 1
        return counts


def read_log(path: str | Path) -> Log:
    """The rows of a log. Raises InputError where the file is missing or has no row that can be read."""
    file = _file_of(Path(path))
    log = Log([])
    objects = list(_objects(file, log))
    log.warnings += [*_not_finite(objects), *_named_twice(objects)]
    rows = [row for row in map(numbers_of, objects) if row]
    named = next((name for name in STEPS if any(name in row for row in rows)), None)
    if named is None and any(row.get(name) not in (None, "") for row in objects for name in STEPS):
        log.warnings.append("the steps are not numbers: rows are counted instead.")
    is_back, again = False, Counter[str]()
    for number, row in enumerate(rows, start=1):
        before = log.rows[-1]["step"] if named and log.rows else number  # a row without a step belongs to the last
        at = _step_of(row.get(named or "", before), f"{file}, row {number}")
        later = len(log.rows)
        while log.rows and log.rows[-1]["step"] > at:
            log.rows.pop()
        is_back |= (is_made_again := len(log.rows) < later)
        more = {name: value for name, value in row.items() if name not in STEPS}
        if log.rows and log.rows[-1]["step"] == at:
            last = log.rows[-1]
            if not is_made_again:
                again.update(n for n, value in more.items() if last.get(n, value) != value and n[0] != "_")
            last |= more
        elif more:
            log.rows.append({"step": at, **more})
    if is_back:
        log.warnings.append("the run went back and repeated steps: the last repetition is shown.")
    if again:
        repeated = ", ".join(f"{name} {count:,} times" for name, count in again.items())
        log.warnings.append(f"logged twice for a step, with different numbers: {repeated}; the later one is shown.")
    if not log.rows:
        raise InputError(f"{file} has no row of numbers; a log has one object per step, or one column per metric.")
    return log


def _step_of(value: float, where: str) -> int:
    """A step as an integer; InputError where it is not a whole number."""
    if not (0 <= value <= LAST_STEP and value == int(value)):
        raise InputError(f"{where}: a step is a whole number from 0, not {value:g}; check which column has the steps.")
    return int(value)


def _not_finite(objects: Sequence[Mapping[str, Any]]) -> list[str]:
    """A warning about values that are not finite, with the number of rows; a text "NaN" is W&B's empty cell."""
    numbers = ((name, value) for row in objects for name, value in row.items() if isinstance(value, int | float))
    names = [name for name, value in numbers if not isinstance(value, bool) and _number(value) is None]
    counted = ", ".join(f"{name} in {count:,} rows" for name, count in Counter(names).items())
    return [f"not finite, and left out: {counted}."] if counted else []


def _named_twice(objects: Iterable[Mapping[str, Any]]) -> list[str]:
    """Warnings about names that coincide without W&B's prefixes; the last one in a row is read."""
    spelled: dict[str, dict[str, None]] = {}
    for row in objects:
        for name in filter(None, row):
            spelled.setdefault(_bare(name), {})[name] = None
    return [
        f"{' and '.join(names)} are read as one column: where a row has both, the last is used."
        for names in spelled.values()
        if len(names) > 1
    ]


def _file_of(path: Path) -> Path:
    """The log file: of a folder the log in it, of several checkpoints the last one's."""
    if path.is_file():
        return path
    if not path.is_dir():
        raise InputError(f"there is no file or folder {path}; name a log, or a folder with one.")
    logs = [path / name for name in (STATE, "metrics.jsonl") if (path / name).is_file()]
    later = sorted(path.glob(f"checkpoint-*/{STATE}"), key=lambda file: int(re.sub(r"\D", "", file.parent.name) or 0))
    if not logs and not later:
        raise InputError(f"{path} has no {STATE}, metrics.jsonl or checkpoint with one; name the log itself.")
    return (logs or later[::-1])[0]


def _objects(file: Path, log: Log) -> Iterator[Mapping[str, Any]]:
    """The objects of a file, each with the values logged by one call."""
    if file.name.endswith(".csv"):
        yield from _of_one_run((row for _, row in read_csv(file)), file)
    elif file.suffix == ".jsonl":
        try:
            for number, row in read_jsonl(file):
                yield _unfolded(row, f"{file}, line {number}")
        except InputError:
            if not _is_torn(file):
                raise
            log.warnings.append(f"{file}: its last line is cut off and left out.")
    elif file.suffix == ".json":
        yield from _of_json(file)
    else:
        raise InputError(f"{file} is not a log that can be read: name a .json, .jsonl or .csv file.")


def _of_json(file: Path) -> Iterator[Mapping[str, Any]]:
    """The entries of a trainer's state, or the objects of a list."""
    with where_json(file):
        text = file.read_text(encoding="utf-8", errors="replace")
        try:
            held = parse_json(text)
        except ValueError:
            held = None
    if isinstance(held, Mapping):
        entries = held.get("log_history")
        if not isinstance(entries, list):
            raise InputError(f"{file} has no list log_history, as a {STATE} has, and is no list of objects.")
        for number, entry in enumerate(entries, start=1):
            if not isinstance(entry, Mapping):
                raise InputError(f"{file}: entry {number} of log_history is not an object.")
            yield entry
    else:
        for number, row in read_json(file):
            yield _unfolded(row, f"{file}, row {number}")


def _is_torn(file: Path) -> bool:
    """Whether only the last line cannot be read and is incomplete: it is being written, or the process was killed."""
    *whole, last = file.read_bytes().split(b"\n")
    if not last:
        return False
    try:
        for line in filter(bytes.strip, whole):
            parse_json(line.decode("utf-8-sig"))
    except ValueError:
        return False
    return any(map(bytes.strip, whole))


def _unfolded(row: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """A row of verl's file logger, {"step": ..., "data": {...}}, as a flat row; any other row unchanged."""
    if "data" not in row or not row.keys() <= {"step", "data"}:
        return row
    if not isinstance(row["data"], Mapping):
        raise InputError(f"{where}: data is to be an object of numbers, as verl's file logger writes it.")
    return {**row["data"], "step": row.get("step")}


def _of_one_run(rows: Iterable[Mapping[str, Any]], file: Path) -> Iterator[Mapping[str, Any]]:
    """The rows of a table; for a W&B chart (columns `RUN - METRIC`), without the run's name and MIN and MAX columns."""
    for row in rows:
        runs = {run for name in row if (run := name.rpartition(" - ")[0])}
        if len(runs) > 1:
            raise InputError(f"{file} has several runs ({', '.join(sorted(runs))}); export one of them.")
        names = [(name, name.rpartition(" - ")[2]) for name in row if not name.endswith(("__MIN", "__MAX"))]
        if twice := [short for short, count in Counter(short for _, short in names).items() if count > 1]:
            raise InputError(f"{file} has two columns of the name {twice[0]!r} without the run: leave one out.")
        yield {short: row[name] for name, short in names}


def numbers_of(row: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers of one log entry, by names without W&B's prefixes."""
    return {_bare(name): number for name, value in row.items() if name and (number := _number(value)) is not None}


def _bare(name: str) -> str:
    """A name without the prefix that W&B gives it: train/loss is loss, eval/loss is eval_loss."""
    if name.startswith("train/"):
        return name[len("train/") :]
    return f"eval_{name[len('eval/') :]}" if name.startswith("eval/") else name


def _number(value: Any) -> float | None:
    try:
        number = None if isinstance(value, bool) or value is None or value == "" else float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if number is not None and isfinite(number) else None


class Listener:
    """accord's alarms over the rows of another trainer, whose columns `readings` maps to accord's."""

    def __init__(self, readings: Sequence[Reading]) -> None:
        self.readings = readings
        self._alarms = Alarms()
        self._last: float | None = None

    def see(self, row: Row) -> list[Alarm]:
        """The alarms that a row raises; a row of the same step as the last one extends that row."""
        read = {one.column: value for one in self.readings if (value := one.of_row(row)) is not None}
        if not read:
            return []
        see = self._alarms.see_more if row["step"] == self._last else self._alarms.see
        self._last = row["step"]
        return see({**read, "step": int(row["step"])})
