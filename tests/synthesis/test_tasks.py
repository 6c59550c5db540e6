"""Seeds in the layouts that there are, and rows that are no task."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from accord.errors import InputError
from accord.synthesis.tasks import Candidate, Instance, Task, load_answers, load_seeds
from tests.commands.small import write_jsonl

USER, SAID = {"role": "user", "content": "Add 2 and 2"}, {"role": "assistant", "content": "4"}
ADD = Task("Add 2 and 2", (Instance("", "4"),))


@pytest.mark.parametrize(
    ("row", "task"),
    [
        (
            {"instruction": "Add", "instances": [{"input": "1, 2", "output": "3"}], "is_classification": False},
            Task("Add", (Instance("1, 2", "3"),), False),
        ),
        ({"instruction": "Add", "input": "1, 2", "output": "3"}, Task("Add", (Instance("1, 2", "3"),))),
        ({"instruction": " Add "}, Task("Add")),
        ({"prompt": "Add 2 and 2"}, Task("Add 2 and 2")),
        ({"prompt": "Add 2 and 2", "completion": "4"}, ADD),
        ({"messages": [USER, SAID]}, ADD),
        ({"question": "Add 2 and 2", "answer": "4"}, ADD),
    ],
)
def test_layouts(tmp_path: Path, row: dict[str, Any], task: Task) -> None:
    assert load_seeds(write_jsonl(tmp_path / "seeds.jsonl", [row])) == [task]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"instruction": " "}, "line 2: 'instruction' is empty"),
        ({"instruction": "Add", "instances": "2"}, "line 2: 'instances' must be a list"),
        ({"instruction": "Add", "instances": [{"input": "2"}]}, r"line 2: instances\[0\] must be an object"),
        ({"instruction": "Add", "instances": [{"output": 3}]}, r"line 2: instances\[0\] must be an object"),
        ({"instruction": "Add", "is_classification": "no"}, "line 2: 'is_classification' must be true or false"),
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, "line 2: a seed is a prompt or a demonstration"),
        ({"messages": [USER, SAID, USER, SAID]}, "line 2: the completion has 3 turns"),
        ({"text": "a story"}, "line 2: the row has no prompt"),
        ({"a": 1}, "line 2: .*the columns found are a"),
    ],
)
def test_rows_that_are_no_task(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    path = write_jsonl(tmp_path / "seeds.jsonl", [{"instruction": "Add"}, row])
    with pytest.raises(InputError, match=message):
        load_seeds(path)


def test_answers(tmp_path: Path) -> None:
    assert load_answers(write_jsonl(tmp_path / "a.jsonl", [{"text": "one"}, {"text": "two"}])) == ["one", "two"]
    assert load_answers(write_jsonl(tmp_path / "b.jsonl", [{"messages": [USER, SAID]}])) == ["4"]
    with pytest.raises(InputError, match="row 1: an answer is a text"):
        load_answers(write_jsonl(tmp_path / "c.jsonl", [{"prompt": "one"}]))


def test_a_candidate_comes_back_as_it_was_written() -> None:
    instance = Instance("naïve", "“yes”")
    one = Candidate("Add", "deepen: it", True, [instance], "echo", 0.1 + 0.2, [("echo", instance)])
    assert Candidate.from_json(json.loads(json.dumps(one.to_json()))) == one
