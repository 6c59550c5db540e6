"""Other people's layouts: what is asked, what is chosen, and what is refused because it might be lost."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import datasets
import pytest

from accord.data import load_data, load_prompts
from accord.errors import InputError, LeftOut
from accord.records import Demonstration, Labeled, Message, Preference, Prompt, Ranking, Row, Tokenization

HI = Message("user", "hi")


def said(text: str) -> tuple[Message, ...]:
    return (Message("assistant", text),)


U, A, B = ({"role": role, "content": text} for role, text in (("user", "hi"), ("assistant", "a"), ("assistant", "b")))
SYSTEM = Message("system", "s")
TOLD = Demonstration((SYSTEM, HI), said("a"))
PAIR = Preference((HI,), said("a"), said("b"))
RANKED = Ranking((HI,), (said("a"), said("b")), (0, 1))
TOKENS = Tokenization((5, 6, 7), (False, True, False))

A_SAID = said("a")
CALL = {"name": "f", "arguments": {}}
BEGUN = Preference((HI, Message("assistant", "Step 1:")), said("a"), said("b"))

LAYOUTS: list[tuple[dict[str, Any], Row]] = [
    ({"prompt": "hi", "initial_reason_steps": "Step 1:", "chosen": "a", "rejected": "b", "full_chosen": "a c"}, BEGUN),
    (
        {"question": "hi", "answer": "a", "reasoning_content": "so"},
        Demonstration((HI,), (Message("assistant", "a", {"reasoning_content": "so"}),)),
    ),
    (
        {"chosen": [U, A], "rejected": [U, B], "tools": [{"name": "f"}]},
        Preference((Message("user", "hi", {"tools": [{"name": "f"}]}),), said("a"), said("b")),
    ),
    (
        {"messages": [U, A], "functions": [{"name": "f"}]},
        Demonstration((Message("user", "hi", {"tools": [{"type": "function", "function": {"name": "f"}}]}),), A_SAID),
    ),
    (
        {"prompt": "hi", "completion": "a", "tools": [{"name": "f"}]},
        Demonstration((Message("user", "hi", {"tools": [{"name": "f"}]}),), said("a")),
    ),
    ({"messages": {"role": ["user", "assistant"], "content": ["hi", "a"]}}, Demonstration((HI,), said("a"))),
    (
        {"query": "hi", "answers": '[{"name": "f", "arguments": {}}]', "tools": '[{"name": "f"}]'},
        Demonstration(
            (Message("user", "hi", {"tools": [{"name": "f"}]}),),
            (Message("assistant", "", {"tool_calls": [{"type": "function", "function": CALL}]}),),
        ),
    ),
    ({"prompt": "hi", "initial_reason_steps": "", "chosen": "a", "rejected": "b"}, PAIR),
    ({"prompt": "hi", "system": None, "chosen": "a", "rejected": "b"}, PAIR),
    ({"trajectory": [U], "task": "math", "chosen": "a", "rejected": "b"}, PAIR),
    ({"question": "hi", "response_A": "a", "response_B": "b", "label": "A>>B"}, PAIR),
    ({"question": "hi", "response_A": "b", "response_B": "a", "label": "response_A < response_B"}, PAIR),
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
    ({"prompt": "hi", "completion": "a", "label": "Desirable"}, Labeled("hi", "a", True)),
    ({"prompt": "hi", "completion": "a", "label": "\N{THUMBS DOWN SIGN}\U0001f3fd"}, Labeled("hi", "a", False)),
    ({"query": "hi", "response": "a", "label": "undesirable"}, Labeled((HI,), said("a"), False)),
    ({"messages": [U, A], "label": "up"}, Labeled((HI,), said("a"), True)),
    # A system prompt beside a chat opens it, once, wherever the chat is.
    ({"system": "s", "conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "a"}]}, TOLD),
    ({"system_prompt": "s", "messages": [{"role": "system", "content": "s"}, U, A]}, TOLD),
    ({"system": None, "messages": [U, A]}, Demonstration((HI,), said("a"))),
    ({"system": "s", "instruction": "hi", "input": "", "output": "a"}, TOLD),
    ({"system": "s", "chosen": [U, A], "rejected": [U, B]}, Preference((SYSTEM, HI), said("a"), said("b"))),
    ({"system": "s", "messages": [U, A], "rejected_response": "b"}, Preference((SYSTEM, HI), said("a"), said("b"))),
    (
        {"system": "s", "chosen": "\n\nHuman: hi\n\nAssistant: a", "rejected": "\n\nHuman: hi\n\nAssistant: b"},
        Preference((SYSTEM, HI), said("a"), said("b")),
    ),
    # A prompt, or a question, beside a chat that holds it.
    ({"prompt": "hi", "messages": [U, A]}, Demonstration((HI,), said("a"))),
    ({"prompt": "hi", "chosen": [U, A], "rejected": [U, B]}, Preference((HI,), said("a"), said("b"))),
    ({"input": "hi", "output": "a"}, Demonstration((HI,), said("a"))),
    ({"context": [U], "response1": "a", "response2": "b", "overall_preference": -2}, PAIR),
    ({"history": "hi", "human_ref_A": "b", "human_ref_B": "a", "labels": 0}, Preference("hi", "a", "b")),
    (
        {
            "question": {"dataset": "d", "full_text": "hi"},
            "answer_0": "b",
            "answer_1": "a",
            "score_0": -1,
            "score_1": 1,
        },
        PAIR,
    ),
    ({"question": "hi", "answers": [{"text": "a", "pm_score": 3}, {"text": "b", "pm_score": 1}]}, RANKED),
    ({"input": "hi", "generations": ["a", "b"], "rating": [9, 4]}, RANKED),
    ({"question": "hi", "responses": ["a", "b"], "ranks": [0.0, 1.0]}, RANKED),
    (
        {"messages": [U, {"role": "assistant", "content": None, "tool_calls": '[{"name": "f", "arguments": {}}]'}]},
        Demonstration((HI,), (Message("assistant", "", {"tool_calls": [{"type": "function", "function": CALL}]}),)),
    ),
    ({"prompt": "hi", "summaries": [{"text": "b"}, {"text": "a"}], "choice": 1}, Preference("hi", "a", "b")),
    ({"prompt": "hi", "answers": ["b", "a", "c"], "choice": 1}, Ranking("hi", ("b", "a", "c"), (1, 0, 1))),
    (
        {
            "prompt": "hi",
            "response_1": "a",
            "response_2": "b",
            "response_3": "c",
            "score_1": 1,
            "score_2": 5,
            "score_3": 1,
        },
        Ranking("hi", ("a", "b", "c"), (1, 0, 1)),
    ),
    ({"prompt": "hi", "response_1": "b", "response_2": "a", "preferred": "response_2"}, Preference("hi", "a", "b")),
    ({"conversation_a": [U, B], "conversation_b": [U, A], "winner": "model_b"}, PAIR),
    (
        {"prompt": '["hi"]', "response_a": '["a"]', "response_b": '["b"]', "winner_model_a": 1, "winner_model_b": 0}
        | {"winner_tie": 0},
        PAIR,
    ),
    ({"conversation": [{"input": "hi", "output": "a"}]}, Demonstration((HI,), said("a"))),
    (
        {"messages": [{"speaker": "user", "text": "hi"}, {"speaker": "gpt", "text": "a"}]},
        Demonstration((HI,), said("a")),
    ),
    ({"prompt": "hi", "chosen": "a", "rejected": "b", "margin": float("nan")}, Preference("hi", "a", "b")),
    ({"query": "hi", "response": "a", "rejected_response": "b"}, Preference((HI,), said("a"), said("b"))),
    ({"input": "hi", "output": "a", "reasoning": "on"}, Demonstration((HI,), said("a"))),
    ({"input_ids": [5, 6, 7, 0], "labels": [-100, 6, -100, -100], "attention_mask": [1, 1, 1, 0]}, TOKENS),
    ({"input_ids": [5, 6, 7]}, Tokenization((5, 6, 7), (False, True, True))),
    (
        {"prompt": [{"role": "user", "content": [{"type": "text", "text": text} for text in "hi"]}], "completion": "a"},
        Demonstration((HI,), said("a")),
    ),
    ({"system": [{"type": "text", "text": "s"}], "messages": [U, A]}, TOLD),
    ({"instruction": "double", "input": 4, "output": 8}, Demonstration((Message("user", "double\n\n4"),), said("8"))),
    ({"prompt": "hi", "completion": "a", "replies": 3}, Demonstration("hi", "a")),
    (
        {"chosen": json.dumps([U, A]), "rejected": json.dumps([U, B]), "tools": '[{"name": "f"}]'},
        Preference((Message("user", "hi", {"tools": [{"name": "f"}]}),), said("a"), said("b")),
    ),
    (
        {"question": "hi", "answer": "a", "reasoning": [{"type": "summary_text", "text": "so"}]},
        Demonstration((HI,), (Message("assistant", "a", {"reasoning_content": "so"}),)),
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
            "the prompt may be in 'context', beside chosen, rejected",
        ),
        ({"question": "q", "context": "a text", "answer": "a"}, "name both by --columns prompt=context,question, or"),
        ({"system": "s", "messages": [{"role": "system", "content": "t"}, U, A]}, "two different system prompts"),
        ({"prompt": "other", "messages": [U, A]}, "'prompt' beside 'messages' may be"),
        (
            {"prompt": "other", "chosen": [U, A], "rejected": [U, B]},
            "'prompt' beside 'chosen' may be part of the prompt",
        ),
        ({"prompt": "do", "input": "this", "completion": "a"}, "--columns prompt=prompt,input, or leave it out by"),
        ({"instruction": "be brief", "question": "q", "answer": "a"}, "--columns prompt=question,instruction"),
        ({"question": "q", "A": "1", "B": "2", "answer": "B"}, "'A' beside 'question' may be part of"),
        (
            {"prompt": "hi", "response": "a", "is_safe": True},
            "--columns label=is_safe, or leave it out by",
        ),
        ({"messages": [U, A], "kto_tag": True}, "'kto_tag' may say whether 'messages' is a good one"),
        (
            {"question": "q", "response_j": "a", "response_k": "b"},
            "no column says whether response_j or response_k is better",
        ),
        ({"info": {"post": "p"}, "summaries": [{"text": "a"}, {"text": "b"}], "choice": 0}, "columns prompt=info.post"),
        ({"prompt": "hi", "response_a": "a", "response_b": "b", "winner": 1}, "--columns better_response_id=winner"),
        ({"prompt": "hi", "answers": ["a", "b"], "choice": 2}, "'choice' must be the index of one of 2 answers"),
        ({"prompt": "hi", "completions": ["a", "b"], "scores": [float("nan"), 1]}, "needs a number for each of its 2"),
        ({"prompt": {"text": "p", "toxicity": 0.1}}, "name the text in it by --columns prompt=prompt.text"),
        ({"article": "p", "highlights": "s"}, "--columns prompt=article,... names them so"),
        ({"text": [U, A]}, "name it by --columns messages=text"),
        ({"input_ids": [1, 2], "labels": [-100, 3]}, r"labels\[1\] is 3, the token 2"),
        ({"input_ids": [1, 2], "labels": [1, -100]}, "no trained token after the first one"),
        (
            {"input_ids": [1, 2, 3], "attention_mask": [1, 0, 1]},
            "'attention_mask' must be 1 everywhere",
        ),
        ({"input_ids": [1, 2, 3], "labels": [1, 2]}, "'labels' must be a list of 3 numbers"),
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
        ({"prompt": b"q", "chosen": "a", "rejected": "b"}, "list of messages, not of type bytes: write it as text"),
        (
            {"context_messages": [{"role": "user", "content": "q"}], "chosen": "a", "rejected": "b"},
            "the prompt may be in 'context_messages', beside chosen, rejected: name it by --columns prompt=context_mes",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            r"has a part of type 'image_url' in its content, where only text is read",
        ),
        (
            {"system": [{"a": 1}], "messages": [U, A]},
            "'system' must be a text, not of type list: write it as text, or leave it out by --columns system=$",
        ),
        ({"system": "s", "system_prompt": "t", "messages": [U, A]}, "'system_prompt' and 'system' are two diff"),
        (
            {"prompt": "hi", "prefill": {"a": 1}, "chosen": "a", "rejected": "b"},
            "'prefill' must be a text, not of type",
        ),
        (
            {"contents": [{"role": "user", "parts": [{"text": "hi"}]}], "systemInstruction": 5},
            "'systemInstruction' must be a text, not of type int",
        ),
        ({"instruction": "do", "input": {"a": 1}, "output": "a"}, "'input' beside 'instruction' may be part of the"),
        ({"question": "q", "A": 3, "B": 4, "answer": "B"}, "'A' beside 'question' may be part of the prompt"),
        (
            {"instruction": "do", "history": {"a": "x"}, "output": "a"},
            "'history' beside 'instruction' must be a list of turns, not of type dict: leave it out by --columns hist",
        ),
        ({"messages": [U, A], "functions": ["f"]}, "'functions' must be a list of objects that describe functions"),
        ({"messages": 5, "tools": [{"name": "f"}]}, "'messages' must be a string or a list of messages, not of type"),
        (
            {"question": "q", "response_A": 5, "response_B": "b", "label": "A"},
            r"'chosen' must be a string or a list of messages, .* \('chosen' is the row's 'response_A'\)",
        ),
        (
            {"prompt": "hi", "responses": ["a", "b"], "ratings": ["x", 1]},
            "'responses' needs a number for each of its 2 answers in 'ratings', not",
        ),
        ({"question": "q", "answer": "a", "reasoning": ["so"]}, "'reasoning' of type list may be the answer's thought"),
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


def test_chats_that_pandas_printed_without_commas() -> None:
    cell = "[{'content': 'hi', 'role': 'user'}\n {'content': 'SAID', 'role': 'assistant'}]"
    (row,) = load_data([{"chosen": cell.replace("SAID", "a"), "rejected": cell.replace("SAID", "b")}])
    assert row == Preference((Message("user", "hi"),), (Message("assistant", "a"),), (Message("assistant", "b"),))
    with pytest.raises(InputError, match="looks like messages, and is not JSON: write the chat as JSON"):
        load_data([{"text": cell.replace("}", "")}])


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
        (4, "'chosen' and 'rejected' are equal, so the row states no preference"),
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


def test_a_chat_without_an_answer_is_a_prompt_to_sample_from() -> None:
    (prompt,) = load_prompts([{"messages": [U], "answer": "4"}])
    assert prompt.prompt == (HI,) and prompt.columns["answer"] == "4"
