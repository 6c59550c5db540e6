"""Exports of annotation tools, by hand in the forms that their documents and sources give, as rows of each person's."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from accord.data import load_data
from accord.data.judgments import load_judgments
from accord.data.load import open_rows, read_rows
from accord.errors import InputError, LeftOut
from accord.records import Demonstration, Message, Preference, Ranking

ANN, BOB = "c4a7b6ce-63a4-4c05-9ad1-3d2d2a4f1a00", "0b8ba1a2-2f3f-4f1c-bb5f-9a3b7c1f3e11"
FIELDS = {"prompt": "Why?", "response_1": "a", "response_2": "b"}


def record(responses: dict[str, list[Any]], fields: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """A record as `to_json` of Argilla 2 writes it: the values of ann and then of bob."""
    said = {
        question: [{"value": v, "user_id": user} for v, user in zip(values, (ANN, BOB), strict=False)]
        for question, values in responses.items()
    }
    blank = {"metadata": {}, "suggestions": {}, "vectors": {}, "_server_id": None}
    return {"id": "r1", "fields": fields or FIELDS, "responses": said, **blank, **more}


def task(results: list[list[dict[str, Any]]], data: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """A task of Label Studio's JSON export, annotated by the users 7, 8, ..."""
    annotations = [
        {"id": 1001 + i, "completed_by": 7 + i, "result": result, "was_cancelled": False, "lead_time": 4.288, **more}
        for i, result in enumerate(results)
    ]
    return {"id": 1, "data": data or FIELDS, "annotations": annotations, "predictions": [], "project": 83}


def result(kind: str, value: Any, name: str = "q", to_name: str = "prompt") -> dict[str, Any]:
    key = {"pairwise": "selected", "textarea": "text"}.get(kind, kind)
    return {"id": "Dx", "from_name": name, "to_name": to_name, "type": kind, "value": {key: value}}


def told(rows: Any) -> list[Any]:
    """The records of the rows, also of those that teach nothing, and who made them: of a comparison its user."""
    return [
        (replace(found, user=""), found.user)
        if isinstance(found, Preference | Ranking)
        else (found, columns["annotator"])
        for found, columns, _ in read_rows(rows, "train", None, keep=True)
    ]


def test_a_record_of_argilla_is_a_row_for_everybody() -> None:
    rows = [record({"preference": ["response_2", "tie"], "why": ["short"]}, metadata={"source": "forum"})]
    assert [row for _, _, row in open_rows(rows)] == [
        {"id": "r1", "source": "forum", **FIELDS, "preference": "response_2", "why": "short", "annotator": ANN},
        {"id": "r1", "source": "forum", **FIELDS, "preference": "tie", "annotator": BOB},
    ]
    assert told(rows) == [(Preference("Why?", "b", "a"), ANN), (Ranking("Why?", ("a", "b"), (0, 0)), BOB)]
    judged = load_judgments(rows)
    assert [(one.label, one.annotator, one.source) for one in judged] == [(1.0, ANN, "forum"), (0.5, BOB, "forum")]


def test_the_flat_form_says_which_responses_count() -> None:
    flat = {
        "id": "r1", "status": "completed", "_server_id": "x", **FIELDS, "source": "forum",
        "preference.responses": ["response_1", "response_2", "tie"], "preference.responses.users": [ANN, BOB, "third"],
        "preference.responses.status": ["submitted", "draft", "discarded"],
        "preference.suggestion": "response_2", "preference.suggestion.agent": "a model",
        "preference.suggestion.score": 0.9,
    }  # fmt: skip
    assert told([flat]) == [(Preference("Why?", "a", "b"), ANN)]
    ((_, _, row),) = open_rows([flat])
    assert row["source"] == "forum" and not any(".suggestion" in name or ".responses" in name for name in row)


@pytest.mark.parametrize(
    ("value", "ranks"),
    [
        (["response_3", "response_1", "response_2"], (1, 2, 0)),
        ([{"value": f"response_{i}", "rank": rank} for i, rank in ((3, 2), (1, 1), (2, 2))], (0, 1, 1)),
        (["Response 2", "Response 3", "Response 1"], (2, 0, 1)),
    ],
)  # fmt: skip
def test_a_ranking_of_argilla(value: list[Any], ranks: tuple[int, ...]) -> None:
    fields = {**FIELDS, "response_3": "c"}
    assert told([record({"order": [value]}, fields)]) == [(Ranking("Why?", ("a", "b", "c"), ranks), ANN)]


