"""Files appear whole or not at all."""

import gzip
import json

import pytest

from accord.errors import InputError
from accord.files import replacing, require_folder, write_rows, write_text
from accord.records import Message, Preference


def test_text_is_written_in_utf8_and_folders_are_made(tmp_path):
    write_text(tmp_path / "a" / "b.txt", "naïve\n")
    assert (tmp_path / "a" / "b.txt").read_bytes() == b"na\xc3\xafve\n"


def test_rows_are_a_json_object_a_line(tmp_path):
    rows = [Preference((Message("user", "hé"),), "a", "b"), {"text": "c"}]
    write_rows(tmp_path / "rows.jsonl", rows)
    assert (tmp_path / "rows.jsonl").read_text(encoding="utf-8") == (
        '{"prompt": [{"role": "user", "content": "hé"}], "chosen": "a", "rejected": "b"}\n{"text": "c"}\n'
    )


def test_a_gz_name_is_compressed(tmp_path):
    write_rows(tmp_path / "rows.jsonl.gz", [{"text": "c"}])
    with gzip.open(tmp_path / "rows.jsonl.gz", "rt") as file:
        assert json.loads(file.read()) == {"text": "c"}


def test_a_failure_keeps_the_old_file_and_leaves_nothing_beside_it(tmp_path):
    path = tmp_path / "rows.jsonl"
    write_text(path, "old")
    with pytest.raises(ZeroDivisionError), replacing(path) as file:
        file.write("new")
        raise ZeroDivisionError
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["rows.jsonl"]


def test_a_folder_may_be_new_but_no_file(tmp_path):
    file = tmp_path / "file"
    file.write_text("x")
    assert require_folder(tmp_path / "a" / "b") == tmp_path / "a" / "b" and not (tmp_path / "a").exists()
    with pytest.raises(InputError, match=f"file/b cannot be a folder, since {file} is a file; name another"):
        require_folder(file / "b")
