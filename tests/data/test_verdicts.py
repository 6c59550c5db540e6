"""Rankings in other people's layouts: trees of ranked answers, ties, and verdicts on every two of several."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accord.data import load_data, load_prompts
from accord.data.judgments import load_judgments
from accord.data.verdicts import ranks_of_verdicts
from accord.errors import InputError, LeftOut
from accord.records import Demonstration, Message, Preference, Ranking

HI = Message("user", "hi")


def said(text: str) -> tuple[Message, ...]:
    return (Message("assistant", text),)


TREE = [
    {"message_id": "1", "parent_id": None, "text": "hi", "role": "prompter", "rank": None},
    {"message_id": "2", "parent_id": "1", "text": "b", "role": "assistant", "rank": 1.0},
    {"message_id": "3", "parent_id": "1", "text": "a", "role": "assistant", "rank": 0.0},
    {"message_id": "4", "parent_id": "3", "text": "more?", "role": "prompter", "rank": 0.0},
    {"message_id": "5", "parent_id": "4", "text": "yes", "role": "assistant", "rank": 0.0},
    {"message_id": "6", "parent_id": "4", "text": "no", "role": "assistant", "rank": 2.0},
    {"message_id": "7", "parent_id": "4", "text": "gone", "role": "assistant", "rank": 1.0, "deleted": True},
]

FOLLOWED = (HI, Message("assistant", "a"), Message("user", "more?"))

RANKINGS = [
    Ranking((HI,), (said("b"), said("a")), (1, 0)),
    Ranking(FOLLOWED, (said("yes"), said("no")), (0, 1)),
]


def test_messages_that_name_their_parents_are_trees_of_ranked_answers() -> None:
    assert load_data(TREE) == RANKINGS
    assert load_data(TREE[::-1]) == [
        Ranking((HI,), (said("a"), said("b")), (0, 1)),
        Ranking(FOLLOWED, (said("no"), said("yes")), (1, 0)),
    ]
    with pytest.raises(InputError, match="row 1: the message's 'parent_id' is '1', and no row read has that"):
        load_data(TREE[1:])
    nested: dict[str, dict[str, Any]] = {row["message_id"]: {**row, "replies": []} for row in TREE}
    for row in TREE[1:]:
        nested[row["parent_id"]]["replies"].append(nested[row["message_id"]])
    assert load_data([{"message_tree_id": "1", "prompt": nested["1"]}]) == RANKINGS
    left_out = LeftOut()
    assert load_data([{"prompt": nested["1"]}, {"prompt": nested["5"]}], left_out=left_out) == RANKINGS
    assert left_out.lines() == ["1 row left out, as no message of the tree has two ranked answers (row 2)"]
    left_out.require_few(0.0)
    with pytest.raises(InputError, match="no message of the tree has two ranked answers"):
        load_data([TREE[0]], left_out=LeftOut())


def test_ties_are_left_out_and_are_no_fault() -> None:
    pair = {"prompt": "hi", "response_a": "a", "response_b": "b"}
    rows = [{**pair, "winner": winner} for winner in ("model_a", "tie", "both_bad", "model_b")]
    left_out = LeftOut(strict=True)
    assert load_data(rows, left_out=left_out) == [Preference("hi", "a", "b"), Preference("hi", "b", "a")]
    assert [(reason.row, reason.is_bad) for reason in left_out.reasons] == [(2, False), (3, False)]
    left_out.require_few(0.0)
    with pytest.raises(InputError, match="^row 2: neither answer is preferred"):
        load_data(rows)
    assert len(load_prompts(rows)) == 4


def fine_grained(preference: Any) -> dict[str, Any]:
    """A row in the layout of FineGrainedRLHF's preferences: sentences of passages, four predictions, six verdicts."""
    predictions = {f"prediction {i}": text for i, text in enumerate("abcd", start=1)}
    return {"question": "hi?", "passages": [["T", "One."], ["U", "Two."]], **predictions, "preference": preference}


NAMED = {"prompt": "question,passages"}


@pytest.mark.parametrize(
    ("verdicts", "ranks"),
    [
        ([1, 1, 1, 1, 1, 1], (0, 1, 2, 3)),
        ([2, 2, 2, 2, 2, 2], (3, 2, 1, 0)),
        ([0, 0, 0, 0, 0, 0], (0, 0, 0, 0)),
        ([0, 1, 1, 1, 1, 0], (0, 0, 1, 1)),  # 1 = 2 > 3 = 4
        ([2, 0, 2, 1, 0, 2], (1, 0, 1, 0)),  # 2 = 4 > 1 = 3
        ([1, 1, 1, 0, 1, 1], (0, 1, 1, 2)),  # 1 > 2 = 3 > 4
    ],
)
def test_verdicts_on_every_two_answers_are_a_ranking(verdicts: list[int], ranks: tuple[int, ...]) -> None:
    rows = [fine_grained(verdicts)]
    assert load_data(rows, columns=NAMED) == [Ranking("hi?\n\nT One.\n\nU Two.", tuple("abcd"), ranks)]
    expected = [{1: 1.0, 2: 0.0, 0: 0.5}[v] for v in verdicts]
    assert [one.label for one in load_judgments(rows, columns=NAMED)] == expected


def test_verdicts_that_are_no_ranking() -> None:
    """1 > 2 > 3 > 1: left out of training and counted, but judgments all the same, and what is asked about."""
    around = fine_grained([1, 2, 1, 1, 1, 1])
    noted = LeftOut()
    assert len(load_data([around, fine_grained([1] * 6)], columns=NAMED, left_out=noted)) == 1
    assert noted.lines() == [
        "1 row left out, as the verdicts on its answers contradict each other, so they are no ranking (row 1)"
    ]
    with pytest.raises(InputError, match="row 1: the verdicts on its answers contradict each other"):
        load_data([around], columns=NAMED)
    judged = load_judgments([around], columns=NAMED)
    assert [(one.first, one.second, one.label) for one in judged] == [
        ("a", "b", 1.0), ("a", "c", 0.0), ("a", "d", 1.0), ("b", "c", 1.0), ("b", "d", 1.0), ("c", "d", 1.0),
    ]  # fmt: skip


