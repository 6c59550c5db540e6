"""Two ranks killed at whatever they were about, one or both, then resumed on two: bit for bit the run of two ranks.

Resumed on one rank or on three, what was saved is read bit for bit, and the steps after it are those to rounding.
By default a few kills; `python -m pytest -s -m slow tests/trust/test_ranks_kills.py` makes many, of several methods, at
calls to the file system and at moments drawn by the clock.
"""

from __future__ import annotations

import errno
import os
import random
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from accord import engine
from accord.engine.adapters import own_state
from accord.engine.shard import gathered
from tests.commands.small import read_jsonl
from tests.trust.commands import SAMPLED, SMALL, Command
from tests.trust.disk import Event, Outcome, Plan
from tests.trust.forked import Ranks, said
from tests.trust.test_faults import difference

STEPS = ["--max-steps", "3", "--learning-rate", "1e-3", "--out", "OUT/run"]
METHODS = {
    "dpo": ["--data", "IN/pairs.jsonl"],
    "reward": ["--data", "IN/pairs.jsonl"],
    "grpo": ["--data", "IN/prompts.jsonl", "--reward", "IN/rm", "--group-size", "2", *SAMPLED],
    "ppo": ["--data", "IN/prompts.jsonl", "--reward", "IN/rm", "--group-size", "2", *SAMPLED],
}
pytestmark = pytest.mark.usefixtures("blank_reports")
MANY = int(os.environ.get("ACCORD_KILLS", "40"))
"""Kills of each method in the long test."""


@dataclass
class Whole:
    """A run of two ranks that nothing happens to: the calls of each to the file system, and how long it takes."""

    command: Command
    events: list[list[Event]]
    seconds: float


def whole(method: str, home: Path) -> Whole:
    command = Command(method, home, given=["--model", "IN/base", *METHODS[method], *SMALL, *STEPS])
    command.clear()
    begun = time.monotonic()
    ended = Ranks(command.words, home, plans={0: Plan(), 1: Plan()}).wait()
    assert [one.status for one in ended] == [0, 0], ended
    command.whole = command.left()
    return Whole(command, [one.events for one in ended], time.monotonic() - begun)


def killed_at_a_call(run: Whole, rank: int, plan: Plan, *, all_die: bool) -> list[Outcome]:
    """A rank dies before, in or after a call to the file system, and the other then, or as ranks do that lose one."""
    run.command.clear()
    ranks = Ranks(run.command.words, run.command.home, plans={rank: plan})
    while all_die and not any(ranks.has_ended):
        time.sleep(0.001)
    ranks.send(signal.SIGKILL, *(range(2) if all_die else ()))
    return ranks.wait()


def killed_by_the_clock(run: Whole, ranks_to_kill: list[int], seconds: float) -> list[Outcome]:
    """Ranks die so many seconds after their start."""
    run.command.clear()
    ranks = Ranks(run.command.words, run.command.home)
    time.sleep(seconds)
    ranks.send(signal.SIGKILL, *ranks_to_kill)
    return ranks.wait()


def goes_on(run: Whole) -> str:
    """What is other than it should be after the command was given again, on two ranks."""
    ended = Ranks([*run.command.words, "--resume"], run.command.home).wait()
    if any(one.status for one in ended):
        return f"again: {[(one.status, one.said[-400:]) for one in ended]}"
    return difference(run.command, run.command.left(), "again: ")


def drawn(run: Whole, rng: random.Random) -> tuple[int, Plan, bool]:
    """A rank, a call of its own, and whether all die."""
    rank = rng.randrange(2)
    at = rng.randrange(len(run.events[rank]))
    how = "within" if run.events[rank][at].what == "write" else "after"
    return rank, Plan(at, kill=rng.choice(["before", how])), rng.random() < 0.5


@pytest.fixture(scope="module")
def dpo(home: Path, blank_reports: None) -> Whole:
    return whole("dpo", home)


@pytest.mark.parametrize("seed", range(4))
def test_killed_ranks_go_on_as_if_nothing_had_happened(seed: int, dpo: Whole) -> None:
    rank, plan, all_die = drawn(dpo, random.Random(seed))
    ended = killed_at_a_call(dpo, rank, plan, all_die=all_die)
    assert ended[rank].status == -signal.SIGKILL, ended
    assert not goes_on(dpo)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_cannot_write_its_part_ends_all_with_a_sentence(rank: int, dpo: Whole) -> None:
    events = dpo.events[rank]
    [*_, at] = [
        i for i, e in enumerate(events) if e.what == "write" and e.path.endswith(f"model-{rank + 1}-of-2.safetensors")
    ]
    dpo.command.clear()
    ended = Ranks(dpo.command.words, dpo.command.home, plans={rank: Plan(at, error=errno.EIO)}).wait()
    assert [one.status for one in ended] == [2, 2], ended
    [sentence] = said(ended)
    assert sentence.endswith(f"model-{rank + 1}-of-2.safetensors: Input/output error."), sentence
    left = {path.name for path in (dpo.command.out / "run" / "checkpoints").iterdir()}
    assert left and all(name.startswith("step-") for name in left)  # nothing half-written
    assert not goes_on(dpo)


