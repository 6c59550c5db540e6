"""Commands that torchrun has started on several ranks: which can be, who speaks, and how all end."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass
from datetime import timedelta

from accord.cli.table import COMMANDS
from accord.errors import InputError, LostRanks

PATIENCE = timedelta(seconds=10)
"""So long the ranks wait for each other at their ends."""


def are_several() -> bool:
    """Whether the environment says that this process is one of several ranks."""
    return os.environ.get("WORLD_SIZE", "1") != "1"


def is_rank() -> bool:
    """Whether it says which of several, as torchrun does; half an environment is refused by its own sentence."""
    return are_several() and "RANK" in os.environ


def trains(command: str) -> bool:
    """Whether several ranks can share the work of a command."""
    return COMMANDS[command].target.startswith("accord.methods:")


@contextmanager
def at_work(command: str) -> Iterator[None]:
    """Within it the process is in the team of ranks that torchrun has started, if it has.

    Raises InputError where the command is none that trains, or the ranks cannot be a team.
    """
    if not are_several():
        yield
        return
    if not trains(command):
        raise InputError(f"`accord {command}` runs in one process: start it without torchrun.")
    from accord.engine.team import joined

    with joined():
        yield


OWN, ASKED, LOST = 2, 1, 0
"""Why a rank ends: by what went wrong with it, because it was asked to, or because others have ended."""


@dataclass(frozen=True)
class RankEnd:
    """A rank's last: why it ends, its exit status, and its sentence."""

    why: int
    status: int
    sentence: str


def last_word(error: BaseException, sentence: str, status: int) -> tuple[str, int]:
    """What this rank is to say at its end, nothing where another says it, and its exit status.

    Every rank notes with torchrun how it ends, and waits a moment for the others to do so: torchrun ends all once one
    has. Those that ended by a fault of their own say so, a sentence once; where there are none, the first of the others
    speaks, and names the ranks that noted nothing.
    """
    if not is_rank():
        return sentence, status
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    why = LOST if isinstance(error, LostRanks) else ASKED if isinstance(error, KeyboardInterrupt) else OWN
    words = _exchanged(rank, size, RankEnd(why, status, sentence))
    how = error.how if isinstance(error, LostRanks) else "ended without a word"
    return spoken(rank, size, words, how) if words else (sentence, status)


def spoken(rank: int, size: int, words: Mapping[int, RankEnd], how: str) -> tuple[str, int]:
    """What a rank says by the last words of all that noted any, and its status; `how` those that did not have ended."""
    own, why = words[rank], max(word.why for word in words.values())
    first = min(other for other, word in words.items() if word.why == why)
    if own.why < why:
        return "", words[first].status
    if why == OWN:
        is_said = any(other < rank and word.sentence == own.sentence for other, word in words.items())
        return "" if is_said else own.sentence, own.status
    if rank != first:
        return "", own.status
    silent = [str(other) for other in range(size) if other not in words]
    if not silent:
        return own.sentence, own.status
    named = f"rank{'s' if len(silent) > 1 else ''} {', '.join(silent)} of {size} {how}"
    asked = f"{own.sentence.split(';')[0].rstrip('.')}, and " if why == ASKED else ""
    return f"{asked}{named}; the run goes on from its last checkpoint by --resume.", own.status


def _exchanged(rank: int, size: int, word: RankEnd) -> dict[int, RankEnd]:
    """The last words of the ranks that note any in time, this one's among them; none where there is no torchrun."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return {}
    from torch.distributed import TCPStore

    keys = [f"accord/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}/ended/{other}" for other in range(size)]
    with suppress(RuntimeError, ValueError, TypeError):  # torchrun is gone, or another version notes otherwise
        store = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False, timeout=PATIENCE)
        store.set(keys[rank], json.dumps(astuple(word)))
        with suppress(RuntimeError):  # some note nothing
            store.wait(keys, PATIENCE)
        noted = [other for other in range(size) if store.check([keys[other]])]
        found = store.multi_get([keys[other] for other in noted])
        return {other: RankEnd(*json.loads(text)) for other, text in zip(noted, found, strict=True)}
    return {}