def test_passages_and_verdicts_that_cannot_be_read() -> None:
    with pytest.raises(InputError, match=r"'passages' beside 'question' .* --columns prompt=question,passages"):
        load_data([fine_grained([1] * 6)])
    with pytest.raises(InputError, match="'preference' must have 1, 2 or 0 .a tie. for every pair of answers"):
        load_data([fine_grained([1, 1, 1, 1, 1, 7])], columns=NAMED)


@given(st.lists(st.integers(0, 3), min_size=3, max_size=6))
def test_the_verdicts_of_a_ranking_have_it_back(ranks: list[int]) -> None:
    verdicts = [0.5 + 0.5 * ((i < j) - (i > j)) for i, j in combinations(ranks, 2)]
    assert ranks_of_verdicts(len(ranks), verdicts) == [sorted(set(ranks)).index(rank) for rank in ranks]


def test_scores_weights_and_thoughts_that_are_not_read_are_told() -> None:
    rows = [
        {"prompt": "p", "chosen": "a", "rejected": "b", "score_chosen": s, "score_rejected": 3.0} for s in (4, 3, 2)
    ]
    more = [{**rows[0], "score_chosen": None, "chosen-rating": "2", "rejected-rating": "5"}]
    left_out = LeftOut()
    assert load_data([*rows, *more], left_out=left_out) == [Preference("p", "a", "b")] * 4
    assert left_out.taken == ["3 of 4 rows score 'chosen' no higher than 'rejected', and are read as they are"]
    rows = [{"question": "q", "Complex_CoT": "hm", "answer": "a", "weight": w} for w in (1, 0.5, None)]
    left_out = LeftOut()
    assert load_data(rows, left_out=left_out) == [Demonstration((Message("user", "q"),), said("a"))] * 3
    assert left_out.taken == [
        "1 of 3 rows have another 'weight' than 1, which is not read: all count alike",
        "'Complex_CoT' is not read: if it is the thought before the answer, name it by --columns "
        "reasoning_content=Complex_CoT",
    ]


def test_what_tables_write_where_nothing_is_tied_is_no_tie() -> None:
    """A table has the column in every row; and verdicts of somebody's own are not accord's."""
    rows = [{"prompt": "p", "chosen": "a", "rejected": "b", "tied": tied} for tied in (None, False, "False", "", 1.0)]
    left_out = LeftOut()
    assert load_data(rows, left_out=left_out) == [Preference("p", "a", "b")] * 4
    assert [(reason.row, reason.why) for reason in left_out.reasons] == [
        (5, "neither answer is preferred, so there is nothing to learn from the row")
    ]
    assert load_data([{**rows[0], "verdicts": ["good"]}]) == [Preference("p", "a", "b")]
    with pytest.raises(
        InputError, match="^row 1: 'tied' must be true or false, not 3: leave it out by --columns tied="
    ):
        load_data([{**rows[0], "tied": 3}])


def test_answers_and_thoughts_that_are_not_read_are_told() -> None:
    worse: list[dict[str, Any]] = [{"rejected_completions": ["b", "c"]}, {"rejected_completions": ["a"]}, {}]
    left_out = LeftOut()
    assert load_data([{"prompt": "p", "completion": "a", **more} for more in worse], left_out=left_out) == (
        [Demonstration("p", "a")] * 3
    )
    remedy = "chosen=completion,rejected=rejected_completions"
    assert left_out.taken == [
        "1 of 3 rows have an answer in 'rejected_completions' that is not read: if it is worse than 'completion', name "
        f"both by --columns {remedy}"
    ]
    names = dict(part.split("=") for part in remedy.split(","))
    ranked = load_data([{"prompt": "p", "completion": "a", **worse[0]}], columns=names)
    assert ranked == [Ranking("p", ("a", "b", "c"), (0, 1, 1))]
    left_out, chat = LeftOut(), [{"role": role, "content": role} for role in ("user", "assistant")]
    load_data([{"prompt": "p", "chosen": "a", "rejected": "b", "response": "c"}], left_out=left_out)
    load_data([{"messages": chat, "reasoning": "hm"}], left_out=left_out)
    load_data([{"text": "p", "tools": [{"name": "f"}]}], left_out=left_out)
    assert left_out.taken == [
        "1 of 1 rows have an answer in 'response' that is not read",
        "'reasoning' is not read beside answers of several turns or with a thought of their own: write it into the "
        "message that it belongs to",
        "1 of 1 rows have 'tools' beside a plain text, where no chat template reads it",
    ]


def test_a_system_prompt_of_single_answers_is_told() -> None:
    answers = [
        {"response": "a", "overall_score": 2, "custom_system_prompt": "Be kind."},
        {"response": "b", "overall_score": 1, "custom_system_prompt": None},
    ]
    plain = [{"response": "a", "overall_score": 2}, {"response": "b", "overall_score": 1}]
    left_out = LeftOut()
    rows = load_data([{"prompt": "p", "completions": each} for each in (answers, plain)], left_out=left_out)
    assert rows == [Ranking("p", ("a", "b"), (0, 1))] * 2
    assert left_out.taken == [
        "1 of 2 rows have answers with a 'completions.custom_system_prompt', which is not read: write one that all "
        "answers of a row share as the row's 'system'"
    ]
