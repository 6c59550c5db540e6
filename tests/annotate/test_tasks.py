"""Tasks: rows become items, forms become answers, answers become rows that accord reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from accord.annotate.database import Annotator
from accord.annotate.items import read_items
from accord.annotate.pages import changed_keys
from accord.annotate.tasks import TASKS, task_named
from accord.annotate.tasks.base import Incomplete
from accord.data import load_data
from accord.errors import InputError
from accord.records import Demonstration, Labeled, Message, Preference, Prompt, Ranking

SAMPLES = [{"prompt": "hi", "completion": text, "stop": "end"} for text in ("a", "b", "a", "")]


def items(task: str, data: Any, *, gold: bool = False, **settings: Any) -> list[Any]:
    """The contents of the items that rows make."""
    kind = task_named(task)
    made, _ = read_items(data, kind, gold=gold, columns=None, settings=settings)
    return [kind.content.model_validate(item.content) for _, item in made]


def rows(task: str, data: Any, form: Mapping[str, Any], shown: tuple[int, ...] = (), **settings: Any) -> list[Any]:
    """The rows of the answer that a form gives to the first item; the form is filled in again from the answer."""
    kind = task_named(task)
    content = items(task, data, **settings)[0]
    answer = kind.read(form, content, shown)
    filled = kind.fill(answer.model_dump(mode="json"), shown)
    assert {name: value for name, value in filled.items() if value} == {k: v for k, v in form.items() if v}
    return kind.rows(content, kind.answer.model_validate(answer.model_dump(mode="json")))


def test_samples_of_a_prompt_are_compared_two_by_two() -> None:
    assert [item.answers for item in items("compare", SAMPLES)] == [["a", "b"], ["a", ""], ["b", "a"], ["b", ""]]
    assert [item.answers for item in items("rank", SAMPLES)] == [["a", "b", ""]]


@pytest.mark.parametrize(
    ("choice", "shown", "expected"),
    [
        ("first-much", (0, 1), {"chosen": "good", "rejected": "bad", "strength": "much"}),
        ("first-slightly", (1, 0), {"chosen": "bad", "rejected": "good", "strength": "slightly"}),
        ("second-much", (1, 0), {"chosen": "good", "rejected": "bad", "strength": "much"}),
        ("tie", (1, 0), {"chosen": "good", "rejected": "bad", "tied": True, "strength": "tie"}),
        ("both-bad", (0, 1), {"chosen": "good", "rejected": "bad", "tied": True, "strength": "both bad"}),
    ],
)
def test_a_comparison(choice: str, shown: tuple[int, int], expected: dict[str, Any]) -> None:
    pair = [{"prompt": "hi", "chosen": "good", "rejected": "bad"}]
    made = rows("compare", pair, {"choice": choice, "comment": "so"}, shown)
    assert made == [{"prompt": "hi", **expected}]
    if "tied" not in expected:
        assert load_data(made) == [Preference("hi", expected["chosen"], expected["rejected"])]


def test_a_ranking_with_a_tie_and_one_left_out() -> None:
    ranked = [{"prompt": "hi", "completions": ["w", "x", "y", "z"], "ranks": [0, 1, 2, 3]}]
    # Shown as z, y, x, w: z and x share the first place, w is next, y is left out.
    kind = TASKS["rank"]
    content = items("rank", ranked)[0]
    answer = kind.read({"rank-0": "1", "rank-1": "", "rank-2": "1", "rank-3": "3"}, content, (3, 2, 1, 0))
    made = kind.rows(content, answer)
    assert (made[0]["ranks"], made[0]["ranked"], made[0]["none_will_do"]) == ([1, 0, 2, 0], 3, False)
    assert load_data(made) == [Ranking("hi", ("w", "x", "y", "z"), (1, 0, 2, 0))]
    none = rows("rank", ranked, {"rank-1": "1", "choice": ""}, (0, 1, 2, 3))
    assert none[0]["ranks"] == [1, 0, 1, 1]
    bad = kind.read({"choice": "none"}, content, (0, 1, 2, 3))
    assert kind.rows(content, bad)[0]["none_will_do"] and kind.rows(content, bad)[0]["ranks"] == [0, 0, 0, 0]


def test_ratings_on_scales() -> None:
    scales = ["helpful:1-5", "overall:1-100"]
    made = rows("rate", SAMPLES, {"scale-0": "4", "scale-1": "71"}, scales=scales)
    assert made == [{"prompt": "hi", "completion": "a", "label": True, "ratings": {"helpful": 4, "overall": 71}}]
    assert load_data(made) == [Labeled("hi", "a", True)]
    assert rows("rate", SAMPLES, {"scale-0": "3", "scale-1": "1"}, scales=scales)[0]["label"] is False  # the middle
    with pytest.raises(Incomplete, match="Choose a number from 1 to 100 for “overall”"):
        rows("rate", SAMPLES, {"scale-0": "4", "scale-1": "101"}, scales=scales)
    assert len(items("rate", SAMPLES)) == 3  # the same answer once
    for wrong in ("helpful", "helpful:5-1", "a:1-5 b:1-5"):
        with pytest.raises(InputError, match="--scales are written as name:low-high"):
            items("rate", SAMPLES, scales=wrong.split(" ") if " " not in wrong else wrong)


def test_texts_that_people_write() -> None:
    chat = [{"prompt": [{"role": "user", "content": "hi"}]}]
    made = rows("write", chat, {"text": "  hello\r\nyou "}.copy() | {"text": "hello\nyou"})
    assert load_data(made) == [Demonstration((Message("user", "hi"),), (Message("assistant", "hello\nyou"),))]
    assert items("write", SAMPLES[:1])[0].suggestion == "a"
    assert load_data(rows("plain", 2, {"prompt": "Sing."})) == [Prompt("Sing.")]
    assert load_data(rows("plain", 2, {"prompt": "Sing.", "response": "La."})) == [Demonstration("Sing.", "La.")]
    case = [{"use_case": "a choir"}]
    assert rows("use-case", case, {"prompt": "Sing."}) == [{"prompt": "Sing.", "use_case": "a choir"}]
    shots = {"instruction": "Add.", "query-0": "1+1", "response-0": "2", "query-1": "2+2", "response-1": "4"}
    assert load_data(rows("few-shot", 1, shots)) == [
        Demonstration("Add.\n\n2+2\n4\n\n1+1", "2"),
        Demonstration("Add.\n\n1+1\n2\n\n2+2", "4"),
    ]
    with pytest.raises(Incomplete, match="at least two queries"):
        rows("few-shot", 1, {"instruction": "Add.", "query-0": "1+1"})


def test_an_edit_is_preferred_to_its_original() -> None:
    made = rows("edit", SAMPLES, {"critique": "short", "edit": "a longer a"})
    assert load_data(made) == [Preference("hi", "a longer a", "a")] and made[0]["critique"] == "short"
    with pytest.raises(Incomplete, match="The answer is unchanged"):
        rows("edit", SAMPLES, {"edit": " a "})
    kind = TASKS["edit"]
    content = items("edit", SAMPLES)[0]
    assert kind.rows(content, kind.read({"choice": "good"}, content, ())) == []


def test_every_turn_of_a_conversation_is_a_comparison() -> None:
    turns = [
        {"said": "hi", "answers": ["x", "y"], "chosen": 1},
        {"said": "more", "answers": ["z", "z"], "chosen": 0},  # the same twice: nothing to compare
        {"said": "and?", "answers": ["p", "q"], "chosen": 0},
        {"said": "open", "answers": ["p", "q"], "chosen": None},
    ]
    kind = TASKS["converse"]
    content = items("converse", [{"prompt": "Be brief."}])[0]
    made = kind.rows(content, kind.read({"turns": turns}, content, ()))  # type: ignore[dict-item]
    system, hi = Message("system", "Be brief."), Message("user", "hi")
    later = (Message("assistant", "y"), Message("user", "more"), Message("assistant", "z"), Message("user", "and?"))
    assert load_data(made) == [
        Preference((system, hi), (Message("assistant", "y"),), (Message("assistant", "x"),)),
        Preference((system, hi, *later), (Message("assistant", "p"),), (Message("assistant", "q"),)),
    ]
    four = items("converse", 1, answers=4)[0]
    (ranked,) = load_data(kind.rows(four, kind.answer.model_validate({"turns": [
        {"said": "hi", "answers": ["w", "x", "y", "z"], "chosen": 2}
    ]})))  # fmt: skip
    assert isinstance(ranked, Ranking) and ranked.ranks == (0, 1, 1, 1)
    assert ranked.completions[0] == (Message("assistant", "y"),)


def test_a_flag_is_an_answer_without_rows() -> None:
    for task in TASKS.values():
        flag = task.read({"flag": "unsafe", "comment": "why"}, None, ())
        assert flag.model_dump() == {"flag": "unsafe", "comment": "why"} and task.rows(None, flag) == []
        assert task.fill(flag.model_dump(), ()) == {"flag": "unsafe", "comment": "why"}


@pytest.mark.parametrize(
    ("task", "data", "message"),
    [
        (
            "compare",
            [{"prompt": "hi", "completion": "a"}],
            "row 1: its prompt has one answer, and to compare",
        ),
        ("compare", [{"prompt": "hi"}], "row 1: the row has no answer to judge"),
        ("compare", [{"prompt": " ", "completion": "a"}], "row 1: the row has no prompt"),
        ("compare", [{"completion": "a"}], "row 1: the columns found are completion"),
        ("rate", [{"text": "a"}], "row 1: the row has no prompt"),
        ("write", 5, "the task write asks about rows: name a file of them by --data"),
        ("use-case", [{"prompt": "a"}], "row 1: a use case is a text in the column use_case"),
        ("plain", 0, "--items must be at least 1, not 0"),
        ("compare", [], "holds no rows"),
        ("rank", [{"prompt": "hi", "completion": "a"}], "row 1: 1 different answers cannot be ranked; 2 to 9 can"),
    ],
)
def test_rows_that_cannot_be_asked_about(task: str, data: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        items(task, data)


def test_settings_and_gold_are_refused_where_they_have_no_meaning() -> None:
    with pytest.raises(InputError, match="--scales is not of the task compare"):
        items("compare", SAMPLES, scales=["a:1-5"])
    with pytest.raises(InputError, match="the task edit has no gold questions"):
        items("edit", SAMPLES, gold=True)
    with pytest.raises(InputError, match="a gold question has the columns chosen and rejected"):
        items("compare", SAMPLES, gold=True)
    with pytest.raises(InputError, match="there is no task 'compar' .did you mean compare"):
        task_named("compar")


def test_keys_are_single_and_do_not_collide() -> None:
    me = Annotator(id=1, name="ann", token_hash="", keys={}, created_at=0.0)
    assert changed_keys({"tie": "T"}, me)["tie"] == "t"
    for form, message in [
        ({"tie": "1"}, "“1” cannot be both for “About the same” and for “A is much better”"),
        ({"skip": "3"}, "“3” cannot be both"),
        ({"done": "5"}, "cannot be both for “Done” and for the answers' numbers"),
        ({"skip": "é"}, "must be one letter from a to z, or a digit"),
        ({"skip": ""}, "must be one letter"),
    ]:
        with pytest.raises(Incomplete, match=message):
            changed_keys(form, me)


def test_people_who_ranked_before() -> None:
    """Rows in the layout of FineGrainedRLHF: all are asked about; those that are a ranking are gold questions too."""
    verdicts = {"one": [1, 0, 1, 2, 0, 1], "around": [1, 2, 1, 1, 1, 1]}  # 1 = 3 > 2 = 4; 1 > 2 > 3 > 1
    data = [
        {"id": key, "question": "hi?", "passages": [["T", "Two."]], "preference": said}
        | {f"prediction {i}": text for i, text in enumerate("abcd", start=1)}
        for key, said in verdicts.items()
    ]
    kind, columns = task_named("rank"), {"prompt": "question,passages"}
    asked, notes = read_items(data, kind, gold=False, columns=columns, settings={})
    assert [item.key for _, item in asked] == ["one", "around"] and notes == ()
    assert asked[0][1].content == {"prompt": "hi?\n\nT Two.", "answers": ["a", "b", "c", "d"]}
    known, notes = read_items(data, kind, gold=True, columns=columns, settings={})
    assert [(item.key, item.gold and item.gold["ranks"]) for _, item in known] == [("one", [0, 1, 0, 1])]
    assert notes == ("1 rows have verdicts that contradict each other, and no known answer",)
