"""A stage on several ranks: torchrun's own launcher, in the stage's process, and what each rank does."""

from __future__ import annotations

import json
import logging
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from accord.cli.call import bind
from accord.cli.ranks import at_work
from accord.errors import InputError

START = (
    "import sys; sys.path = [path for path in sys.path if path]; import json; "
    "given = json.load(open(sys.argv[1], encoding='utf-8')); sys.path = given['path']; "
    "from accord.cli.launch import work; sys.exit(work(given))"
)
"""What a rank begins with: it imports from where the stage's process does."""


def launch(given: Mapping[str, Any]) -> int:
    """Carry out a call on so many ranks of this machine, as `torchrun --standalone` does; the exit status.

    What ranks say at their ends is theirs to say. SIGTERM to this process is passed on to them.
    Raises InputError where all were killed, so that none said anything.
    """
    from torch.distributed import run as torchrun
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    logging.disable()  # of this process, which says what became of every rank, in paragraphs
    with TemporaryDirectory(prefix="accord-ranks-") as folder:
        call = Path(folder, "call.json")  # the words of a command can be read by all who share the machine
        call.write_text(json.dumps(given), encoding="utf-8")
        options = ["--standalone", "--nproc-per-node", str(given["ranks"]), "--log-dir", folder]
        try:
            torchrun.run(torchrun.parse_args([*options, "--no-python", sys.executable, "-c", START, str(call)]))
        except ChildFailedError as error:
            return _status({rank: failure.exitcode for rank, failure in error.failures.items()}, given["ranks"])
        except SignalException as error:
            return 128 + int(error.sigval)
    return 0


def _status(codes: Mapping[int, int], ranks: int) -> int:
    """With what a stage ends whose ranks ended with these codes, less than 0 where a signal killed one."""
    said = [code for code in codes.values() if code > 0]
    if not said:
        rank, code = min(codes.items())
        number = signal.Signals(-code)
        why = ", often for lack of memory" if number == signal.SIGKILL else ""
        raise InputError(f"rank {rank} of {ranks} was killed ({number.name}){why}; the same command goes on.")
    return said[0]


def work(given: Mapping[str, Any]) -> int:
    """Carry out a call in this process, one of the ranks that were started for it; the exit status."""
    from accord.cli.main import ending

    with ending() as end:
        call = bind(given["command"], given["options"])
        with at_work(call.command):
            call.carry_out()
    return end.status
