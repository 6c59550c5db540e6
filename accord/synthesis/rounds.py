"""The rounds in which a pool of instructions grows, and the folder that keeps what every round proposed.

candidates.jsonl has a row for every candidate, accepted or rejected by a filter, round after round. A round is written
once it is whole, so that a run that was killed goes on with the round it was in, and comes out as if it had not been.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from accord.errors import InputError
from accord.files import write_rows
from accord.synthesis.filters import Pool, settle
from accord.synthesis.tasks import Candidate

FILE = "candidates.jsonl"
"""What is proposed, in a run's folder."""


class Generator(Protocol):
    """What proposes tasks, in two steps, so that nothing is asked about instructions that are rejected."""

    name: str

    def propose(self, pool: Pool, number: int) -> list[Candidate]:
        """New instructions of a round, by its number, from 0: at least one candidate a request; none where it is done.

        Those that cannot be used are marked as rejected.
        """
        ...

    def complete(self, candidates: Sequence[Candidate], number: int) -> None:
        """Give each candidate instances, or mark it as rejected."""
        ...


@dataclass
class Growth:
    """The candidates of all rounds so far, in order, a list a round; `path` is the file that keeps them."""

    pool: Pool
    path: Path
    rounds: list[list[Candidate]] = field(default_factory=list)

    @property
    def candidates(self) -> list[Candidate]:
        """All candidates."""
        return [candidate for one in self.rounds for candidate in one]

    def take(self, candidates: list[Candidate]) -> None:
        """Add a round to what is known."""
        self.rounds.append(candidates)
        for candidate in candidates:
            if not candidate.rejected:
                self.pool.add(candidate.task)

    def write(self, candidates: list[Candidate]) -> None:
        """Add a round to the file, in one write that is on the disk when this returns."""
        number = len(self.rounds)
        rows = [{"round": number, "of": len(candidates), **candidate.to_json()} for candidate in candidates]
        with self.path.open("a", encoding="utf-8", newline="\n") as file:
            file.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
            file.flush()
            os.fsync(file.fileno())


def resume(pool: Pool, path: Path) -> Growth:
    """What the file has, into the pool; a last round that is not whole is taken away from the file.

    Raises InputError where a row is not one that a round wrote.
    """
    growth = Growth(pool, path)
    if not path.exists():
        return growth
    rows: list[dict[str, Any]] = []
    candidates: list[Candidate] = []
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(filter(None, lines), start=1):
        try:
            row = json.loads(line)
            candidates.append(Candidate.from_json(row))
            rows.append({"round": int(row["round"]), "of": int(row["of"]), **candidates[-1].to_json()})
        except (ValueError, KeyError, TypeError):
            if line is lines[-1]:  # torn off as it was written
                break
            raise InputError(f"{path}, line {number}: it is no candidate; restore the file or remove it.") from None
    whole = 0
    while whole < len(rows) and 0 < rows[whole]["of"] <= len(rows) - whole:
        end = whole + rows[whole]["of"]
        growth.take(candidates[whole:end])
        whole = end
    write_rows(path, rows[:whole])
    return growth


def grow(
    generator: Generator,
    growth: Growth,
    count: int,
    patience: int,
    progress: Callable[[str], None] = lambda line: None,
) -> str:
    """Rounds until so many candidates are accepted; why it ended before that, if it did.

    The last round is kept whole, so that there may be a few more. It ends early where the generator has nothing to
    propose, or `patience` rounds in a row accept nothing.
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
        pace = (time.monotonic() - begun) / max(done - before, 1)
        left = f"about {_minutes(pace * (count - done))} left" if before < done < count else "time left unknown"
        progress(
            f"round {len(growth.rounds)}: {done:,} of {count:,} accepted, {proposed:,} proposed"
            + (f", {left}" if done < count else "")
        )
    return ""


def reasons(growth: Growth) -> str:
    """How many candidates each filter rejected, the most first, and why there was no reply."""
    counts = Counter(c.rejected for c in growth.candidates if c.rejected).most_common()
    why = next((f" ({c.origin})" for c in growth.candidates if c.rejected == "no reply" and c.origin), "")
    return ", ".join(f"{n:,} by {name}{why if name == 'no reply' else ''}" for name, n in counts) or "nothing proposed"


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
