"""A recipe's stage on several ranks of this machine, started by torchrun's launcher."""

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
"""The program of a rank: it imports from the same paths as the stage's process."""


def launch(given: Mapping[str, Any]) -> int:
    """Run a call on `given["ranks"]` ranks of this machine, as `torchrun --standalone` does; returns the exit status.

    Each rank reports its own errors. SIGTERM to this process is passed on to the ranks. Raises InputError where ranks
    were killed and none reported anything.
    """
    from torch.distributed import run as torchrun
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    logging.disable()  # torchrun's paragraphs in this process; the ranks report for themselves
    with TemporaryDirectory(prefix="accord-ranks-") as folder:
        call = Path(folder, "call.json")  # not arguments, which all users of the machine can read
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
    """The exit status of a stage from those of its ranks, where a negative one is the signal that killed the rank."""
    said = [code for code in codes.values() if code > 0]
    if not said:
        rank, code = min(codes.items())
        number = signal.Signals(-code)
        why = ", often for lack of memory" if number == signal.SIGKILL else ""
        raise InputError(f"rank {rank} of {ranks} was killed ({number.name}){why}; the same command goes on.")
    return said[0]


def work(given: Mapping[str, Any]) -> int:
    """Run a call in this process, which is one of its ranks; returns the exit status."""
    from accord.cli.main import ending

    with ending() as end:
        call = bind(given["command"], given["options"])
        with at_work(call.command):
            call.carry_out()
    return end.status
