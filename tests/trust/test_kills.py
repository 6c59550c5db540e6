"""A training killed at whatever it was about, then resumed, is bit for bit the one that nothing happened to.

Every method, and of each every event below, which is found by the calls to the file system. A step, and the measuring
of rows held out, make none: what is on the disk stays the same until the next call, and so they are killed before that.
By default a method an event; `python -m pytest -s -m slow tests/trust/test_kills.py` goes through all of each.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.trust.commands import SMALL, STEPS, TRAININGS, TRAINS, Command
from tests.trust.disk import CHANGES, Event, Plan
from tests.trust.test_faults import SHARE, goes_on, spread, told

RUN = "out/run/"
Where = Callable[[int, Event], bool]


def below(*names: str) -> Where:
    """What changes a file or folder of the run whose name begins so, or what is to be named so."""
    starts = tuple(f"{RUN}{dot}{name}" for name in names for dot in ("", "."))
    return lambda _, event: event.what in CHANGES and event.path.startswith(starts)


def events_of(events: Sequence[Event], held_out: bool) -> dict[str, list[Plan]]:
    """The kills of each event: before a row is written, after each change, and in the middle of each write."""
    first = next(i for i, event in enumerate(events) if event.path.startswith(f"{RUN}checkpoints"))
    last = max(i for i, event in enumerate(events) if event.path == f"{RUN}metrics.jsonl" and event.what == "write")
    row = [i for i, event in enumerate(events) if event == Event("write", f"{RUN}metrics.jsonl")]
    measured = row[:1] if held_out else [i for i, event in enumerate(events) if event.path == "in/measured"]

    def changing(where: Where) -> list[Plan]:
        places = [i for i, event in enumerate(events) if where(i, event)]
        halves = [Plan(i, kill="within") for i in places if events[i].what == "write"]
        return sorted([*halves, *(Plan(i, kill="after") for i in places)], key=lambda plan: plan.at)

    ended = below("model", "SHA256SUMS")
    return {
        "before the first checkpoint": changing(lambda i, event: i < first and below("")(i, event)),
        "a step": [Plan(i, kill=kill) for i in row[1:] for kill in ("before", "within", "after")],
        "the measure": [Plan(i, kill="before") for i in measured],
        "a checkpoint": changing(lambda i, event: i < last and below("checkpoints")(i, event)),
        "best/": changing(below("best")),
        "model/": changing(lambda i, event: i > last and ended(i, event)),
    }


EVENTS = ("before the first checkpoint", "a step", "the measure", "a checkpoint", "best/", "model/")
FEW = ("distill", "online-dpo", "kto", "self-consistency", "preference", "grpo")
"""One for each of the events."""


@pytest.fixture(autouse=True)
def own_measures(blank_reports: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """`measures` is not another folder's, of a test before."""
    monkeypatch.delitem(sys.modules, "measures", raising=False)
    monkeypatch.setattr(sys, "path", [name for name in sys.path if not Path(name, "measures.py").exists()])


def trained(method: str, home: Path) -> tuple[Command, list[Event], dict[str, list[Plan]]]:
    """A run that nothing happens to, its calls, and the kills of each of its events."""
    words = ["--model", "IN/base", *TRAININGS[method], *SMALL, *STEPS, "--out", "OUT/run"]
    command = Command(method, home, lambda: os.chdir(home / "in"), words)
    command.clear()
    ended = command.run(Plan())
    assert ended.status == 0, ended.said
    command.whole = command.left()
    assert {"run/best.json", "run/model/model.safetensors"} <= command.whole.keys()
    found = events_of(ended.events, "--eval-data" in words)
    assert tuple(found) == EVENTS and all(found.values()), {event: len(plans) for event, plans in found.items()}
    return command, ended.events, found


def killed(command: Command, events: Sequence[Event], event: str, plans: Sequence[Plan]) -> list[str]:
    """What is wrong after each kill, and the command given again."""
    wrong = []
    for plan in plans:
        command.clear()
        ended = command.run(plan)
        found = goes_on(command) if ended.status == -9 else f"status {ended.status}: {ended.said[-400:]}"
        if found:
            wrong.append(f"{command.name}, {event}, {told(plan, events)}: {found}")
            print(wrong[-1], flush=True)
    return wrong


@pytest.mark.parametrize(("method", "event"), [*zip(FEW, EVENTS, strict=True)])
def test_a_killed_run_goes_on_as_if_nothing_had_happened(method: str, event: str, home: Path) -> None:
    command, events, found = trained(method, home)
    plans = found[event]
    assert not killed(command, events, event, [plans[len(plans) // 2]])


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.parametrize("method", TRAINS)
def test_every_method_at_every_event(method: str, home: Path) -> None:
    command, events, found = trained(method, home)
    chosen = {event: [plans[i] for i in spread(plans, max(SHARE, 1 / len(plans)))] for event, plans in found.items()}
    wrong = [line for event, plans in chosen.items() for line in killed(command, events, event, plans)]
    counts = ", ".join(f"{event} {len(plans)} of {len(found[event])}" for event, plans in chosen.items())
    print(f"{method}: {len(wrong)} went wrong; killed at {counts}", flush=True)
    assert not wrong, "\n".join(wrong)
