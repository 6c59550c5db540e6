"""One of the assistant's turns of a conversation as a prompt: which it is, and what is said where there is none."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from accord.data.turns import load_turns
from accord.errors import InputError, LeftOut
from accord.records import Message, Preference


def conversation(turns: int) -> dict[str, Any]:
    """Questions 1, 2 ... and answers 1, 2 ... in turn."""
    said = [{"role": role, "content": f"{role} {i}"} for i in range(1, turns + 1) for role in ("user", "assistant")]
    return {"messages": said, "topic": f"of {turns}"}


def before(turn: int) -> tuple[Message, ...]:
    """What such a conversation has before an answer."""
    said = [Message(role, f"{role} {i}") for i in range(1, turn + 1) for role in ("user", "assistant")]  # type: ignore[arg-type]
    return tuple(said[:-1])


@pytest.mark.parametrize(("turn", "places"), [("first", [1, 1]), ("last", [2, 3]), (2, [2, 2]), ("1", [1, 1])])
def test_the_prompt_is_what_was_said_before_the_turn(turn: str | int, places: list[int]) -> None:
    found = load_turns([conversation(2), conversation(3)], turn)
    assert [prompt.prompt for prompt in found] == [before(place) for place in places]
    assert [prompt.columns["turn"] for prompt in found] == places
    assert [prompt.columns["topic"] for prompt in found] == ["of 2", "of 3"]


def test_a_random_turn_is_any_and_the_seed_decides_it_row_by_row() -> None:
    rows = [conversation(3)] * 600
    drawn = [prompt.columns["turn"] for prompt in load_turns(rows, "random", seed=1)]
    assert drawn == [prompt.columns["turn"] for prompt in load_turns(rows, "random", seed=1)]
    assert drawn[300:] == [prompt.columns["turn"] for prompt in load_turns(rows, "random", seed=1, split="train[300:]")]
    assert drawn != [prompt.columns["turn"] for prompt in load_turns(rows, "random", seed=2)]
    # Each of three turns is drawn 200 times of 600, give or take 4.4 standard deviations of 11.5.
    assert all(150 < count < 250 for count in Counter(drawn).values()) and len(set(drawn)) == 3


def test_conversations_in_other_layouts() -> None:
    shared = {"conversations": [{"from": "human", "value": "user 1"}, {"from": "gpt", "value": "assistant 1"}]}
    (found,) = load_turns([shared], "last")
    assert found.prompt == before(1)
    system = {"role": "system", "content": "be brief"}
    rows = [{"prompt": [system, *conversation(2)["messages"][:3]], "completion": conversation(2)["messages"][3:]}]
    (found,) = load_turns(rows, 2)
    assert found.prompt == (Message("system", "be brief"), *before(2))
    (found,) = load_turns([{"prompt": conversation(2)["messages"][:3]}], 1)  # a prompt alone has an answer in it
    assert found.prompt == before(1)


def test_a_turn_that_is_not_there_is_told_with_file_row_and_turns(tmp_path: Path) -> None:
    file = tmp_path / "chats.jsonl"
    file.write_text("".join(json.dumps(conversation(turns)) + "\n" for turns in (3, 1)))
    with pytest.raises(InputError) as told:
        load_turns(str(file), 2)
    has = "there is no turn 2 to answer again: the conversation has 1 turn of the assistant"
    assert str(told.value) == f"{file}, row 2: {has}"
    with pytest.raises(InputError, match=r"^row 1: there is no turn last .* has no turn of the assistant$"):
        load_turns([{"messages": [{"role": "user", "content": "hi"}]}], "last", left_out=LeftOut(strict=True))


@pytest.mark.parametrize("turn", [0, -1, "2nd", "", "1.5"])
def test_what_is_no_turn(turn: str | int) -> None:
    with pytest.raises(InputError, match="--turn must be first, last, random or the number of a turn, from 1, not"):
        load_turns([conversation(2)], turn)


def test_rows_that_are_no_conversations() -> None:
    with pytest.raises(InputError, match="row 1: --turn needs conversations .* a plain text"):
        load_turns([{"prompt": "hi", "completion": "hello"}], "last")
    with pytest.raises(InputError, match="row 1: --turn needs conversations .* a preference"):
        load_turns([Preference("a", "b", "c")], "last")
