"""How ranks end: one that dies ends all soon, with its reason in a line; a signal to any saves and stops all.

What goes on after each is bit for bit the run that nothing happened to.
"""

from __future__ import annotations

import functools
import os
import signal
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from accord import engine
from accord.cli.ranks import ASKED, LOST, OWN, RankEnd, message_of_rank
from accord.engine import team
from accord.engine.checkpoint import checkpoints
from accord.interrupts import Interrupted, Request
from accord.train.run import Run
from tests.trust.commands import SMALL, Command
from tests.trust.disk import Outcome
from tests.trust.forked import Ranks, said
from tests.trust.test_faults import difference

WORDS = ["--model", "IN/base", "--data", "IN/pairs.jsonl", *SMALL, "--max-steps", "4", "--out", "OUT/run"]
SOON = 15.0
"""Seconds in which all have ended: far less than torchrun gives them."""


@pytest.fixture(scope="module")
def command(home: Path, blank_reports: None) -> Command:
    """A run, and what it leaves where nothing happens to its two ranks."""
    made = Command("dpo", home, given=WORDS)
    made.clear()
    ended = Ranks(made.words, home).wait()
    assert [one.status for one in ended] == [0, 0], ended
    made.whole = made.left()
    return made


def at_step(step: int, rank: int, happens: Callable[[], object]) -> Callable[[int], None]:
    """What makes something happen to a rank as it begins the step of a number, counted from 1."""

    def before(this: int) -> None:
        update = engine.Optimizer.update

        @functools.wraps(update)
        def updated(optimizer: engine.Optimizer, at: int, *terms: Any) -> dict[str, float]:
            if (at + 1, this) == (step, rank):
                happens()
            return update(optimizer, at, *terms)

        engine.Optimizer.update = updated  # type: ignore[method-assign]

    return before


def fails(error: BaseException) -> Callable[[], object]:
    def raised() -> None:
        raise error

    return raised


def goes_on(command: Command) -> None:
    """Given again, the command leaves what it does where nothing happens."""
    again = Ranks([*command.words, "--resume"], command.home).wait()
    assert [one.status for one in again] == [0, 0], again
    assert not difference(command, command.left(), "")


def ended(command: Command, before: Callable[[int], object]) -> tuple[list[Outcome], list[str]]:
    """How ranks ended to which something happens, soon, and the sentences that they said."""
    command.clear()
    ranks = Ranks(command.words, command.home, before=before)
    outcomes = ranks.wait()
    assert ranks.seconds < SOON, outcomes
    return outcomes, said(outcomes)


SILENT = "accord: rank {} of 2 ended without a word; the run goes on from its last checkpoint by --resume."
OUT_OF_MEMORY = "DefaultCPUAllocator: not enough memory: you tried to allocate 1 bytes. Error code 12"


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(
    ("rank", "happens", "statuses", "sentence"),
    [
        (1, die, [3, -9], SILENT.format(1)),
        (0, die, [-9, 3], SILENT.format(0)),
        (1, functools.partial(os._exit, 0), [3, 0], SILENT.format(1)),
        (1, functools.partial(os._exit, 7), [3, 7], SILENT.format(1)),
        (1, fails(ValueError("boom")), [1, 1], "accord: ValueError: boom; ACCORD_DEBUG=1 before the command shows wh"),
        (1, fails(RuntimeError(OUT_OF_MEMORY)), [2, 2], "accord: rank 1 of 2, step 3: memory ran out: go on from"),
    ],
    ids=["killed", "leader killed", "left", "left with a status", "exception", "memory"],
)
def test_a_rank_that_dies_ends_all_with_its_reason_and_the_run_goes_on(
    rank: int, happens: Callable[[], object], statuses: list[int], sentence: str, command: Command
) -> None:
    outcomes, sentences = ended(command, at_step(3, rank, happens))
    assert [one.status for one in outcomes] == statuses
    assert len(sentences) == 1 and sentences[0].startswith(sentence), sentences
    assert [c.name for c in checkpoints(command.out / "run" / "checkpoints")] == ["step-0000001", "step-0000002"]
    goes_on(command)


@pytest.mark.parametrize("ranks", [[1], [0, 0, 1, 1]], ids=["one", "all twice"])
def test_a_signal_to_any_rank_saves_and_stops_all(ranks: list[int], command: Command) -> None:
    """Twice, as where a scheduler and torchrun both send it."""

    def before(this: int) -> None:
        for rank in ranks:
            if rank == this:
                at_step(3, this, lambda: os.kill(os.getpid(), signal.SIGTERM))(this)

    outcomes, sentences = ended(command, before)
    assert [one.status for one in outcomes] == [143, 143]
    stopped = "accord: stopped by SIGTERM after step 3 of 4, which is saved; the run goes on with the same command"
    assert len(sentences) == 1 and sentences[0].startswith(stopped), sentences
    assert [c.name for c in checkpoints(command.out / "run" / "checkpoints")][-1] == "step-0000003"
    goes_on(command)


