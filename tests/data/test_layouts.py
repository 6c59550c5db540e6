"""Other people's layouts: what is asked, what is chosen, and what is refused because it might be lost."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import datasets
import pytest

from accord.data import load_data
from accord.errors import InputError, LeftOut
from accord.records import Demonstration, Labeled, Message, Preference, Prompt, Ranking, Row

HI = Message("user", "hi")


def said(text: str) -> tuple[Message, ...]:
    return (Message("assistant", text),)


LAYOUTS: list[tuple[dict[str, Any], Row]] = [
    (
        {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "yes"}]},
        Demonstration((HI,), said("yes")),
    ),
    (
        {
            "conversations": [{"from": "system", "value": "s"}, {"from": "human", "value": "hi"}],
            "chosen": {"from": "gpt", "value": "a"},
            "rejected": {"from": "gpt", "value": "b"},
        },
        Preference((Message("system", "s"), HI), said("a"), said("b")),
    ),
    (
        {"system": "s", "question": "hi", "chosen": "a", "rejected": "b"},
        Preference((Message("system", "s"), HI), said("a"), said("b")),
    ),
    ({"system": "", "question": "hi", "chosen": "a", "rejected": "b"}, Preference((HI,), said("a"), said("b"))),
    ({"query": "hi", "response": "a"}, Demonstration((HI,), said("a"))),
    (
        {"instruction": "do", "input": "this", "chosen": "a", "rejected": "b"},
        Preference((Message("user", "do\n\nthis"),), said("a"), said("b")),
    ),
    (
        {"instruction": "hi", "history": [["x", "y"]], "output": "a"},
        Demonstration((Message("user", "x"), Message("assistant", "y"), HI), said("a")),
    ),
    (
        {
            "messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "a"}],
            "rejected_response": "b",
        },
        Preference((HI,), said("a"), said("b")),
    ),
    ({"prompt": "hi", "completions": ["a", "b", "c"], "scores": [1, 3, 1]}, Ranking("hi", ("a", "b", "c"), (1, 0, 1))),
    (
        {
            "instruction": "hi",
            "completions": [{"response": "a", "overall_score": 2}, {"response": "b", "overall_score": 5}],
        },
        Ranking((HI,), (said("a"), said("b")), (1, 0)),
    ),
    (
        {"prompt": "hi", "answers": [{"answer": "a", "rank": 2}, {"answer": "b", "rank": 1}]},
        Ranking("hi", ("a", "b"), (1, 0)),
    ),
    ({"prompt": "hi", "response_1": "a", "response_2": "b", "preference_strength": 2}, Preference("hi", "b", "a")),
    ({"prompt": "hi", "response_0": "a", "response_1": "b", "better_response_id": 0}, Preference("hi", "a", "b")),
    ({"prompt": "hi", "response_a": "a", "response_b": "b", "winner": "model_b"}, Preference("hi", "b", "a")),
    ({"prompt": "hi", "chosen": "a", "rejected": "b", "margin": 1.5}, Preference("hi", "a", "b", 1.5)),
    ({"prompt": "hi", "completion": "a", "label": "True"}, Labeled("hi", "a", True)),
    ({"prompt": "hi", "completion": "a", "label": 0.0}, Labeled("hi", "a", False)),
    (
        {"prompt": [{"role": "user", "content": [{"type": "text", "text": text} for text in "hi"]}], "completion": "a"},
        Demonstration((HI,), said("a")),
    ),
]


@pytest.mark.parametrize(("columns", "record"), LAYOUTS, ids=[" ".join(columns) for columns, _ in LAYOUTS])
def test_a_layout_makes_its_record(columns: dict[str, Any], record: Row) -> None:
    assert load_data([columns]) == [record]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"context": "x", "chosen": "a b", "rejected": "a c"},
            "what is asked may be in 'context', beside chosen, rejected",
        ),
        ({"question": "q", "context": "a text", "answer": "a"}, "'context' is a text beside what is asked"),
        ({"prompt": "hi", "completions": ["a", "b"], "scores": [1]}, "needs a number for each of its 2 answers"),
        (
            {"prompt": "hi", "response_1": "a", "response_2": "b", "preference_strength": 0},
            "neither answer is preferred",
        ),
        ({"prompt": "hi", "response_a": "a", "response_b": "b", "winner": "tie"}, "neither answer is preferred"),
        ({"prompt": "hi", "completion": "a", "label": "good"}, "'label' must be true or false"),
        ({"prompt": "hi", "chosen": "a", "rejected": "b", "margin": "far"}, "'margin' must be a number"),
        (
            {"messages": [{"role": "user", "content": "x"}], "rejected_response": "b"},
            "'messages' must end with the answer that is preferred",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            r"has a part of type 'image_url' in its content, where only text is read",
        ),
    ],
)
def test_what_would_be_lost_is_refused(columns: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=f"^row 1: .*{message}"):
        load_data([columns])


def test_a_system_prompt_beside_a_prompt_is_asked() -> None:
    (row,) = load_data([{"system": "s", "prompt": "hi", "answer": "4"}])
    assert row == Prompt((Message("system", "s"), HI), {"answer": "4"})


@pytest.mark.parametrize("dump", [json.dumps, repr])
def test_chats_in_cells_of_text_are_chats(dump: Any, tmp_path: Path) -> None:
    columns = {"prompt": [{"role": "user", "content": "hi"}], "chosen": [{"role": "assistant", "content": "a"}]}
    file = tmp_path / "rows.csv"
    with file.open("w", newline="") as out:
        writer = csv.DictWriter(out, ["prompt", "chosen", "rejected"])
        writer.writeheader()
        writer.writerow({**{name: dump(value) for name, value in columns.items()}, "rejected": "b"})
    assert load_data(file) == [Preference((HI,), said("a"), said("b"))]
    (text,) = load_data([{"prompt": "hi", "completion": '[1, "no message"]'}])
    assert text == Demonstration("hi", '[1, "no message"]')


def test_folders_of_datasets_and_of_shards(tmp_path: Path) -> None:
    rows = datasets.Dataset.from_list([{"prompt": f"p{i}", "chosen": "a", "rejected": "b"} for i in range(6)])
    rows.save_to_disk(str(tmp_path / "saved"))
    datasets.DatasetDict({"train": rows}).save_to_disk(str(tmp_path / "splits"))
    (tmp_path / "hub" / "data").mkdir(parents=True)
    for i in range(2):
        rows.shard(2, i).to_parquet(str(tmp_path / "hub" / "data" / f"train-{i:05d}-of-00002.parquet"))
    expected = [Preference(f"p{i}", "a", "b") for i in range(6)]
    for folder in ("saved", "splits", "hub"):
        assert sorted(load_data(tmp_path / folder), key=str) == expected
    assert load_data(tmp_path / "saved", split="train[-1:]") == expected[-1:]


def test_a_long_cell_is_read(tmp_path: Path) -> None:
    file = tmp_path / "long.csv"
    with file.open("w", newline="") as out:
        csv.writer(out).writerows([["prompt", "completion"], ["word " * 40_000, "yes"]])
    (row,) = load_data(file)
    assert len(str(row.prompt)) == 200_000


def test_bad_rows_are_left_out_with_their_numbers_and_reasons() -> None:
    pairs: list[dict[str, Any]] = [{"prompt": "p", "chosen": f"a{i}", "rejected": f"b{i}"} for i in range(60)]
    pairs[3]["rejected"], pairs[7]["chosen"] = pairs[3]["chosen"], ""
    left_out = LeftOut()
    rows = load_data(pairs, left_out=left_out)
    assert len(rows) == 58 and left_out.numbers[3] == 5
    assert [(reason.row, reason.why) for reason in left_out.reasons] == [
        (4, "'chosen' and 'rejected' are equal, so the row prefers nothing"),
        (8, "'chosen' is empty"),
    ]
    assert left_out.lines()[1] == "1 row left out, as 'chosen' is empty (row 8)"
    left_out.require_few(2 / 60)
    with pytest.raises(InputError, match=r"^row 4: .* \(2 of 60 rows cannot be used, more than the share of 0\.03"):
        left_out.require_few(0.03)
    with pytest.raises(InputError, match="^row 4: 'chosen' and 'rejected' are equal"):
        load_data(pairs, left_out=LeftOut(strict=True))
    with pytest.raises(InputError, match="no other row of the data can be used"):
        load_data([{**pairs[0], "rejected": "a0"}], left_out=LeftOut())
