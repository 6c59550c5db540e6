"""What published data sets call the columns of the conventions, each as its card or its tool's manual has it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pytest

from accord.data import load_data, load_prompts
from accord.errors import InputError
from accord.records import Demonstration, Message, Preference, Prompt, Ranking, Row

HI = Message("user", "hi")
U, A, B = ({"role": role, "content": text} for role, text in (("user", "hi"), ("assistant", "a"), ("assistant", "b")))


def said(text: str) -> tuple[Message, ...]:
    return (Message("assistant", text),)


GOLD: dict[str, Any] = {"question": "hi", "ground_truth": "4"}
SEVERAL: dict[str, Any] = {"query": "hi", "answer": ["a"]}
PAIR = Preference((HI,), said("a"), said("b"))
PLAIN = Preference("hi", "a", "b")
TOLD = Demonstration((HI,), said("a"))

PUBLISHED: dict[str, tuple[dict[str, Any], Row]] = {
    "UltraChat 200k, No Robots": ({"prompt": "hi", "prompt_id": "x", "messages": [U, A]}, TOLD),
    "LIMA": ({"conversations": ["hi", "a"], "source": "s"}, TOLD),
    "LIMA, several turns": (
        {"conversations": ["hi", "a", "so?", "b"]},
        Demonstration((HI,), (*said("a"), Message("user", "so?"), *said("b"))),
    ),
    "Dolly": (
        {"instruction": "do", "context": "this", "response": "a", "category": "closed_qa"},
        Demonstration((Message("user", "do\n\nthis"),), said("a")),
    ),
    "Dolly without context": ({"instruction": "hi", "context": "", "response": "a"}, TOLD),
    "OpenAI's preferences": (
        {
            "input": {"messages": [U], "tools": [], "parallel_tool_calls": True},
            "preferred_output": [A],
            "non_preferred_output": [B],
        },
        PAIR,
    ),
    "ms-swift": ({"messages": [U, A], "rejected_messages": [U, B]}, PAIR),
    "LIMO": ({"question": "hi", "solution": "a", "answer": "4"}, TOLD),
    "a question and its solution": ({"question": "hi", "solution": "a"}, TOLD),
    "Gemini's": (
        {"contents": [{"role": "user", "parts": [{"text": "hi"}]}, {"role": "model", "parts": [{"text": "a"}]}]},
        TOLD,
    ),
    "Gemini's with a system instruction": (
        {
            "systemInstruction": {"role": "system", "parts": [{"text": "be"}]},
            "contents": [
                {"role": "user", "parts": [{"text": "h"}, {"text": "i"}]},
                {"role": "model", "parts": [{"text": "a"}]},
            ],
        },
        Demonstration((Message("system", "be"), HI), said("a")),
    ),
    "Cohere's roles": ({"messages": [{"role": "User", "content": "hi"}, {"role": "Chatbot", "content": "a"}]}, TOLD),
    "ratings in a CSV file": (
        {"prompt": "hi", "response_a": "b", "response_b": "a", "rating_a": "2", "rating_b": "4.5"},
        PLAIN,
    ),
    "UltraFeedback's ratings": (
        {"prompt": "hi", "responses": ["a", "b"], "ratings": ["5", "3"]},
        Ranking("hi", ("a", "b"), (0, 1)),
    ),
    "the winner by its name": (
        {"prompt": "hi", "model_a": "X-1", "model_b": "y", "response_a": "b", "response_b": "a", "winner": "y"},
        PLAIN,
    ),
    "one chosen and several rejected": (
        {"prompt": "hi", "chosen": "a", "rejected": ["b", "c"]},
        Ranking("hi", ("a", "b", "c"), (0, 1, 1)),
    ),
    "several rejected chats": (
        {"prompt": [U], "chosen": [A], "rejected": [[B], [{"role": "assistant", "content": "c"}]]},
        Ranking((HI,), (said("a"), said("b"), said("c")), (0, 1, 1)),
    ),
    "several rejected under another name": (
        {"prompt": "hi", "chosen": "a", "rejected_responses": ["b", "c"]},
        Ranking("hi", ("a", "b", "c"), (0, 1, 1)),
    ),
    "RewardBench 2": (
        {"prompt": "hi", "chosen": ["a"], "rejected": ["b", "c"], "num_correct": 1},
        Ranking("hi", ("a", "b", "c"), (0, 1, 1)),
    ),
    "responses": ({"prompt": "hi", "chosen_response": "a", "rejected_response": "b", "chosen_model": "m"}, PLAIN),
    "responses, turned around": ({"prompt": "hi", "response_rejected": "b", "response_chosen": "a"}, PLAIN),
    "whole dialogues first": (
        {"chosen_response": "a", "rejected_response": "b", "chosen_messages": [U, A], "rejected_messages": [U, B]},
        PAIR,
    ),
    "accepted": ({"prompt": "hi", "accepted": "a", "rejected": "b"}, PLAIN),
    "preferred": ({"prompt": "hi", "preferred": "a", "dispreferred": "b"}, PLAIN),
    "better": ({"question": "hi", "better_answer": "a", "worse_answer": "b"}, PAIR),
    "NuminaMath": ({"problem": "hi", "solution": "a", "answer": "4", "source": "s"}, TOLD),
    "DeepScaleR without a solution": ({"problem": "hi", "solution": "", "answer": "a"}, TOLD),
    "OpenMathInstruct": ({"problem": "hi", "generated_solution": "a", "expected_answer": "4"}, TOLD),
    "Aya, FLAN": ({"inputs": "hi", "targets": "a", "task": "t"}, TOLD),
    "medical o1": ({"Question": "hi", "Complex_CoT": "so", "Response": "a"}, TOLD),
    "AIME": ({"ID": "1", "Problem": "hi", "Solution": "a", "Answer": 4}, TOLD),
    "capitals": ({"Prompt": "hi", "Chosen": "a", "Rejected": "b"}, PLAIN),
    "objects of messages": ({"chosen": {"messages": [U, A]}, "rejected": {"messages": [U, B]}}, PAIR),
    "a number": ({"question": "hi", "answer": 4}, Demonstration((HI,), said("4"))),
    "a question alone": (
        {"question": "hi", "ground_truth": "4"},
        Prompt((HI,), {"question": "hi", "ground_truth": "4"}),
    ),
    "several right answers": ({"query": "hi", "answer": ["a"]}, Prompt((HI,), {"query": "hi", "answer": ["a"]})),
    "no film": ({"messages": [U, A], "images": [], "video": None, "audios": [""]}, TOLD),
    "verdicts stand": ({"prompt": "hi", "response_a": "a", "response_b": "b", "preferred": "response_a"}, PLAIN),
    "scores of both stand": (
        {"prompt": "hi", "completions": ["a", "b"], "scores": [2, 1], "chosen_score": 2, "rejected_score": 1},
        Ranking("hi", ("a", "b"), (0, 1)),
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_layout_makes_its_record(name: str) -> None:
    columns, record = PUBLISHED[name]
    assert load_data([columns]) == [record]


def test_what_a_problem_is_made_of_stays_for_verifiers() -> None:
    (prompt,) = load_prompts([{"problem": "hi", "solution": "a", "answer": "4"}])
    assert prompt.prompt == (HI,)
    assert (prompt.columns["problem"], prompt.columns["solution"], prompt.columns["answer"]) == ("hi", "a", "4")
    assert "completion" not in prompt.columns


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"messages": [{"role": "user", "content": "<image>hi"}, A], "images": ["x.png"]},
            "'images' is part of the prompt, and only text is read: .* --columns images=",
        ),
        ({"question": "hi", "chosen": "a", "rejected": "b", "image": {"bytes": b"x"}}, "'image' is part of the prompt"),
        (
            {"prompt": "what is 2 + 2?", "chosen": "what is 2 + 2? 4", "rejected": "what is 2 + 2? 5"},
            "'chosen' and 'rejected' begin with the whole prompt, .* --columns prompt=",
        ),
        (
            {"question": "which?", "choices": ["a", "b"], "answer": 1},
            "'choices' beside 'question' may be part of the prompt",
        ),
        (
            {"info": {"id": "x", "post": "p"}, "summaries": [{"text": "a"}, {"text": "b"}], "choice": 0},
            "--columns prompt=info.post",
        ),
    ],
)
def test_what_would_be_lost_or_doubled_is_refused(columns: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=f"^row 1: .*{message}"):
        load_data([columns])


def test_the_remedies_that_are_named_help() -> None:
    doubled = {"prompt": "what is 2 + 2?", "chosen": "what is 2 + 2? 4", "rejected": "what is 2 + 2? 5"}
    assert load_data([doubled], columns={"prompt": ""}) == [Preference("what is 2 + 2?", " 4", " 5")]
    seen = {"messages": [U, A], "image": "cat.png"}
    assert load_data([seen], columns={"image": ""}) == [TOLD]
    assert load_data([{"prompt": "good day", "chosen": "good day you", "rejected": "good day!"}])


def test_turns_with_a_loss_and_notes_on_messages() -> None:
    first = {"role": "assistant", "content": "a", "loss": False}
    (row,) = load_data([{"messages": [U, first, {"role": "user", "content": "so?"}, {**B, "loss": 1.0}]}])
    assert isinstance(row, Demonstration)
    assert [turn.is_trained for turn in row.completion if isinstance(turn, Message)] == [False, True, True]


def files(folder: Path, **splits: int) -> Path:
    (folder / "data").mkdir(parents=True)
    for name, count in splits.items():
        rows = [{"prompt": f"{name} {i}", "completion": "a"} for i in range(count)]
        datasets.Dataset.from_list(rows).to_parquet(str(folder / "data" / f"{name}-00000-of-00001.parquet"))
    (folder / "README.md").write_text("a card")
    return folder


def test_splits_of_a_folder(tmp_path: Path) -> None:
    folder = files(tmp_path / "several", train_sft=2, train_prefs=3, test_prefs=1)
    assert len(load_data(folder, split="train_prefs")) == 3
    (last,) = load_data(folder, split="train_prefs[-1:]")
    assert isinstance(last, Demonstration) and last.prompt == "train_prefs 2"
    with pytest.raises(InputError, match=r"has no split train: .* --split: test_prefs, train_prefs, train_sft$"):
        load_data(folder)
    folder = files(tmp_path / "usual", train=2, test=1)
    assert len(load_data(folder)) == 2 and len(load_data(folder, split="test")) == 1
    rows = datasets.Dataset.from_list([{"prompt": "p", "completion": "a"}])
    datasets.DatasetDict({"train": rows, "test": rows}).save_to_disk(str(tmp_path / "saved"))
    assert len(load_data(tmp_path / "saved", split="test[:1]")) == 1
    with pytest.raises(InputError, match=r"holds the splits train, test, and no dev: name one of them by --split$"):
        load_data(tmp_path / "saved", split="dev")


def test_cells_between_semicolons(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_bytes(b'\xef\xbb\xbfprompt;completion\r\n"a;\nb";"c, d"\r\n')
    assert load_data(file) == [Demonstration("a;\nb", "c, d")]


def test_tables_in_memory() -> None:
    """As pandas has them, whose cells of lists are arrays where they were read of Parquet."""
    pandas, numpy = pytest.importorskip("pandas"), pytest.importorskip("numpy")
    chat = numpy.array([U, A], dtype=object)
    assert load_data(pandas.DataFrame([{"messages": chat, "n": 1.5}])) == [TOLD]
    assert load_data(pandas.DataFrame([{"prompt": "hi", "chosen": "a", "rejected": "b", "margin": None}])) == [PLAIN]
    rows = datasets.Dataset.from_list([{"prompt": "p", "completion": "a"}])
    with pytest.raises(InputError, match=r"has the splits train, test: give one of them, as data\['train'\]"):
        load_data(datasets.DatasetDict({"train": rows, "test": rows}))
