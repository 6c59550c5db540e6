"""The rounds in which a pool of instructions grows, and the file of all candidates.

candidates.jsonl has one row per candidate, accepted or rejected, round by round. A round is written as a whole, so a
killed run resumes with the round it was in, with the same result.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from accord.errors import InputError
from accord.files import line_of, write_rows
from accord.synthesis.filters import Pool, settle
from accord.synthesis.tasks import Candidate

Kept = TypeVar("Kept")

FILE = "candidates.jsonl"
"""The file of candidates in a run's folder."""


class Generator(Protocol):
    """A generator of tasks, in two steps, so that rejected instructions cost no further requests."""

    name: str

    def propose(self, pool: Pool, number: int) -> list[Candidate]:
        """New instructions of a round (numbered from 0), at least one candidate per request; empty when finished.

        Unusable ones are marked as rejected.
        """
        ...

    def complete(self, candidates: Sequence[Candidate], number: int) -> None:
        """Give each candidate instances, or mark it as rejected."""
        ...


@dataclass
class Growth:
    """The candidates of all rounds so far, one list per round; `path` is the file that keeps them."""

    pool: Pool
    path: Path
    rounds: list[list[Candidate]] = field(default_factory=list)

    @property
    def candidates(self) -> list[Candidate]:
        """All candidates."""
        return [candidate for one in self.rounds for candidate in one]

    def take(self, candidates: list[Candidate]) -> None:
        """Add a round to the pool."""
        self.rounds.append(candidates)
        for candidate in candidates:
            if not candidate.rejected:
                self.pool.add(candidate.task)

    def write(self, candidates: list[Candidate]) -> None:
        """Add a round to the file."""
        append(self.path, len(self.rounds), [candidate.to_json() for candidate in candidates])


def append(path: Path, number: int, rows: Sequence[Mapping[str, Any]]) -> None:
    """Append a round's rows to a file in one write, synced to disk."""
    lines = [line_of({"round": number, "of": len(rows), **row}, allow_nan=True) for row in rows]
    with path.open("a", encoding="utf-8", newline="\n") as file:
        file.write("".join(lines))
        file.flush()
        os.fsync(file.fileno())


def whole_rounds(path: Path, read: Callable[[Mapping[str, Any]], Kept], what: str) -> list[list[Kept]]:
    """The contents of a file, one list per round; an incomplete last round is removed from the file.

    Raises InputError where a row was not written by a round, or `read` raises KeyError, TypeError or ValueError.
    """
    rows: list[Mapping[str, Any]] = []
    kept: list[Kept] = []
    lines = path.read_bytes().split(b"\n") if path.is_file() else []
    for number, line in enumerate(filter(None, lines), start=1):
        try:
            row = json.loads(line)
            kept.append(read(row))
            rows.append({**row, "round": int(row["round"]), "of": int(row["of"])})
        except (ValueError, KeyError, TypeError, RecursionError):
            if line is lines[-1]:  # torn by a kill
                break
            raise InputError(f"{path}, line {number}: it is no {what}; restore the file or remove it.") from None
    rounds: list[list[Kept]] = []
    whole = 0
    while whole < len(rows) and 0 < rows[whole]["of"] <= len(rows) - whole:
        end = whole + rows[whole]["of"]
        rounds.append(kept[whole:end])
        whole = end
    if lines:
        write_rows(path, rows[:whole])
    return rounds


def resume(pool: Pool, path: Path) -> Growth:
    """Load the file's rounds into the pool; InputError where a row was not written by a round."""
    growth = Growth(pool, path)
    for candidates in whole_rounds(path, Candidate.from_json, "candidate"):
        growth.take(candidates)
    return growth


def grow(
    generator: Generator,
    growth: Growth,
    count: int,
    patience: int,
    progress: Callable[[str], None] = lambda line: None,
) -> str:
    """Run rounds until enough candidates are accepted; returns the reason for ending early, if any.

    The last round is kept whole, so there may be a few more. Growth ends early where the generator has nothing to
    propose, or `patience` consecutive rounds accept nothing.
    """
    begun, before = time.monotonic(), len(growth.pool.accepted)
    while len(growth.pool.accepted) < count:
        idle = next((i for i, one in enumerate(reversed(growth.rounds)) if any(not c.rejected for c in one)), None)
        if (len(growth.rounds) if idle is None else idle) >= patience:
            return f"{patience} rounds in a row accepted nothing"
        candidates = generator.propose(growth.pool, len(growth.rounds))
        if not candidates:
            return "there was nothing left to propose from"
        passed = growth.pool.screen(candidates)
        generator.complete(passed, len(growth.rounds))
        for candidate in passed:
            if not candidate.rejected:
                settle(candidate)
        growth.write(candidates)
        growth.take(candidates)
        done, proposed = len(growth.pool.accepted), sum(map(len, growth.rounds))
        left = f", {time_left(begun, done - before, count - done)}" if done < count else ""
        progress(f"round {len(growth.rounds)}: {done:,} of {count:,} accepted, {proposed:,} proposed{left}")
    return ""


def reasons(growth: Growth) -> str:
    """The number of candidates each filter rejected, most first, and the reasons for missing replies."""
    counts = Counter(c.rejected for c in growth.candidates if c.rejected).most_common()
    why = next((f" ({c.origin})" for c in growth.candidates if c.rejected == "no reply" and c.origin), "")
    return ", ".join(f"{n:,} by {name}{why if name == 'no reply' else ''}" for name, n in counts) or "nothing proposed"


def time_left(begun: float, done: int, more: int) -> str:
    """The remaining time in words, from the rate since `begun` (`time.monotonic`)."""
    if done < 1:
        return "time left unknown"
    seconds = (time.monotonic() - begun) * more / done
    return f"about {seconds / 60:.0f} min left" if seconds >= 90 else f"about {seconds:.0f} s left"
