"""A fault at every call to the file system: an error, a kill, a power cut; then the same command gives the same result.

By default a few of them; `python -m pytest -s -m slow tests/trust/test_faults.py` goes through all, and counts them.
"""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from markupsafe import Markup

from tests.commands.small import accord
from tests.trust.commands import WORDS_OF, Command, is_harmless, is_litter
from tests.trust.disk import CHANGES, FAULTS, Event, Plan
from tests.trust.power import Tree

SHARE = float(os.environ.get("ACCORD_FAULTS", "1"))
"""The share of all faults that the long tests go through."""
HUNG = f"status {-signal.SIGALRM}"


@pytest.fixture(params=WORDS_OF)
def command(request: pytest.FixtureRequest, home: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """A command that has done its work in this process, which has imported what it needs.

    Its report has no pictures, which take half of its time and no call to the file system.
    """
    monkeypatch.setattr("accord.report.figures.inline", lambda figure: Markup("<svg></svg>"))
    made = Command(request.param, home)
    made.clear()
    assert accord(*made.words) == 0
    made.whole = made.left()
    return made


def fails(command: Command, plan: Plan) -> str:
    """What is wrong after a call has failed, and the command was given again; nothing, if it went as it should."""
    command.clear()
    ended = command.run(plan)
    said = [line for line in ended.said.splitlines() if line.startswith("accord: ")]
    if ended.status == 0:
        left = {name: value for name, value in command.left().items() if not is_litter(name)}
        return difference(command, left, "it ended well, and ") or goes_on(command)
    if ended.status != 2 or len(said) != 1 or "Traceback" in ended.said:
        return f"status {ended.status}: {ended.said[-400:]}"
    return goes_on(command)


def dies(command: Command, plan: Plan) -> str:
    """The same of a process that is killed."""
    command.clear()
    ended = command.run(plan)
    return goes_on(command) if ended.status in (-9, 0) else f"status {ended.status}: {ended.said[-400:]}"


def goes_on(command: Command) -> str:
    """The same of the command given again."""
    again = command.again()
    if again.status:
        return f"again: status {again.status}: {again.said[-400:]}"
    return difference(command, command.left(), "again: ")


def difference(command: Command, left: dict[str, object], when: str) -> str:
    names = [name for name in {**left, **command.whole} if not is_harmless(name)]
    other = [name for name in names if left.get(name, "") != command.whole.get(name, "")]
    return f"{when}other than it should be: {', '.join(other[:5])}" if other else ""


def spread(all: Sequence[object], share: float) -> list[int]:
    """The places of a share of them, evenly spread."""
    count = round(share * len(all))
    return [int((i + 0.5) * len(all) / count) for i in range(count)]


def errors_at(events: Sequence[Event]) -> list[Plan]:
    return [Plan(i, error) for i, event in enumerate(events) for error, calls in FAULTS.items() if event.what in calls]


def kills_at(events: Sequence[Event]) -> list[Plan]:
    """Before the first call, after each that changes something, and in the middle of each write."""
    changes = [(i, event.what) for i, event in enumerate(events) if event.what in CHANGES]
    after = [
        Plan(i, kill=kill) for i, what in changes for kill in ("within", "after") if kill == "after" or what == "write"
    ]
    return [Plan(0, kill="before"), *after]


def told(plan: Plan, events: Sequence[Event]) -> str:
    how = errno.errorcode[plan.error] if plan.error else f"killed {plan.kill}"
    return f"{plan.at} {' '.join(events[plan.at])}, {how}"


def tried(
    command: Command, plans: Sequence[Plan], events: Sequence[Event], kind: Callable[[Command, Plan], str]
) -> int:
    """How many plans are carried out; fails with those that went wrong."""
    wrong = []
    for plan in plans:
        found = kind(command, plan)
        if HUNG in found:  # or the machine slept: a fault comes again
            found = kind(command, plan)
        if found:
            wrong.append(f"{told(plan, events)}: {found}")
            print(wrong[-1], flush=True)
    print(
        f"{command.name}: {len(events)} calls, {len(plans)} faults ({kind.__name__}), {len(wrong)} went wrong",
        flush=True,
    )
    assert not wrong, "\n".join([f"{len(wrong)} of {len(plans)}", *wrong])
    return len(plans)


def counted(command: Command) -> list[Event]:
    command.clear()
    ended = command.run(Plan())
    assert ended.status == 0 and command.left() == command.whole
    return ended.events


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_any_call_may_fail(command: Command) -> None:
    events = counted(command)
    plans = errors_at(events)
    tried(command, [plans[i] for i in spread(plans, SHARE)], events, fails)


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_any_call_may_be_the_last(command: Command) -> None:
    events = counted(command)
    plans = kills_at(events)
    tried(command, [plans[i] for i in spread(plans, SHARE)], events, dies)


def states_of(command: Command) -> tuple[list[Tree], list[Tree]]:
    """What may be there after a power cut at each call, each once; and after the last."""
    command.clear()
    ended = command.run(Plan(cut=command.out))
    assert ended.status == 0
    states: list[Tree] = []
    for tree in ended.cuts:
        if tree not in states:
            states.append(tree)
    return states, ended.cuts[-3:]


def cut(command: Command, states: Sequence[Tree], ends: Sequence[Tree]) -> None:
    """The command goes on from each state, and from its end on there is all of its result."""
    wrong = []
    for state in states:
        command.clear(state)
        found = goes_on(command)
        if HUNG in found:
            command.clear(state)
            found = goes_on(command)
        if found:
            wrong.append(f"{found}; there was {sorted(state)}")
            print(wrong[-1], flush=True)
    for kind, tree in zip(("nothing", "no content", "zeros"), ends, strict=True):
        command.clear(tree)
        if found := difference(command, command.left(), f"after its end, where {kind} that is unsynced is kept: "):
            wrong.append(found)
    print(f"{command.name}: {len(states)} power cuts, {len(wrong)} went wrong", flush=True)
    assert not wrong, "\n".join([f"{len(wrong)} of {len(states)}", *wrong])


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_the_power_may_go_at_any_call(command: Command) -> None:
    states, ends = states_of(command)
    cut(command, [states[i] for i in spread(states, SHARE)], ends)


@pytest.mark.parametrize("command", ["sft", "label"], indirect=True)
def test_a_few_faults(command: Command) -> None:
    """Of each kind two, spread over the run."""
    events = counted(command)
    for kind, plans in ((fails, errors_at(events)), (dies, kills_at(events))):
        tried(command, [plans[i] for i in spread(plans, 2 / len(plans))], events, kind)
    states, ends = states_of(command)
    cut(command, [states[i] for i in spread(states, 2 / len(states))], ends)
