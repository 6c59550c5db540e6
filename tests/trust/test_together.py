"""Two of one command at once, with one --out: one wins, as if it had been alone, and the other is told.

`tests/methods/test_damage.py` has the same of a training run.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from tests.commands.small import accord
from tests.trust.commands import Command

NAMES = ("sample", "label", "run")


def race(command: Command, trial: int, late: float) -> str:
    """Which of two won; the second begins up to so many seconds after the first."""
    command.clear()
    context = multiprocessing.get_context("fork")
    start = context.Barrier(2)
    said = [command.home / f"said-{number}" for number in (0, 1)]

    def child(number: int) -> None:
        with said[number].open("w") as file, redirect_stderr(file), redirect_stdout(file):
            start.wait()
            time.sleep(late * number * (trial % 5) / 4)
            status = accord(*command.words)
        os._exit(status)

    both = [context.Process(target=child, args=(number,)) for number in (0, 1)]
    for process in both:
        process.start()
    for process in both:
        process.join()
    codes, texts = [process.exitcode for process in both], [" ".join(path.read_text().split()) for path in said]
    assert sorted(codes, key=str) == [0, 2], f"{command.name}, trial {trial}: {codes} {texts}"
    loser = codes.index(2)
    assert f"is in use by process {both[1 - loser].pid} on " in texts[loser], texts[loser]
    assert command.left() == command.whole, f"{command.name}, trial {trial}"
    return f"the {'first' if loser else 'second'} won"


@pytest.mark.parametrize("trials", [pytest.param(1, id="once"), pytest.param(20, id="often", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", NAMES)
def test_one_wins_and_the_other_is_told(name: str, trials: int, home: Path) -> None:
    command = Command(name, home)
    command.clear()
    begun = time.monotonic()
    assert accord(*command.words) == 0
    late = min(0.05, (time.monotonic() - begun) / 4)  # the first is at work still
    command.whole = command.left()
    won = [race(command, trial, late) for trial in range(trials)]
    print(f"{name}: {trials} trials, {won.count('the first won')} won by the first")
    shutil.rmtree(command.out)