def test_what_is_written_and_what_is_rated() -> None:
    assert told([record({"completion": ["because", "so"]}, {"prompt": "Why?"})]) == [
        (Demonstration("Why?", "because"), ANN), (Demonstration("Why?", "so"), BOB),
    ]  # fmt: skip
    rated = [record({"helpful": [4], "polite": [1]}, {"prompt": "Why?", "response": "a"})]
    ((_, _, row),) = open_rows(rated)
    assert row["ratings"] == {"helpful": 4, "polite": 1} and row["helpful"] == 4
    both = [record({"rating_1": [2], "rating_2": [5]})]
    assert told(both) == [(Preference("Why?", "b", "a"), ANN)]


def test_tasks_of_label_studio() -> None:
    pairwise = [
        [result("pairwise", "left", "pw", "response_1,response_2")],
        [result("pairwise", "right", "pw", "t1,t2")],
    ]
    assert told([task(pairwise)]) == [(Preference("Why?", "a", "b"), "7"), (Preference("Why?", "b", "a"), "8")]
    template = {"prompt": "Why?", "text1": "a", "text2": "b"}  # names of which accord has no layout
    assert told([task([[result("pairwise", "right", "pw", "text1,text2")]], template)]) == [
        (Preference("Why?", "b", "a"), "7")
    ]
    chosen = [[result("choices", ["response_2"], "preference"), result("textarea", ["short", "and dry"], "why")]]
    ((_, _, row),) = open_rows([task(chosen)])
    assert (row["preference"], row["why"], row["seconds"]) == ("response_2", "short\nand dry", 4.288)
    ((_, _, row),) = open_rows([task([[result("rating", 4, "helpful"), result("number", 77, "overall")]])])
    assert row["ratings"] == {"helpful": 4, "overall": 77}
    user = task(chosen, completed_by={"id": 12, "email": "ann@example.com"})
    assert [row["annotator"] for _, _, row in open_rows([user])] == ["12"]


ITEMS = [{"id": "blog", "title": "Blog", "body": "a"}, {"id": "mdn", "body": "b"}, {"id": "wiki", "body": "c"}]


@pytest.mark.parametrize(
    ("ranker", "ranks"),
    [
        (["mdn", "wiki", "blog"], (2, 0, 1)),
        ({"rank_2": ["blog"], "rank_1": ["wiki", "mdn"]}, (1, 0, 0)),
        ({"rank_10": ["mdn"], "rank_9": ["wiki"], "_": ["blog"]}, (2, 1, 0)),
        ({"rank_1": ["mdn"]}, (1, 0, 1)),  # what is left in the list is not exported
    ],
)
def test_a_ranker_of_label_studio(ranker: Any, ranks: tuple[int, ...]) -> None:
    rows = [task([[result("ranker", ranker, "rank", "results")]], {"prompt": "Why?", "items": ITEMS})]
    assert told(rows) == [(Ranking("Why?", ("a", "b", "c"), ranks), "7")]


