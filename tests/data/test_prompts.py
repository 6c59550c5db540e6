"""Prompts with all the other columns of their rows, from rows of every convention."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from accord.data import load_data, load_prompts
from accord.data.conventions import CONVENTIONS, convention_of, kept_columns
from accord.data.encoding import encode_prompts
from accord.data.layouts import standardize
from accord.errors import InputError, LeftOut
from accord.records import Demonstration, Labeled, Message, Preference, Prompt, Ranking
from tests.commands.small import write_jsonl
from tests.data.conftest import DAY, GOOD, HI

HI_CHAT = [{"role": "user", "content": "hi"}]
ASKED = (Message("user", "hi"),)
ROWS: list[tuple[dict[str, Any], Any]] = [
    ({"prompt": "hi", "completions": ["a", "b"], "ranks": [0, 1], "id": 1}, "hi"),
    ({"prompt": "hi", "completion": "a", "label": True, "id": 1}, "hi"),
    ({"prompt": HI_CHAT, "chosen": "a", "rejected": "b", "id": None}, ASKED),
    ({"chosen": "Q: A: x", "rejected": "Q: A: y", "prompt": None}, "Q: A:"),
    ({"prompt": "hi", "completion": "a", "answer": 4}, "hi"),
    ({"messages": [*HI_CHAT, {"role": "assistant", "content": "a"}], "source": "s"}, ASKED),
    ({"prompt": "hi", "answer": "4", "metadata": {"x": [1]}}, "hi"),
    ({"instruction": "hi", "output": "a", "input": ""}, ASKED),
    ({"question": "hi", "answer": "3 + 4 = 7\n#### 7"}, ASKED),
    ({"text": "hello", "meta": {}}, ""),
    ({"input_ids": [1, 2], "meta": {}}, ""),
]


@pytest.mark.parametrize(
    ("context", "longest", "message"),
    [
        (4, 9, "the model's context of 4 tokens; shorten the prompts or lower --max-new-tokens."),
        (4, None, "the model's context of 4 tokens; shorten the prompts or lower --max-new-tokens."),
        (9, 4, "4 tokens; raise --max-length."),
    ],
)
def test_the_limit_that_leaves_no_prompt_is_named(
    tokenizer: PreTrainedTokenizerFast, context: int, longest: int | None, message: str
) -> None:
    prompts = load_prompts([{"prompt": "hi good day"}])
    with pytest.raises(InputError) as error:
        encode_prompts(tokenizer, prompts, room=2, context=context, longest=longest, left_out=LeftOut())
    assert str(error.value) == f"no prompt leaves room for 2 new tokens within {message}"


@pytest.mark.parametrize(("row", "prompt"), ROWS, ids=[" ".join(row) for row, _ in ROWS])
def test_every_convention_s_prompt_keeps_the_other_columns_as_they_are(row: dict[str, Any], prompt: Any) -> None:
    (loaded,) = load_prompts([row])
    assert loaded.prompt == prompt
    assert loaded.columns == {name: value for name, value in row.items() if name != "prompt"}


def test_every_convention_is_tested() -> None:
    assert {convention_of(standardize(row)) for row, _ in ROWS} == set(CONVENTIONS)


def test_records_in_memory_have_the_columns_they_are_written_with() -> None:
    prompt = Prompt("hi", {"answer": 4})
    assert load_prompts([prompt])[0] is prompt
    assert load_prompts([Demonstration("hi", "a")]) == [Prompt("hi", {"completion": "a"})]
    assert load_prompts([Labeled("hi", "a", False)]) == [Prompt("hi", {"completion": "a", "label": False})]
    chosen = {"role": "assistant", "content": "a"}
    pair = Preference(ASKED, (Message("assistant", "a"),), (Message("assistant", "b"),))
    assert load_prompts([pair]) == [Prompt(ASKED, {"chosen": [chosen], "rejected": [chosen | {"content": "b"}]})]
    assert load_prompts([Ranking("hi", ("a", "b"), (1, 0))]) == [
        Prompt("hi", {"completions": ["a", "b"], "ranks": [1, 0]})
    ]


def test_splits_and_limits_are_those_of_load_data(tmp_path: Path) -> None:
    data = write_jsonl(tmp_path / "rows.jsonl", [{"prompt": f"p{i}", "answer": i} for i in range(6)])
    chosen = load_prompts(data, split="train[2:]", limit=2)
    assert [(p.prompt, p.columns["answer"]) for p in chosen] == [("p2", 2), ("p3", 3)]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"question": "q", "answer": ""}], "row 1: 'answer' is empty"),
        ([{"prompt": "p", "chosen": "a"}], "row 1: the columns found are prompt, chosen"),
        ([{"prompt": "p"}, {"question": "q", "answer": "a"}], "row 2: the row has the columns prompt, completion"),
        ([], "the data holds no rows"),
    ],
)
def test_what_load_data_refuses_is_refused(rows: list[dict[str, Any]], message: str) -> None:
    for load in (load_data, load_prompts):
        with pytest.raises(InputError, match=f"^{message}"):
            load(rows)


def test_encoded_prompts_are_the_loaded_ones(tokenizer: PreTrainedTokenizerFast) -> None:
    prompts = load_prompts([{"prompt": "hi good day", "answer": 1}, {"prompt": "hi", "answer": 2}])
    encoded, left_out = encode_prompts(tokenizer, prompts, room=2, context=None)
    assert [(e.prompt, e.tokens, e.row) for e in encoded] == [(prompts[0], (HI, GOOD, DAY), 0), (prompts[1], (HI,), 1)]
    assert left_out == []


@pytest.mark.parametrize(("row", "prompt"), ROWS, ids=[" ".join(row) for row, _ in ROWS])
def test_a_completion_beside_what_is_carried_makes_a_demonstration(row: dict[str, Any], prompt: Any) -> None:
    on = kept_columns(row)
    assert on.items() >= {k: v for k, v in row.items() if k in ("answer", "id", "metadata", "source", "meta")}.items()
    text = "" if prompt == "" else "hi"
    assert load_data([{**on, "prompt": text, "completion": "new"}]) == [Demonstration(text, "new")]


@pytest.mark.parametrize("names", [("chosen_response", "rejected_response"), ("accepted", "rejected")])
def test_answers_that_were_compared_are_not_carried_to_a_new_one(names: tuple[str, str]) -> None:
    (prompt,) = load_prompts([{"prompt": "hi", **dict(zip(names, "ab", strict=True)), "id": 1}])
    on = kept_columns(prompt.columns)
    assert on == {"id": 1}
    assert load_data([{**on, "prompt": "hi", "completion": "new"}]) == [Demonstration("hi", "new")]
