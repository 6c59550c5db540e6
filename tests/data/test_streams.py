"""Rows that are read when they are needed are those that are all read at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accord.data.load import load_data
from accord.data.streams import Lines, StreamedRows
from accord.errors import InputError
from accord.records import Demonstration
from tests.commands.small import write_jsonl

ROWS = [{"prompt": f"q{i}", "completion": "a" * (i + 1)} for i in range(9)]


def test_rows_of_a_file_by_hand(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    lines = [json.dumps({"prompt": p, "completion": "ä"}, ensure_ascii=False) for p in ("one", "two", "three")]
    file.write_bytes(b"\xef\xbb\xbf" + "\n".join([lines[0], "", "  ", lines[1], lines[2]]).encode())
    rows = StreamedRows(file)
    assert list(rows) == [Demonstration(p, "ä") for p in ("one", "two", "three")] == load_data(file)
    assert [str(rows.number(i)) for i in range(3)] == ["1", "4", "5"]
    assert rows[-1] == rows[2] and rows[1:] == [rows[1], rows[2]]
    assert len(Lines(file)) == 3 and Lines(file).starts.itemsize == 8
    with pytest.raises(IndexError):
        rows[3]


@given(drawn=st.data())
@settings(max_examples=25, deadline=None)
def test_a_split_of_several_files_is_that_of_rows_all_read(drawn: st.DataObject, tmp_path_factory: Any) -> None:
    folder = tmp_path_factory.mktemp("files")
    text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=5).map(lambda s: s + ".")
    files = []
    for k in range(drawn.draw(st.integers(1, 3))):
        rows = drawn.draw(st.lists(text, min_size=4, max_size=7))
        ends = drawn.draw(st.sampled_from(["\n", "\r\n", "\n\n"]))
        said = ends.join(json.dumps({"prompt": "q", "completion": row}) for row in rows)
        files.append(folder / f"{k}.jsonl")
        files[-1].write_bytes(said.encode())
    split = drawn.draw(st.sampled_from(["train", "train[1:]", "train[:-1]", "train[1:3]"]))
    names = [str(file) for file in files]
    assert list(StreamedRows(names, split)) == load_data(names, split=split)


def test_columns_are_renamed_and_a_data_set_is_mapped(tmp_path: Path) -> None:
    columns = {"prompt": "question", "completion": "answer.text"}
    rows = [{"question": f"q{i}", "answer": {"text": "yes"}} for i in range(4)]
    file = write_jsonl(tmp_path / "rows.jsonl", rows)
    made = datasets.Dataset.from_list(rows)
    made.save_to_disk(tmp_path / "saved")
    expected = [Demonstration(f"q{i}", "yes") for i in range(4)]
    for source in (file, made, str(tmp_path / "saved")):
        assert list(StreamedRows(source, columns=columns)) == expected
    assert list(StreamedRows(made, "train[2:]", columns)) == expected[2:]


def test_the_digest_is_of_what_is_read(tmp_path: Path) -> None:
    one, other = write_jsonl(tmp_path / "a.jsonl", ROWS), write_jsonl(tmp_path / "b.jsonl", ROWS[:-1])
    same = write_jsonl(tmp_path / "c.jsonl", ROWS)
    assert StreamedRows(one).digest == StreamedRows(same).digest != StreamedRows(other).digest
    assert StreamedRows(one).digest != StreamedRows(one, "train[1:]").digest


def test_a_row_that_cannot_be_used_is_told_when_it_is_read(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "rows.jsonl", [*ROWS[:2], {"prompt": "q", "completion": ""}, {"prompt": 3}])
    rows = StreamedRows(file)
    assert rows.read(1) == ([Demonstration("q1", "aa")], [])
    found, reasons = rows.read(2)
    assert found == [] and reasons[0].where == f"{file}, line 3"
    with pytest.raises(InputError, match=r"rows\.jsonl, line 4: "):
        rows.read(3, strict=True)
    Path(file).write_text(json.dumps(ROWS[0]) + "\nnot JSON\n")
    with pytest.raises(InputError, match=r"rows\.jsonl, line 2: not JSON"):
        StreamedRows(file).read(1)


def refused(source: Any, split: str = "train") -> str:
    with pytest.raises(InputError) as error:
        StreamedRows(source, split)
    return str(error.value)


def test_what_cannot_be_streamed_is_said(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("prompt,completion\na,b\n")
    (tmp_path / "rows.jsonl.gz").write_bytes(b"")
    (tmp_path / "empty.jsonl").write_text("\n")
    file = write_jsonl(tmp_path / "rows.jsonl", ROWS)
    tree = write_jsonl(tmp_path / "tree.jsonl", [{"message_id": 1, "parent_id": None, "text": "a", "role": "user"}])
    here = str(tmp_path / "rows.csv")
    assert refused(here) == f"stream reads .jsonl files and datasets of the library `datasets`; {here} is neither."
    assert refused(f"{file}.gz").endswith("rows.jsonl.gz is compressed.")
    assert refused(str(tmp_path / "no.jsonl")).endswith(f"there is no file {tmp_path / 'no.jsonl'}.")
    assert refused(str(tmp_path / "empty.jsonl")) == f"{tmp_path / 'empty.jsonl'} holds no rows"
    assert refused(file, "train[20:]") == f"{file} holds no rows in 'train[20:]'"
    assert refused(file, "test") == "there is no split 'test' here: only 'train', or a part such as 'train[:100]'"
    assert "cannot mix files by weight" in refused({file: 0.5, tree: 0.5})
    assert refused(tree).startswith(f"{tree}, line 1: rows that depend on other rows cannot be streamed")
    assert "is a IterableDataset, which has none" in refused(datasets.Dataset.from_list(ROWS).to_iterable_dataset())
    assert "is a list" in refused(ROWS)
    assert "is not one: name its files" in refused(str(tmp_path))


def test_what_is_not_read_is_told_of_the_first_rows(tmp_path: Path) -> None:
    rows = [{"prompt": "q", "completion": "a", "weight": 2}] * 100 + [{"prompt": "q", "completion": "a", "cot": "hm"}]
    lines = [json.dumps(row) for row in rows]
    lines[2] = "broken"
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    assert StreamedRows(tmp_path / "rows.jsonl").notes(None) == [
        "in the first rows, 99 of 99 rows have another 'weight' than 1, which is not read: all count alike"
    ]
