"""Commands on several ranks started by torchrun: which commands allow it, which rank reports, and how they end."""

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
"""How long the ranks wait for each other when they end."""


def are_several() -> bool:
    """Whether the environment makes this process one of several ranks."""
    return (os.environ.get("WORLD_SIZE") or "1") != "1"


def is_rank() -> bool:
    """Whether the environment also says which rank this is; where it does not, joining the team raises the error."""
    return are_several() and all(os.environ.get(name, "").isdecimal() for name in ("RANK", "WORLD_SIZE"))


def trains(command: str) -> bool:
    """Whether several ranks can share the work of a command: it trains a model."""
    return COMMANDS[command].target.startswith("accord.methods:")


@contextmanager
def in_team(command: str) -> Iterator[None]:
    """Make the process a member of the team of ranks in the block, if torchrun has started several.

    Raises InputError where the command does not train, or the ranks cannot form a team.
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
"""Why a rank ends: an error of its own, a request to stop, or the loss of other ranks."""


@dataclass(frozen=True)
class RankEnd:
    """The end of a rank: why, its exit status, and its message."""

    why: int
    status: int
    sentence: str


def final_message(error: BaseException, sentence: str, status: int) -> tuple[str, int]:
    """The message that this rank prints when it ends (empty where another prints it), and its exit status.

    Every rank records its end in torchrun's store and waits a moment for the others, since torchrun kills all ranks
    once one has ended. Ranks that failed by themselves print their messages, each message once; if there are none, the
    first of the others prints its own, and names the ranks that recorded nothing.
    """
    if not is_rank():
        return sentence, status
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    why = LOST if isinstance(error, LostRanks) else ASKED if isinstance(error, KeyboardInterrupt) else OWN
    words = _exchanged(rank, size, RankEnd(why, status, sentence))
    how = error.how if isinstance(error, LostRanks) else "ended without a word"
    return message_of_rank(rank, size, words, how) if words else (sentence, status)


def message_of_rank(rank: int, size: int, words: Mapping[int, RankEnd], how: str) -> tuple[str, int]:
    """A rank's message and exit status, given the ends of all that recorded one; `how` describes the end of others."""
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
    """The ends recorded in time, by rank, this one's included; empty where torchrun did not start the ranks."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return {}
    from torch.distributed import TCPStore

    keys = [f"accord/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}/ended/{other}" for other in range(size)]
    with suppress(RuntimeError, ValueError, TypeError):  # torchrun has ended, or another version stores otherwise
        store = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False, timeout=PATIENCE)
        store.set(keys[rank], json.dumps(astuple(word)))
        with suppress(RuntimeError):  # some ranks record nothing
            store.wait(keys, PATIENCE)
        noted = [other for other in range(size) if store.check([keys[other]])]
        values = store.multi_get([keys[other] for other in noted])
        return {other: RankEnd(*json.loads(text)) for other, text in zip(noted, values, strict=True)}
    return {}