def test_a_rank_that_hangs_is_found_and_what_the_leader_does_alone_may_take_its_time(command: Command) -> None:
    def before(this: int) -> None:
        team.PATIENCE = timedelta(seconds=3)
        log = Run.log

        def slowly(run: Run, step: int, *rest: Any) -> str | None:
            time.sleep(4 if step == 1 else 0)
            return log(run, step, *rest)

        Run.log = slowly  # type: ignore[method-assign]
        at_step(3, 1, signal.pause)(this)

    command.clear()
    ranks = Ranks(command.words, command.home, before=before)
    while not ranks.has_ended[0]:
        time.sleep(0.02)
    ranks.send(signal.SIGKILL, 1)  # what hangs takes no notice of SIGTERM
    outcomes = ranks.wait()
    assert [one.status for one in outcomes] == [3, -9]
    hangs = "accord: rank 1 of 2 gave no sign for 0.05 minutes; the run goes on from its last checkpoint by --resume."
    assert said(outcomes) == [hangs]
    goes_on(command)


def test_a_leader_at_work_alone_ends_when_another_rank_has(command: Command) -> None:
    """It speaks with none, so that it is torchrun's signal by which it learns of it."""

    def before(this: int) -> None:
        log, written = Run.log, Run._log

        def killed(run: Run, step: int, *rest: Any) -> None:
            if this == 1 and step == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            log(run, step, *rest)

        def slowly(run: Run, step: int, *rest: Any) -> str | None:
            time.sleep(120 if step == 2 else 0)
            return written(run, step, *rest)

        Run.log = killed  # type: ignore[method-assign]
        Run._log = slowly  # type: ignore[method-assign]

    outcomes, sentences = ended(command, before)
    assert [one.status for one in outcomes] == [3, -9]
    assert sentences == [SILENT.format(1)]
    goes_on(command)


def test_ranks_with_other_versions_are_refused_on_all(command: Command) -> None:
    def before(this: int) -> None:
        import accord

        accord.__version__ = f"0.{this}.0"

    outcomes, sentences = ended(command, before)
    assert [one.status for one in outcomes] == [2, 2]
    assert sentences == [
        "accord: the ranks differ in what they run: accord is 0.0.0 on rank 0 and 0.1.0 on rank 1; start all with the "
        "same."
    ]
    assert not (command.out / "run").exists()


def test_ranks_with_other_data_are_refused_on_all(command: Command) -> None:
    """Under the same name, as where each machine has a copy of its own."""
    other = command.home / "other"
    other.mkdir()
    (other / "pairs.jsonl").write_text((command.home / "in" / "pairs.jsonl").read_text().replace("hello", "day"))
    words = [word if not word.endswith("/pairs.jsonl") else "pairs.jsonl" for word in command.words]
    command.clear()
    where = [command.home / "in", other]
    outcomes = Ranks(words, command.home, before=lambda rank: os.chdir(where[rank])).wait()
    assert [one.status for one in outcomes] == [2, 2]
    [sentence] = said(outcomes)
    assert sentence.startswith("accord: the ranks differ in the run's inputs: data is ")
    assert not (command.out / "run").exists()


def test_a_second_signal_ends_shared_work_at_once_where_it_is_ctrl_c_or_a_rank_has_gone() -> None:
    request = Request(lambda: True)
    for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGHUP):
        request.note(number, None)
    assert request.number == signal.SIGTERM
    with pytest.raises(Interrupted, match="stopped"):
        request.note(signal.SIGINT, None)
    with pytest.raises(Interrupted, match="stopped by SIGTERM"):
        Request(lambda: False).note(signal.SIGTERM, None)
    alone = Request()
    alone.note(signal.SIGTERM, None)
    with pytest.raises(Interrupted, match="stopped by SIGTERM"):
        alone.note(signal.SIGTERM, None)


WORDS_BY_RANK: list[tuple[dict[int, RankEnd], list[tuple[str, int]]]] = [
    ({0: RankEnd(LOST, 3, "lost 0."), 1: RankEnd(OWN, 2, "why.")}, [("", 2), ("why.", 2)]),
    ({0: RankEnd(OWN, 2, "why."), 1: RankEnd(OWN, 2, "why.")}, [("why.", 2), ("", 2)]),
    ({0: RankEnd(OWN, 2, "why."), 1: RankEnd(OWN, 1, "how.")}, [("why.", 2), ("how.", 1)]),
    ({0: RankEnd(ASKED, 143, "asked; on."), 1: RankEnd(ASKED, 143, "asked; on.")}, [("asked; on.", 143), ("", 143)]),
    ({0: RankEnd(LOST, 3, "lost 0."), 1: RankEnd(ASKED, 143, "asked; on.")}, [("", 143), ("asked; on.", 143)]),
    ({0: RankEnd(LOST, 3, "lost 0."), 1: RankEnd(LOST, 3, "lost 1.")}, [("lost 0.", 3), ("", 3)]),
]


@pytest.mark.parametrize(("words", "expected"), WORDS_BY_RANK)
def test_who_speaks(words: dict[int, RankEnd], expected: list[tuple[str, int]]) -> None:
    assert [message_of_rank(rank, 2, words, "left") for rank in (0, 1)] == expected


def test_ranks_that_said_nothing_are_named() -> None:
    on = "; the run goes on from its last checkpoint by --resume."
    assert message_of_rank(1, 4, {1: RankEnd(LOST, 3, "lost."), 3: RankEnd(LOST, 3, "lost.")}, "left") == (
        f"ranks 0, 2 of 4 left{on}",
        3,
    )
    assert message_of_rank(3, 4, {1: RankEnd(LOST, 3, "lost."), 3: RankEnd(LOST, 3, "lost.")}, "left") == ("", 3)
    assert message_of_rank(0, 2, {0: RankEnd(ASKED, 143, "asked; on.")}, "left") == (
        f"asked, and rank 1 of 2 left{on}",
        143,
    )
