"""A run's files of rows: metrics, alarms and samples, appended step by step, with digests kept in the checkpoints."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from accord import engine
from accord.files import line_of, no_room_named, sync, write_text

MEASURED = ("metrics", "alarms")
"""Files whose rows are written with their step."""
FILES = (*MEASURED, "samples")


class Rows:
    """The files of rows in a run's folder; `say` prints a line to the terminal."""

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        self.folder, self.say = folder, say
        self._files: dict[str, IO[str]] = {}
        self._written: dict[str, Any] = {}

    def open(self, step: int) -> None:
        """Open the files for steps after `step`, dropping rows that an earlier session wrote past its checkpoint."""
        for name in FILES:
            lines, torn = rows_until(file := self.folder / f"{name}.jsonl", step)
            if torn:
                self.say(f"{file}: lines that cannot be read are left out ({torn})")
            write_text(file, text := "".join(lines))
            self._written[name] = hashlib.sha256(text.encode())
            self._files[name] = file.open("a", encoding="utf-8")

    def write(self, name: str, *rows: Mapping[str, Any]) -> None:
        """Append rows to one of the files."""
        text = "".join(line_of(row, allow_nan=True) for row in rows)
        with no_room_named(self.folder / f"{name}.jsonl"):
            self._files[name].write(text)
            self._files[name].flush()
        self._written[name].update(text.encode())

    def keep(self, step: int) -> dict[str, str]:
        """Sync the rows to disk; returns digests of those up to `step`, for its checkpoint."""
        for file in self._files.values():
            os.fsync(file.fileno())
        sync(self.folder, inside=False)
        samples, _ = rows_until(self.folder / "samples.jsonl", step)  # a round that begins may have written later ones
        return {name: self._written[name].hexdigest() for name in MEASURED} | {"samples": _digest(samples)}

    def require(self, step: int, digests: Mapping[str, str], *, needed: bool) -> None:
        """Raise Damaged where the rows up to a step do not match the digests in a checkpoint.

        A missing file of metrics or alarms only prints a line, unless the rows are `needed` to choose the best model.
        So do changed samples, which nothing depends on.
        """
        for name, digest in digests.items():
            kept, _ = rows_until(file := self.folder / f"{name}.jsonl", step)
            if not file.exists() and not needed:
                self.say(f"{file} is gone, and with it the rows up to step {step}.")
            elif _digest(kept) != digest and name == "samples":
                self.say(f"{file} is not as it was written up to step {step}, and is kept as it is.")
            elif _digest(kept) != digest:
                raise engine.checkpoint.Damaged(f"{file} is not as it was written up to step {step}")

    def close(self) -> None:
        """Close the files."""
        for file in self._files.values():
            with suppress(OSError):  # all was flushed when written, or could not be: the error to report
                file.close()


def read_metrics(folder: str | Path) -> list[dict[str, float]]:
    """The rows of metrics.jsonl, without a torn last line."""
    return [row for _, row in _lines(Path(folder) / "metrics.jsonl") if row is not None]


def read_alarms(folder: str | Path) -> list[dict[str, Any]]:
    """The rows of alarms.jsonl, without a torn last line."""
    return [row for _, row in _lines(Path(folder) / "alarms.jsonl") if row is not None]


def rows_until(file: Path, step: int) -> tuple[list[str], int]:
    """The lines of rows up to `step`, and how many lines before the last cannot be read."""
    lines = _lines(file)
    kept = [line for line, row in lines if row is not None and row["step"] <= step]
    return kept, sum(row is None for _, row in lines[:-1])


def _digest(lines: Iterable[str]) -> str:
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _lines(file: Path) -> list[tuple[str, Any]]:
    """A file's lines, each with its parsed row, or None where it is not a row of a step."""
    parsed = []
    for line in file.read_bytes().splitlines(keepends=True) if file.is_file() else ():
        try:
            row = json.loads(line)
            is_row = line.endswith(b"\n") and isinstance(row["step"], int)
        except (ValueError, KeyError, TypeError, RecursionError):
            is_row = False
        parsed.append((line.decode(errors="replace"), row if is_row else None))
    return parsed
