"""Stages in processes of their own, several at a time or on several ranks: starting, relaying output, stopping.

A process reads its task from standard input, which stays open: when it closes, because the pipeline was asked to stop
or was killed, the process sends itself SIGTERM, at which a training saves a checkpoint. A stage on several ranks is a
process that starts them with torchrun's launcher.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from contextvars import copy_context
from datetime import date
from pathlib import Path
from typing import Any, NoReturn

from accord.cli.call import Call, bind
from accord.cli.ranks import in_team
from accord.cli.recipe import Stage
from accord.cli.state import OWN, used_by
from accord.console import status
from accord.dates import fixed, today
from accord.errors import InputError, TrainingStopped
from accord.interrupts import Interrupted


def _program(argument: str, function: str) -> str:
    """The program of a new process: it imports from the same paths as this one, not first from the working folder."""
    return (
        f"import sys; sys.path = [path for path in sys.path if path]; import json; given = {argument}; "
        f"sys.path = given['path']; from accord.cli.parallel import {function}; sys.exit({function}(given))"
    )


STAGE = _program("json.loads(sys.stdin.readline())", "work")
RANK = _program("json.load(open(sys.argv[1], encoding='utf-8'))", "work_as_rank")


class Processes:
    """The processes that run stages, at most `limit` at a time."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._under_way: set[subprocess.Popen[str]] = set()
        self._stopped = threading.Event()

    def do(self, stages: Sequence[Stage], folder: Path, one: Callable[[Stage], None]) -> None:
        """Call `one` for each stage that is not skipped, in a thread, once the stages it needs are done.

        After a failure no other stage begins, the running ones are waited for, and the error is raised.
        """
        try:
            with ThreadPoolExecutor(self.limit) as pool:
                self._do(pool, stages, folder, one)
        except KeyboardInterrupt:
            self.stop()
            pool.shutdown()
            raise

    def _do(
        self, pool: ThreadPoolExecutor, stages: Sequence[Stage], folder: Path, one: Callable[[Stage], None]
    ) -> None:
        waiting = [stage for stage in stages if stage.status != "skipped"]
        needs = {stage.name: needed(stage, stages[: stages.index(stage)], folder) for stage in waiting}
        to_do = {stage.name for stage in waiting}
        under_way: dict[Future[None], Stage] = {}
        try:
            while waiting or under_way:
                ready = [stage for stage in waiting if needs[stage.name].isdisjoint(to_do)]
                for stage in ready[: self.limit - len(under_way)]:
                    waiting.remove(stage)
                    under_way[pool.submit(copy_context().run, one, stage)] = stage  # it holds --overwrite and the date
                for future in wait(under_way, return_when=FIRST_COMPLETED).done:
                    to_do.remove(under_way.pop(future).name)
                    future.result()
        except KeyboardInterrupt:
            self.stop()
            raise
        except Exception:
            if under_way:
                status(f"waiting for {', '.join(stage.name for stage in under_way.values())}")
            raise

    def stop(self) -> None:
        """Ask every process to stop, and let no other start."""
        self._stopped.set()
        for process in [*self._under_way]:
            with suppress(OSError):
                if process.stdin:
                    process.stdin.close()

    def run(self, name: str, call: Call, *, ranks: int = 1) -> None:
        """Run a call in a process (or one that starts `ranks` ranks), and print its standard error line by line.

        Raises:
            InputError: it ended with an input error, or was killed.
            TrainingStopped: the training stopped itself.
            Interrupted: it was asked to stop.
        """
        path = [os.path.abspath(path) for path in sys.path if path]
        day = today().isoformat()
        task: dict[str, Any] = {"path": path, "command": call.command, "ranks": ranks, "date": day}
        options = {**call.options, "overwrite": call.overwrites} if call.overwrites else call.options
        last = ""
        with (
            tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as shown,
            self._process(shown, ranks) as process,
        ):
            self._under_way.add(process)
            assert process.stdin and process.stderr
            with suppress(OSError):  # it ended before reading its task
                process.stdin.write(json.dumps({**task, "options": options}, default=str) + "\n")
                process.stdin.flush()
            if self._stopped.is_set():
                self.stop()
            for line in process.stderr:
                if last:
                    status(f"{name}: {last}")
                last = line.rstrip("\n")
            code = process.wait()
            self._under_way.remove(process)
            shown.seek(0)
            print(shown.read(), end="")
        if code:
            fail(name, code, last)
        if last:
            status(f"{name}: {last}")

    def _process(self, shown: Any, ranks: int) -> subprocess.Popen[str]:
        """A process in its own session, which Ctrl-C in the terminal does not reach, with its share of the cores."""
        surroundings = {
            "OMP_NUM_THREADS": str(max(1, cores() // self.limit // ranks)),
            "COLUMNS": str(shutil.get_terminal_size().columns),
            **os.environ,
        }
        return subprocess.Popen(
            [sys.executable, "-c", STAGE],
            stdin=subprocess.PIPE,
            stdout=shown,
            stderr=subprocess.PIPE,
            env=surroundings,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )


def cores() -> int:
    """The number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def needed(stage: Stage, earlier: Sequence[Stage], folder: Path) -> set[str]:
    """The earlier stages that must be done first: those it refers to, names a file of, or shares a database with."""
    named = used_by(stage, [other.name for other in earlier], folder)
    for other in earlier:
        if any(stage.options.get(option) == other.options.get(option) is not None for option in OWN):
            named.add(other.name)
    return named


def fail(name: str, code: int, last_line: str) -> NoReturn:
    """Raise the error that a stage's process ended with; `last_line` is the last one it wrote."""
    sentence = f"stage {name}: {last_line.removeprefix('accord: ').rstrip('.')}."
    if code == 2:
        raise InputError(sentence)
    if code == 3:
        raise TrainingStopped(sentence)
    if code > 128:
        raise Interrupted(code - 128, f" in stage {name}")
    if code < 0:
        number = signal.Signals(-code)
        why = ", often for lack of memory: run fewer stages at once" if number == signal.SIGKILL else ""
        raise InputError(f"stage {name} was killed ({number.name}){why}.")
    raise RuntimeError(sentence)


def work(task: Mapping[str, Any]) -> int:
    """Run a call in this process, or on ranks that it starts; returns the exit status."""
    from accord.cli.main import reporting_errors

    threading.Thread(target=_stop_when_closed, daemon=True).start()
    with reporting_errors() as end, fixed(date.fromisoformat(task["date"])):
        if task["ranks"] == 1:
            bind(task["command"], task["options"]).run()
        else:
            end.status = launch(task)
    return end.status


def _stop_when_closed() -> None:
    os.read(0, 1)  # not sys.stdin, whose lock would be held when the process ends
    os.kill(os.getpid(), signal.SIGTERM)


def launch(task: Mapping[str, Any]) -> int:
    """Run a call on `given["ranks"]` ranks of this machine, as `torchrun --standalone` does; returns the exit status.

    Each rank reports its own errors. SIGTERM to this process is passed on to the ranks. Raises InputError where ranks
    were killed and none reported anything.
    """
    from torch.distributed import run as torchrun
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    logging.disable()  # torchrun's paragraphs in this process; the ranks report for themselves
    with tempfile.TemporaryDirectory(prefix="accord-ranks-") as folder:
        call = Path(folder, "call.json")  # not arguments, which all users of the machine can read
        call.write_text(json.dumps(task), encoding="utf-8")
        options = ["--standalone", "--nproc-per-node", str(task["ranks"]), "--log-dir", folder]
        try:
            torchrun.run(torchrun.parse_args([*options, "--no-python", sys.executable, "-c", RANK, str(call)]))
        except ChildFailedError as error:
            return _status_of({rank: failure.exitcode for rank, failure in error.failures.items()}, task["ranks"])
        except SignalException as error:
            return 128 + int(error.sigval)
    return 0


def _status_of(codes: Mapping[int, int], ranks: int) -> int:
    """The exit status of a stage from those of its ranks, where a negative one is the signal that killed the rank."""
    failures = [code for code in codes.values() if code > 0]
    if not failures:
        rank, code = min(codes.items())
        number = signal.Signals(-code)
        why = ", often for lack of memory" if number == signal.SIGKILL else ""
        raise InputError(f"rank {rank} of {ranks} was killed ({number.name}){why}; the same command goes on.")
    return failures[0]


def work_as_rank(task: Mapping[str, Any]) -> int:
    """Run a call in this process, which is one of its ranks; returns the exit status."""
    from accord.cli.main import reporting_errors

    with reporting_errors() as end, fixed(date.fromisoformat(task["date"])):
        call = bind(task["command"], task["options"])
        with in_team(call.command):
            call.run()
    return end.status
