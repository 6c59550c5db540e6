"""Judgments from every sort of data: what is read of each row, and what is refused."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accord.data.judgments import Judgment, load_judgments
from accord.errors import InputError
from accord.feedback.people import to_ranking
from accord.records import Comparison, Message, Preference, Ranking, Verdict
from tests.data.conftest import REAL_DATA

PAIRWISE = {"prompt": "instruction", "first": "output_1", "second": "output_2", "label": "preference"}
KWAY = {"prompt": "question", "completions": "a, b, c", "label": "preference"}


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def pairwise(label: Any, **more: Any) -> dict[str, Any]:
    return {"instruction": "hi", "output_1": "good", "output_2": "bad", "preference": label, **more}


def test_preferences_and_rankings_become_judgments() -> None:
    assert load_judgments([Preference("hi", "good", "bad")]) == [Judgment("hi", "good", "bad", 1.0, 0)]
    # Ranks 1 0 1: the second beats both others, which tie.
    assert load_judgments([Ranking("hi", ("a", "b", "c"), (1, 0, 1))]) == [
        Judgment("hi", "a", "b", 0.0, 0),
        Judgment("hi", "a", "c", 0.5, 0),
        Judgment("hi", "b", "c", 1.0, 0),
    ]


def test_sources_and_annotators_are_kept(tmp_path: Path) -> None:
    row = {"prompt": "hi", "chosen": "good", "rejected": "bad", "source": "forum", "worker": 7}
    data = write(tmp_path / "rows.jsonl", [row, {**row, "source": None}])
    found = load_judgments(data, columns={"annotator": "worker"})
    assert [(j.source, j.annotator, j.row) for j in found] == [("forum", "7", 0), ("", "7", 1)]


@pytest.mark.parametrize(
    ("label", "read"),
    [
        *((1, 1.0), (2, 0.0), (0, 0.5), ("1", 1.0), ("2", 0.0), ("tie", 0.5), (" TIE ", 0.5), (1.0, 1.0), ("2.0", 0.0)),
        *(("A", 1.0), ("[[B]]", 0.0), ("model_a", 1.0), ("Response 2", 0.0), ("first", 1.0), ("tie (bothbad)", 0.5)),
        *((True, 1.0), (False, 0.0), ("output_2", 0.0), ("A>B", 1.0), ("assistant b", 0.0), ([1], 1.0)),
    ],
)
def test_labels_in_all_their_spellings(label: Any, read: float, tmp_path: Path) -> None:
    data = write(tmp_path / "rows.jsonl", [pairwise(label)])
    assert load_judgments(data, columns=PAIRWISE) == [Judgment("hi", "good", "bad", read, 0)]


@pytest.mark.parametrize("label", [3, -1, 1.5, "third", "", [1, 2], "1.0.0", {"a": 1}])
def test_a_label_that_says_nothing_known_is_refused(label: Any, tmp_path: Path) -> None:
    data = write(tmp_path / "rows.jsonl", [pairwise(1), pairwise(label)])
    with pytest.raises(InputError) as error:
        load_judgments(data, columns=PAIRWISE)
    said = str(error.value)
    assert f"{data}, line 2: 'preference' is {label!r}" in said and "1, A or first if the first is" in said


def test_csv_holds_labels_as_text(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("instruction,output_1,output_2,label\nhi,good,bad,2\nhi,good,bad,Tie\n", encoding="utf-8")
    found = load_judgments(str(path), columns={**PAIRWISE, "label": "label"})
    assert [j.label for j in found] == [0.0, 0.5]


def test_a_list_of_labels_over_all_pairs(tmp_path: Path) -> None:
    # 1 beats 2, 2 beats 3, 3 beats 1: in the order 12 13 23 that is 1 2 1. No ranking agrees, and all three are kept.
    row = {"question": "q", "a": "x", "b": "y", "c": "z", "preference": [1, 2, 1]}
    found = load_judgments(write(tmp_path / "rows.jsonl", [row, row]), columns=KWAY)
    assert [(j.first, j.second, j.label, j.row) for j in found[:3]] == [
        ("x", "y", 1.0, 0),
        ("x", "z", 0.0, 0),
        ("y", "z", 1.0, 0),
    ]
    assert [j.row for j in found] == [0, 0, 0, 1, 1, 1]


def test_several_columns_make_a_prompt(tmp_path: Path) -> None:
    passages = [["Title", "First sentence.", "Second."], ["Other", "Third."]]
    row = {"question": "Why?", "passages": passages, "a": "x", "b": "y", "c": "z", "preference": [0, 0, 0]}
    data = write(tmp_path / "rows.jsonl", [row])
    found = load_judgments(data, columns={**KWAY, "prompt": "passages,question"})
    assert found[0].prompt == "Title First sentence. Second.\n\nOther Third.\n\nWhy?"
    assert load_judgments(data, columns=KWAY)[0].prompt == "Why?"


def test_transcripts_and_chats_keep_their_turns(tmp_path: Path) -> None:
    data = write(tmp_path / "rows.jsonl", [pairwise(1) | {"instruction": "\n\nHuman: hi\n\nAssistant:"}])
    found = load_judgments(data, columns=PAIRWISE)[0]
    assert (found.prompt, found.first) == ((Message("user", "hi"),), (Message("assistant", "good"),))


@pytest.mark.parametrize(
    ("columns", "row", "message"),
    [
        ({**PAIRWISE, "frist": "x"}, pairwise(1), "columns has no role 'frist'; did you mean first?"),
        ({"first": "output_1"}, pairwise(1), "name the columns of two answers as first and second"),
        ({"prompt": "instruction", "label": "preference"}, pairwise(1), "name the columns of two answers as first and"),
        ({**PAIRWISE, "completions": "a,b"}, pairwise(1), "or those of several as completions"),
        ({"completions": "a", "label": "preference"}, pairwise(1), "a comparison needs two completions"),
        ({**PAIRWISE, "second": "output_3"}, pairwise(1), "there is no column 'output_3'; the row has instruction,"),
        ({**PAIRWISE, "source": "from"}, pairwise(1), "there is no column 'from'; the row has"),
        (PAIRWISE, pairwise(1, output_2=" "), "'output_2' is empty"),
        (PAIRWISE, pairwise(None), "the column 'preference' is empty; the row has values in"),
        (KWAY, {"question": "q", "a": "x", "b": "y", "c": "z", "preference": [1, 2]}, "of the pairs 12 13 23"),
        (KWAY, {"question": {"a": 1}, "a": "x", "b": "y", "c": "z", "preference": [1, 2, 0]}, "'question' must be"),
        (None, {"prompt": "hi"}, "holds no comparisons"),
    ],
)
def test_what_cannot_be_read_is_named(columns: Any, row: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        load_judgments(write(tmp_path / "rows.jsonl", [row]), columns=columns)
    assert message in str(error.value)


def test_columns_are_named_for_rows_in_memory_and_by_paths() -> None:
    assert load_judgments([pairwise(1)], columns=PAIRWISE) == [Judgment("hi", "good", "bad", 1.0, 0)]
    row = {"ask": {"text": "hi"}, "answers": [{"said": "good"}, {"said": "bad"}], "by": {"ann": "B"}}
    names = {"prompt": "ask.text", "first": "answers[0].said", "second": "answers[1].said", "label": "by.ann"}
    assert load_judgments([row], columns=names) == [Judgment("hi", "good", "bad", 0.0, 0)]


def test_several_columns_are_annotators_who_may_skip_a_row() -> None:
    rows = [{**pairwise(1), "bob": 2, "cy": None}, {**pairwise(2), "bob": 2, "cy": "tie"}]
    found = load_judgments(rows, columns={**PAIRWISE, "label": "preference, bob, cy"})
    assert [(j.row, j.annotator, j.label) for j in found] == [
        *((0, "preference", 1.0), (0, "bob", 0.0)),
        *((1, "preference", 0.0), (1, "bob", 0.0), (1, "cy", 0.5)),
    ]


def test_the_label_of_a_row_that_may_be_wrong_is_its_probability() -> None:
    pair = {"prompt": "p", "chosen": "x", "rejected": "y"}
    rows = [{**pair, "sure": p} for p in (0.75, 0.25, 0.5, 1)]
    judged = load_judgments(rows, columns={"chosen_probability": "sure"})
    assert [(j.first, j.second, j.label) for j in judged] == [
        ("x", "y", 0.75),
        ("y", "x", 0.75),
        ("x", "y", 0.5),
        ("x", "y", 1),
    ]


def test_groups_are_read_where_they_are_named() -> None:
    usual = [{"prompt": "p", "chosen": "x", "rejected": "y", "annotator": "ann", "group": "red", "team": "blue"}]
    other = [{"prompt": "p", "a": "x", "b": "y", "label": 1, "annotator": "ann", "group": "red", "team": "blue"}]
    for rows, names in ((usual, {}), (other, {"first": "a", "second": "b"})):
        assert [j.group for j in load_judgments(rows, columns=names)] == [""]
        assert [(j.annotator, j.group) for j in load_judgments(rows, columns={**names, "group": "team"})] == [
            ("ann", "blue")
        ]


def test_labels_of_0_and_1_alone_may_mean_two_things() -> None:
    with pytest.raises(InputError, match="the labels are 0 and 1, and 0 may mean a tie or the second answer"):
        load_judgments([pairwise(0), pairwise(1)], columns=PAIRWISE)


def test_ties_of_a_verdict_and_trees_are_judgments() -> None:
    pair = {"prompt": "hi", "response_a": "good", "response_b": "bad"}
    rows = [{**pair, "winner": "tie"}, {**pair, "winner": "model_b"}]
    assert [(j.first, j.label) for j in load_judgments(rows)] == [("good", 0.5), ("bad", 1.0)]
    replies = [{"role": "assistant", "text": text, "rank": rank} for text, rank in (("x", 1), ("y", 0))]
    (judgment,) = load_judgments([{"prompt": {"role": "prompter", "text": "hi", "replies": replies}}])
    assert judgment.label == 0.0 and judgment.prompt == (Message("user", "hi"),)


@given(st.lists(st.sampled_from(["tie", 1, 2]), min_size=1, max_size=6), st.integers(1, 8))
def test_limit_and_split_pick_rows(labels: list[Any], limit: int) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        data = write(Path(folder) / "rows.jsonl", [pairwise(label) for label in labels])
        every = load_judgments(data, columns=PAIRWISE)
        assert load_judgments(data, columns=PAIRWISE, limit=limit) == every[:limit]
        last = load_judgments(data, columns=PAIRWISE, split="train[-1:]")
        assert [j.label for j in last] == [every[-1].label]


def test_the_finegrained_rankings() -> None:
    # The figures its README gives: 500 rows, 2,616 strict judgments, 384 ties, 22 rows that no ranking agrees with.
    path = REAL_DATA / "finegrained_rankings.json.gz"
    if not path.exists():
        pytest.skip("the fine-grained rankings are not here")
    names = ",".join(f"prediction {i}" for i in range(1, 5))
    found = load_judgments(str(path), columns={"prompt": "question", "completions": names, "label": "preference"})
    assert (len(found), sum(j.label == 0.5 for j in found)) == (3000, 384)
    cyclic = 0
    for row in range(500):
        six = found[6 * row : 6 * row + 6]
        texts = [f"prediction {i}" for i in range(1, 5)]  # two predictions of a row may be the same text
        pairs = [Comparison("", texts[a], texts[b]) for a, b in [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]]
        cyclic += to_ranking(pairs, [Verdict(j.label) for j in six]) is None
    assert cyclic == 22
    with gzip.open(path, "rt", encoding="utf-8") as file:
        assert found[0].second == json.load(file)[0]["prediction 2"]