def in_checkpoint(folder: Path, name: str) -> dict[str, Tensor]:
    """The tensors of a name in a checkpoint, the parts of ranks put together."""
    files = [folder / f"{name}.safetensors"]
    if not files[0].exists():
        files = sorted(folder.glob(f"{name}-*-of-*.safetensors"))
    parts: dict[str, list[Tensor]] = {}
    for file in files:
        for key, tensor in load_file(file).items():
            parts.setdefault(key, []).append(tensor)
    return {key: torch.cat(some) if len(some) > 1 else some[0] for key, some in parts.items()}


def reads_what_was_saved(note: Path) -> None:
    """Have what is read of a checkpoint compared with what is in it, bit for bit; `note` says of how many tensors."""
    load = engine.checkpoint.load

    def held(optimizer: engine.Optimizer) -> Iterator[tuple[str, Mapping[str, Tensor]]]:
        for name, network in optimizer.networks.items():
            yield name, own_state(network)
        named = optimizer.named_parameters().items()
        yield "optimizer", {f"{n}|{k}": v for n, p in named for k, v in optimizer.rule.state[p].items()}

    def loaded(folder: Path, optimizer: engine.Optimizer, saved: Any = None) -> Any:
        result, compared = load(folder, optimizer, saved), 0
        for name, tensors in held(optimizer):
            expected = in_checkpoint(folder, name)
            assert expected.keys() == tensors.keys()
            for key, tensor in tensors.items():
                assert torch.equal(gathered(tensor), expected[key]), key
                compared += 1
        note.write_text(str(compared))
        return result

    engine.checkpoint.load = loaded


@pytest.mark.parametrize("size", [1, 3])
def test_killed_ranks_go_on_in_another_number(size: int, dpo: Whole) -> None:
    command, note = dpo.command, dpo.command.home / "note"
    rows = [i for i, event in enumerate(dpo.events[0]) if event == Event("write", "out/run/metrics.jsonl")]
    killed_at_a_call(dpo, 0, Plan(rows[2], kill="before"), all_die=True)  # after two steps
    note.unlink(missing_ok=True)
    words = [*command.words, "--resume"]
    ended = Ranks(words, command.home, size, before=lambda rank: reads_what_was_saved(note)).wait()
    assert [one.status for one in ended] == [0] * size, ended
    trained = in_checkpoint(command.home / "in" / "base", "model")
    assert int(note.read_text()) == 4 * len(trained)  # weights, two moments, a count
    metrics = read_jsonl(command.out / "run" / "metrics.jsonl")
    for row, expected in zip(metrics, command.whole["run/metrics.jsonl"], strict=True):
        assert {name: row[name] for name in expected} == pytest.approx(expected, rel=1e-4, abs=1e-6)
    model = command.home / "whole.safetensors"
    model.write_bytes(command.whole["run/model/model.safetensors"])
    found, expected = load_file(command.out / "run" / "model" / "model.safetensors"), load_file(model)
    assert max(float((found[name] - expected[name]).abs().max()) for name in expected) < 1e-6


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.parametrize("method", METHODS)
def test_many_kills(method: str, home: Path) -> None:
    run, rng, wrong = whole(method, home), random.Random(method), []
    died = 0
    for number in range(MANY):
        if number % 2:
            rank, plan, all_die = drawn(run, rng)
            ended, how = killed_at_a_call(run, rank, plan, all_die=all_die), f"rank {rank}, {plan}, all {all_die}"
        else:
            which, seconds = rng.choice([[0], [1], [0, 1]]), rng.uniform(0, run.seconds)
            ended, how = killed_by_the_clock(run, which, seconds), f"ranks {which} after {seconds:.2f} s"
        died += any(one.status for one in ended)
        if found := goes_on(run):
            wrong.append(f"{method}, {how}: {found}")
            print(wrong[-1], flush=True)
    print(
        f"{method}: {MANY} kills, {died} before the end, {len(wrong)} went wrong; {run.seconds:.1f} s a run", flush=True
    )
    assert not wrong, "\n".join(wrong)
