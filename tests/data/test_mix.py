"""Several sources as one: how many rows of each, which, and what their columns are called."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accord.data import load_data
from accord.data.columns import rename_columns
from accord.data.mix import Part, apportion, called, parts_of, select_rows
from accord.errors import InputError, LeftOut
from accord.records import Demonstration, Preference
from tests.commands.small import write_jsonl


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Files a (70 rows) and b (20 rows) where one stands."""
    for name, count in (("a", 70), ("b", 20)):
        write_jsonl(tmp_path / f"{name}.jsonl", [{"prompt": f"{name}{i}", "completion": "x"} for i in range(count)])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def prompts(source: Any, **more: Any) -> list[str]:
    return [str(row.prompt) for row in load_data(source, **more)]


def test_sources_without_weights_are_whole(files: Path) -> None:
    assert prompts(["b.jsonl", "a.jsonl"]) == [f"b{i}" for i in range(20)] + [f"a{i}" for i in range(70)]
    assert prompts(["b.jsonl", "a.jsonl"], limit=22)[-3:] == ["b19", "a0", "a1"]
    assert prompts(["b.jsonl", "a.jsonl"], split="train[:1]") == ["b0", "a0"]


def test_a_mix_is_as_large_as_it_can_be_without_repeating_a_row(files: Path) -> None:
    # 70 / .7 = 100 and 20 / .3 = 66.67: b bounds the mix at 66 rows, 46.2 and 19.8 of each, 46 and 20 in whole rows.
    left_out = LeftOut()
    found = prompts(["a.jsonl:0.7", "b.jsonl:0.3"], left_out=left_out)
    assert left_out.taken == ["a.jsonl: 46 of 70 rows", "b.jsonl: 20 of 20 rows"]
    assert len(set(found)) == len(found) == 66 and found[46:] == [f"b{i}" for i in range(20)]
    assert prompts({"a.jsonl": 7, "b.jsonl": 3}) == found == prompts(["a.jsonl:0.7", "b.jsonl:.3"])
    # Of 10 rows 7 and 3.
    assert [name[0] for name in prompts(["a.jsonl:0.7", "b.jsonl:0.3"], limit=10)] == ["a"] * 7 + ["b"] * 3


@given(st.lists(st.tuples(st.integers(1, 300), st.floats(0.05, 10)), min_size=2, max_size=5))
def test_proportions_are_kept_to_a_row_and_none_is_taken_twice(given: list[tuple[int, float]]) -> None:
    parts = [Part(f"f{i}", weight) for i, (_, weight) in enumerate(given)]
    sizes = [size for size, _ in given]
    whole = sum(weight for _, weight in given)
    total = int(min(size / weight for size, weight in given) * whole + 1e-9)
    try:
        taken = select_rows(parts, sizes)
    except InputError as error:
        assert "would take none of" in str(error) and 0 in apportion(total, [weight for _, weight in given])
        return
    assert sum(map(len, taken)) == total
    for some, (size, weight) in zip(taken, given, strict=True):
        assert len(set(some)) == len(some) <= size and some == sorted(some) and set(some) <= set(range(size))
        assert abs(len(some) - total * weight / whole) < 1 + 1e-6


def test_names_that_look_like_weights(files: Path) -> None:
    write_jsonl(files / "c:0.5.jsonl", [{"text": "colon"}])
    assert load_data("c:0.5.jsonl") == [Demonstration("", "colon")]
    assert parts_of("owner/name:0") == [Part("owner/name:0")]
    assert parts_of(["a.jsonl:0.5", "owner/name:main:0.5"]) == [Part("a.jsonl", 0.5), Part("owner/name:main", 0.5)]
    assert parts_of(["C:\\data\\a.jsonl:2", "b.jsonl:1"])[0] == Part("C:\\data\\a.jsonl", 2.0)
    (files / "d.jsonl:0.7").mkdir()
    write_jsonl(files / "d.jsonl:0.7" / "train.jsonl", [{"text": "whole name"}])
    assert load_data("d.jsonl:0.7") == [Demonstration("", "whole name")]
    assert called(["a.jsonl:0.7", "b.jsonl:0.3"]) == "0.7 * a.jsonl + 0.3 * b.jsonl"
    assert called(["a.jsonl", "b.jsonl"]) == "a.jsonl + b.jsonl"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (["a.jsonl:0.7", "b.jsonl"], "b.jsonl has no weight, but other data do"),
        (["a.jsonl:0", "b.jsonl:1"], "the weight of a.jsonl must be above 0, not 0"),
        (["a.jsonl:-1", "b.jsonl:1"], "the weight of a.jsonl must be above 0, not -1"),
        (["a.jsonl:1", "./a.jsonl:1"], "./a.jsonl is given twice"),
        (["a.jsonl:1", "b.jsonl:1000"], "the mix of 20 rows would take none of the 70 of a.jsonl"),
        (["a.jsonl", "missing.jsonl"], "there is no file missing.jsonl"),
        ({"a.jsonl": "much"}, "data in memory must be a list of rows, or a mapping from files to weights"),
    ],
)
def test_mixes_that_cannot_be(source: Any, message: str, files: Path) -> None:
    with pytest.raises(InputError) as error:
        load_data(source)
    assert message in str(error.value)


def test_rows_are_called_by_their_file(files: Path) -> None:
    write_jsonl(files / "c.jsonl", [{"prompt": "c", "completion": " "}])
    with pytest.raises(InputError, match="^c.jsonl, line 1: 'completion' is empty"):
        load_data(["a.jsonl", "c.jsonl"])
    left_out = LeftOut()
    load_data(["a.jsonl", "c.jsonl"], left_out=left_out)
    assert left_out.lines() == ["1 row left out, as 'completion' is empty (row 1 of c.jsonl)"]
    write_jsonl(files / "d.jsonl", [{"prompt": "d", "chosen": "x", "rejected": "y"}])
    with pytest.raises(InputError, match="a.jsonl holds demonstrations, and d.jsonl preferences: a mix"):
        load_data(["a.jsonl", "d.jsonl"])


ROW = {"ask": "q", "more": "m", "good": {"text": ["a", "b"]}, "bad": '{"text": "c"}', "prompt": "unwanted"}


def test_columns_by_names_paths_and_several_at_once() -> None:
    names = {"prompt": "more, ask", "chosen": "good.text[-1]", "rejected": "bad.text"}
    assert load_data([ROW], columns=names) == [Preference("m\n\nq", "b", "c")]
    # What is moved loses its name, what a path leads into stays, "" leaves out.
    assert rename_columns(ROW, {"prompt": "ask", "chosen": "good.text.0", "bad": ""}) == {
        **{"more": "m", "good": {"text": ["a", "b"]}},
        **{"prompt": "q", "chosen": "a"},
    }
    assert rename_columns({"a": 1, "b": 2}, {"a": "b", "b": "a"}) == {"a": 2, "b": 1}
    assert rename_columns({"x.y": 1}, {"prompt": "x.y"}) == {"prompt": 1}


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("aks", "there is no column 'aks'; the row has ask, more, good, bad, prompt; did you mean ask?"),
        ("good.txt", "there is no column 'good.txt': 'good' has text; did you mean text?"),
        ("good.text[2]", "there is no column 'good.text[2]': 'good.text' is a list of 2"),
        ("ask.text", "there is no column 'ask.text': 'ask' holds a text"),
        ("ask,good", "'good' holds no text to join with the other columns"),
    ],
)
def test_paths_that_lead_nowhere(path: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        load_data([ROW], columns={"prompt": path})
    assert str(error.value).startswith(f"row 1: {message}")
