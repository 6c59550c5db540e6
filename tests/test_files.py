"""Files appear whole or not at all."""

import gzip
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import SafetensorError

from accord.errors import InputError
from accord.files import (
    SUMS,
    changed,
    others,
    replacing,
    replacing_folder,
    sha256_of,
    sync,
    tidy,
    write_rows,
    write_sums,
    write_text,
)  # fmt: skip
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


@pytest.mark.parametrize("column", ["\ud800", "a\udfff", {"deep": ["\ud83d", "b"]}])
def test_half_a_character_is_written_as_json_escapes_it_and_read_back(column, tmp_path):
    rows = [{"id": column, "prompt": "caf\u00e9"}, {"\udc00": 1, "text": "\U0001f600"}]
    write_rows(tmp_path / "rows.jsonl", [*rows, {"text": "caf\u00e9"}])
    *halves, whole = (tmp_path / "rows.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in halves] == rows and whole == '{"text": "caf\u00e9"}'


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


@pytest.fixture
def dead() -> int:
    """The number of a process that is no more."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def below(folder, pattern="*"):
    return sorted(str(path.relative_to(folder)) for path in folder.glob(pattern))


@pytest.fixture
def synced(monkeypatch):
    """What is on the disk, in order: the files and folders that were synced, and renames."""
    events, rename = [], os.rename

    def note(opened):
        path = Path(f"/proc/self/fd/{opened}").resolve()
        events.append(("sync", path.name, below(path) if path.is_dir() else path.read_text()))

    def renamed(kind):
        def act(source, target, **_):
            events.append(("rename", Path(source).name, Path(target).name))
            rename(source, target)

        return act

    monkeypatch.setattr(os, "fsync", note)
    monkeypatch.setattr(os, "replace", renamed("replace"))
    monkeypatch.setattr(os, "rename", renamed("rename"))
    return events


def test_a_file_is_synced_then_renamed_then_its_folder_is(tmp_path, synced):
    write_text(tmp_path / "new" / "x.txt", "hello")
    mine = f".x.txt.{os.getpid()}.partial"
    assert synced == [
        ("sync", tmp_path.name, ["new"]),
        ("sync", mine, "hello"),
        ("rename", mine, "x.txt"),
        ("sync", "new", ["x.txt"]),
    ]


def test_a_folder_is_whole_on_the_disk_before_the_old_one_goes(tmp_path, synced):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "old.txt").write_text("old")
    with replacing_folder(tmp_path / "model") as partial:
        (partial / "inside").mkdir()
        (partial / "inside" / "w").write_text("new")
    mine, aside = (f".model.{os.getpid()}.{kind}" for kind in ("partial", "old"))
    assert synced == [
        ("sync", "w", "new"),
        ("sync", "inside", ["w"]),
        ("sync", mine, ["inside"]),
        ("rename", "model", aside),
        ("rename", mine, "model"),
        ("sync", tmp_path.name, [aside, "model"]),  # the old one is still there
    ]
    assert below(tmp_path, "**/*") == ["model", "model/inside", "model/inside/w"]


def test_a_folder_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "old.txt").write_text("old")
    with pytest.raises(ZeroDivisionError), replacing_folder(tmp_path / "model"):
        raise ZeroDivisionError
    rename, calls = Path.rename, []

    def fails_second(self, target):
        calls.append(target)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fails_second)
    with pytest.raises(OSError, match="No space"), replacing_folder(tmp_path / "model"):
        pass
    assert below(tmp_path, "**/*") == ["model", "model/old.txt"]


def test_a_full_disk_is_told_with_the_file_that_has_no_room(tmp_path):
    rows, model = tmp_path / "rows.jsonl", tmp_path / "model"
    with pytest.raises(OSError, match=rf"No space left on device: '{rows}'"), replacing(rows) as file:
        os.dup2(os.open("/dev/full", os.O_WRONLY), file.fileno())
        file.write("row")
    with pytest.raises(OSError, match=rf"No space left on device: '{model}'"), replacing_folder(model):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    with pytest.raises(OSError, match="Connection refused$"), replacing(rows):
        raise OSError(111, "Connection refused")
    assert list(tmp_path.iterdir()) == []


def test_what_dead_processes_left_goes_when_the_same_is_written_again(tmp_path, dead):
    left = [f".x.txt.{dead}.partial", f".x.txt.{os.getppid()}.partial", f".y.txt.{dead}.partial"]
    for name in left:
        (tmp_path / name).write_text("half")
    write_text(tmp_path / "x.txt", "whole")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*left[1:], "x.txt"])  # a living one's, another file's
    (tmp_path / f".m.{dead}.old").mkdir()
    (tmp_path / f".m.{dead}.old" / "w").write_text("the only one")
    (tmp_path / f".m.{dead}.partial").mkdir()
    tidy(tmp_path, "m")
    assert (tmp_path / "m" / "w").read_text() == "the only one"  # killed between its two renames
    (tmp_path / f".m.{dead}.old").mkdir()
    tidy(tmp_path, "m")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*left[1:], "x.txt", "m"])


def test_leftovers_are_no_other_files(tmp_path):
    for name in (".config.yaml.12.partial", ".lock", ".accord-wrote", ".best.7.old", ".model-a1b2c3d4"):
        (tmp_path / name).write_text("")
    assert others(tmp_path) == [] and others(tmp_path / "none") == []
    (tmp_path / ".notes.partial").write_text("mine")
    assert others(tmp_path) == [".notes.partial"]
    tidy(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".accord-wrote", ".lock", ".notes.partial", "best"]


@pytest.mark.parametrize(("make", "message"), [(Path.mkdir, "is a folder"), (os.mkfifo, "is not a regular file")])
def test_only_a_file_is_replaced_by_one(make, message, tmp_path):
    make(tmp_path / "x")
    with pytest.raises(InputError, match=message):
        write_text(tmp_path / "x", "")
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_a_mount_that_cannot_sync_folders_is_forgiven_and_one_that_loses_files_is_not(tmp_path, monkeypatch):
    def fails(opened):
        raise OSError(22 if Path(f"/proc/self/fd/{opened}").resolve().is_dir() else 5, "no")

    monkeypatch.setattr(os, "fsync", fails)
    sync(tmp_path)
    (tmp_path / "a").write_text("")
    with pytest.raises(OSError, match="Errno 5"):
        sync(tmp_path)


def test_a_file_s_digest(tmp_path):
    content = bytes(range(256)) * 9000
    (tmp_path / "x").write_bytes(content)
    assert sha256_of(tmp_path / "x") == hashlib.sha256(content).hexdigest()


def test_sums_are_those_of_sha256sum_and_tell_what_is_changed(tmp_path):
    for name in ("a.txt", "b c.json"):
        (tmp_path / name).write_text("hello")
    (tmp_path / "folder").mkdir()
    assert changed(tmp_path) is None  # nothing is known
    write_sums(tmp_path)
    write_sums(tmp_path)
    digest = hashlib.sha256(b"hello").hexdigest()
    whole = f"{digest}  a.txt\n{digest}  b c.json\n"
    assert (tmp_path / SUMS).read_text() == whole and changed(tmp_path) is None
    (tmp_path / "c").write_text("made later")
    assert changed(tmp_path) is None
    (tmp_path / "b c.json").write_text("hellp")
    assert changed(tmp_path) == "b c.json"
    (tmp_path / "b c.json").unlink()
    assert changed(tmp_path) == "b c.json"
    for torn in ("x" + whole, whole.replace("  ", " ", 1), "\0" * 80):
        (tmp_path / SUMS).write_text(torn)
        assert changed(tmp_path) == SUMS
    write_sums(tmp_path, "a*", "c")
    assert [line.split("  ")[1] for line in (tmp_path / SUMS).read_text().splitlines()] == ["a.txt", "c"]