def test_what_nobody_answered(tmp_path: Path) -> None:
    waiting, skipped = record({}), task([[]], was_cancelled=True)
    for some, none in (
        (record({"preference": ["response_1"]}), waiting),
        (task([[result("pairwise", "left")]]), skipped),
    ):
        noted = LeftOut()
        assert len(load_data([none, some, none], left_out=noted)) == 1
        assert noted.taken == ["2 of 3 items left out, which nobody has answered"]
        bare = {name: value for name, value in none.items() if name == "id"} | FIELDS
        assert [row for _, _, row in open_rows([none])] == [bare]  # what would be asked about
    path = tmp_path / "records.json"
    path.write_text(json.dumps([waiting, record({"preference": ["response_1", "response_2"]})]))
    assert len(load_data(path)) == 2 and len(load_data(path, limit=1)) == 1


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([record({"q": ["x"]}), {"prompt": "?"}], "row 2: the object is not in the annotation tool's format"),
        ([{**record({}), "responses": {"q": ["x"]}}], "row 1: the responses to 'q' must be objects"),
        ([record({"prompt": ["x"]})], "row 1: 'prompt' names both a field of the item and a question: rename one"),
        ([record({"order": [["response_1", "response_2"]]}, {**FIELDS, "response_3": "c"})], "not match: response_3"),
        ([record({name: [["response_1", "response_2"]] for name in "ab"})], "'b' is a second comparison"),
        ([task([[result("labels", ["x"])]])], "row 1: the result of 'q' has type 'labels'; the types"),
        ([task([[result("choices", ["x"]), result("choices", ["y"])]])], "row 1: an annotation has two results for"),
        ([{**task([]), "annotations": [{"completed_by": 1}]}], "must be an object with a result"),
        (
            [task([[result("ranker", {"best": ["mdn"], "ads": ["blog"]})]], {"prompt": "?", "items": ITEMS})],
            "'q' has buckets without an order, best, ads",
        ),
        ([task([[result("ranker", ["mdn", "x"])]], {"prompt": "?", "items": ITEMS})], "not match: blog, wiki, x"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_told(rows: list[Any], message: str) -> None:
    with pytest.raises(InputError, match=message.replace("(", r"\(")):
        load_data(rows)


def test_a_question_of_another_name_is_named() -> None:
    rows = [record({"which": ["response_1"]})]
    assert load_data(rows, columns={"preference": "which"}) == [Preference("Why?", "a", "b", user=ANN)]


def test_a_conversation_of_prism_is_a_ranking_for_every_turn() -> None:
    """Four models open, two answers of the one that was liked best follow; its user is whose the rankings are."""
    answers = (("a", 70, False), ("b", 93, True), ("c", 93, False), ("d", 1, False))
    history = [
        {"turn": 0, "role": "user", "content": "hello"},
        *(
            {"turn": 0, "role": "model", "content": c, "score": s, "if_chosen": chosen, "within_turn_id": i}
            for i, (c, s, chosen) in enumerate(answers)
        ),
        {"turn": 1, "role": "user", "content": "more"},
        {"turn": 1, "role": "model", "content": "e", "score": 40, "if_chosen": True, "within_turn_id": 0},
        {"turn": 1, "role": "model", "content": "f", "score": 30, "if_chosen": False, "within_turn_id": 1},
        {"turn": 2, "role": "user", "content": "bye"},
        {"turn": 2, "role": "model", "content": "g", "score": 50, "if_chosen": True, "within_turn_id": 0},
    ]
    row = {
        "conversation_id": "c0",
        "user_id": "user7",
        "conversation_type": "unguided",
        "conversation_history": history,
    }
    first, second = load_data([row])
    assert isinstance(first, Ranking) and isinstance(second, Ranking)
    assert (first.prompt, first.ranks, first.user) == ((Message("user", "hello"),), (1, 0, 0, 2), "user7")
    said = [(Message("assistant", c),) for c, *_ in answers]
    assert list(first.completions) == said
    assert second.prompt == (Message("user", "hello"), Message("assistant", "b"), Message("user", "more"))
    assert (second.ranks, second.user) == ((0, 1), "user7")
    judged = load_judgments([row])
    assert [(j.annotator, j.row) for j in judged] == [("user7", 0)] * 6 + [("user7", 1)]
    assert [j.label for j in judged] == [0.0, 0.0, 1.0, 0.5, 1.0, 1.0, 1.0]


def test_utterances_of_prism_are_the_same_conversations() -> None:
    """A row an answer, as utterances.jsonl has them; those of two conversations stand mixed and in no order."""
    said = (
        ("c0", 0, "hello", "a", 70, False), ("c1", 0, "one?", "EMPTY STRING", 5, False),
        ("c0", 1, "more", "e", 40, True), ("c0", 0, "hello", "b", 93, True), ("c0", 0, "hello", "c", 93, False),
        ("c1", 0, "one?", "x", 50, True), ("c0", 1, "more", "f", 30, False), ("c0", 0, "hello", "d", 1, False),
    )  # fmt: skip
    rows = [
        {
            "utterance_id": f"ut{i}",
            "interaction_id": f"int-{conversation}-{turn}",
            "conversation_id": conversation,
            "user_id": {"c0": "user7", "c1": "user8"}[conversation],
            "turn": turn,
            "within_turn_id": 0,
            "conversation_type": "unguided",
            "user_prompt": asked,
            "model_response": answer,
            "model_name": "command",
            "score": score,
            "if_chosen": chosen,
        }
        for i, (conversation, turn, asked, answer, score, chosen) in enumerate(said)
    ]
    first, second, other = load_data(rows)
    assert isinstance(first, Ranking) and isinstance(second, Ranking) and isinstance(other, Ranking)
    hello, more = Message("user", "hello"), Message("user", "more")
    assert (first.prompt, first.user, first.ranks) == ((hello,), "user7", (1, 0, 0, 2))
    assert [c[0].content for c in first.completions if not isinstance(c, str)] == ["a", "b", "c", "d"]
    assert second.prompt == (hello, Message("assistant", "b"), more) and second.ranks == (0, 1)
    assert (other.user, other.ranks) == ("user8", (1, 0))
    assert [c[0].content for c in other.completions if not isinstance(c, str)] == ["", "x"]
    assert [(j.annotator, j.row) for j in load_judgments(rows)] == [("user7", 0)] * 6 + [("user7", 1), ("user8", 2)]
    for broken, why in (
        ({**rows[3], "score": "high"}, "'score' must be a number, not 'high'"),
        ({name: value for name, value in rows[3].items() if name != "turn"}, "the row has no 'turn'"),
    ):
        with pytest.raises(InputError, match=f"row 4: .*{why}"):
            load_data([*rows[:3], broken, *rows[4:]])
