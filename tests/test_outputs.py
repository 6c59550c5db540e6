"""Nothing is written over that accord did not write, nor what is read; places are tried before work begins."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from accord.data import load_data
from accord.errors import InputError
from accord.files import replacing_folder, sha256_of, write_rows, write_text
from accord.outputs import (
    WROTE,
    NotOurs,
    changed_in,
    overwriting,
    require_file,
    require_folder,
    require_model_folder,
    require_unchanged,
    save_rows,
    save_text,
    writing_folder,
)
from accord.results import load
from accord.results.models import Drawing
from accord.results.passes import PassesResult
from tests.commands.small import accord, save_model, write_jsonl

JUDGED = [
    {"prompt": "p", "chosen": "a", "rejected": "b", "who": "ann"},
    {"prompt": "p", "chosen": "a", "rejected": "b", "who": "bob"},
]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_of_accord_s_is_written_again_and_one_that_was_changed_is_not(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    save_rows(file, [{"a": 1}])
    save_text(file, "two\n")
    save_rows(file, [{"a": 1}])  # what it was once
    digests = [json.loads(line)["sha256"] for line in (tmp_path / WROTE).read_text().splitlines()]
    assert len(digests) == 2 and digests[0] == sha256_of(file)
    file.write_text('{"a": 2}\n')
    told = f"{file} is there, and accord did not write it, or it was changed since: name another, or give --overwrite."
    for _ in range(2):
        with pytest.raises(NotOurs, match=re.escape(told)):
            save_text(file, "three")
    assert file.read_text() == '{"a": 2}\n'
    with overwriting():
        save_text(file, "three")
    save_text(file, "four")
    assert file.read_text() == "four" and names(tmp_path) == [WROTE, "rows.jsonl"]
    write_rows(file, [{"a": 3}])  # which asks nobody, and notes nothing
    with pytest.raises(NotOurs, match=re.escape(told)):
        save_rows(file, [{"a": 4}])
    assert file.read_text() == '{"a": 3}\n'


def test_a_file_that_is_read_is_told_where_it_is_not_as_accord_wrote_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One bit of rows, of rows in a folder, and of an evaluation; each is read as it is."""
    rows, folder = tmp_path / "rows.jsonl", tmp_path / "folder"
    folder.mkdir()
    for file in (rows, folder / "train.jsonl"):
        save_rows(file, [{"prompt": "p", "completion": "a"}])
    drawn = Drawing(temperature=1, max_new_tokens=4, seed=0)
    evaluation = PassesResult(verifier="number", prompts=1, samples=1, sampling=drawn, models=[]).save(tmp_path)

    def told() -> list[str]:
        rows_read = [load_data(str(source)) for source in (rows, folder)]
        assert [len(found) for found in rows_read] == [1, 1] and load(tmp_path).kind == "passes"
        return capsys.readouterr().err.splitlines()

    assert told() == []
    for file, word in ((rows, b"a"), (folder / "train.jsonl", b"a"), (evaluation, b"number")):
        content = bytearray(file.read_bytes())
        content[content.rindex(word)] ^= 1
        file.write_bytes(content)
    why = "is not as accord wrote it: somebody has changed it since, or it is damaged."
    assert told() == [f"{file} {why}" for file in (rows, folder / "train.jsonl", evaluation)]
    (tmp_path / WROTE).unlink()  # it is not known any more
    assert told() == [f"{folder / 'train.jsonl'} {why}"]


def test_the_same_content_under_another_name_is_somebody_s(tmp_path: Path) -> None:
    save_text(tmp_path / "a", "x")
    (tmp_path / "b").write_text("x")
    with pytest.raises(NotOurs, match="b is there"):
        save_text(tmp_path / "b", "y")


def test_a_kill_before_or_after_the_file_has_its_name_leaves_it_accord_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, rename = tmp_path / "x", os.replace

    def killed_before(*_: object) -> None:
        raise KeyboardInterrupt

    def killed_after(source: Path, target: Path) -> None:
        rename(source, target)
        raise KeyboardInterrupt

    save_text(file, "old")
    for killed in (killed_before, killed_after):
        monkeypatch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            save_text(file, "new")
        monkeypatch.setattr(os, "replace", rename)
        require_file(file)
    assert file.read_text() == "new"


def test_a_note_that_was_torn_off_costs_its_own_file_alone(tmp_path: Path) -> None:
    save_text(tmp_path / "a", "1")
    with (tmp_path / WROTE).open("a") as notes:
        notes.write('{"name": "b", "sha')
    save_text(tmp_path / "c", "3")
    save_text(tmp_path / "a", "2")
    save_text(tmp_path / "c", "4")


def test_what_is_read_is_never_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_text("rows.jsonl", "x")
    os.link("rows.jsonl", "hard.jsonl")
    os.symlink("rows.jsonl", "soft.jsonl")
    os.makedirs("data")
    save_text("data/part.jsonl", "x")
    for out in ("rows.jsonl", "./data/../rows.jsonl", "hard.jsonl", "soft.jsonl"):
        for read in (["no", "rows.jsonl"], {"a": "rows.jsonl:0.5"}, tmp_path / "rows.jsonl", "2 * rows.jsonl + m"):
            with (
                overwriting(),
                pytest.raises(
                    InputError, match="is an input of this command, so it cannot be written too; name another"
                ),
            ):
                require_file(out, read)
    with overwriting(), pytest.raises(InputError, match="data/part.jsonl is an input"):
        require_file("data/part.jsonl", "data")
    assert require_file("data/new.jsonl", "data", 3, None, "x" * 999, "a\0b") == Path("data/new.jsonl")


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("file/b/c", r"file/b cannot be a folder, since .*file is a file; name another"),
        ("folder", r"folder is a folder, so no file can be written there"),
        ("new/" + "n" * 252, r"cannot be written \(File name too long\); name another place"),
        ("n" * 300 + "/x", r"cannot be written \(File name too long\); name another place"),
    ],
)
def test_a_place_is_tried_before_any_work(place: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match=told):
        require_file(tmp_path / place)
    assert names(tmp_path) == ["file", "folder"]


def test_a_disk_that_takes_nothing_is_told_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = os.open

    def read_only(path: str | Path, flags: int, *rest: int) -> int:
        if flags & os.O_CREAT:
            raise OSError(30, "Read-only file system")
        return made(path, flags, *rest)

    monkeypatch.setattr(os, "open", read_only)
    with pytest.raises(InputError, match=r"out/x cannot be written \(Read-only file system\); name another place\."):
        require_folder(tmp_path / "out")


def test_what_a_kill_left_of_a_try_goes_with_the_next(tmp_path: Path) -> None:
    left = tmp_path / ".rows.jsonl.999999999.partial"
    left.touch()
    require_file(tmp_path / "new" / "rows.jsonl")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_may_be_new_and_of_its_files_those_named_are_tried(tmp_path: Path) -> None:
    assert require_folder(tmp_path / "a" / "b", leaves=("x",)) == tmp_path / "a" / "b" and names(tmp_path) == []
    (tmp_path / "x").write_text("mine")
    assert require_folder(tmp_path, leaves=("y",)) == tmp_path
    with pytest.raises(NotOurs):
        require_folder(tmp_path, leaves=("y", "x"))
    with pytest.raises(InputError, match="x cannot be a folder, since .* is a file; name another"):
        require_folder(tmp_path / "x")


def test_only_a_model_s_folder_is_replaced_whole_and_none_that_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    assert require_model_folder(folder) == folder  # it is empty
    (folder / "notes.txt").write_text("mine")
    for asked in (False, True):
        with overwriting(asked), pytest.raises(InputError, match=r"m holds notes.txt; choose another --out\.$"):
            require_model_folder(folder)
    (folder / "config.json").write_text("{}")
    with pytest.raises(InputError, match="choose another --out, or replace this one by --overwrite"):
        require_model_folder(folder)
    with overwriting():
        assert require_model_folder(folder, "cafe", "") == folder
        for read in (folder, folder / "notes.txt", [str(folder)]):
            with pytest.raises(InputError, match="which is read, and is not replaced"):
                require_model_folder(folder, read)
        (folder / "inside").mkdir()
        with pytest.raises(InputError, match="m holds config.json; choose another --out"):
            require_model_folder(folder)


def test_a_folder_written_whole_is_accord_s_until_something_in_it_changes(tmp_path: Path) -> None:
    for text in ("1", "2"):
        with writing_folder(tmp_path / "init") as init:
            (init / "w").write_text(text)
    (tmp_path / "init" / "w").write_text("3")
    with pytest.raises(InputError, match="init holds w; choose another --out"), writing_folder(tmp_path / "init"):
        pass
    assert (tmp_path / "init" / "w").read_text() == "3"


def test_what_was_changed_below_a_folder_is_named(tmp_path: Path) -> None:
    save_text(tmp_path / "a" / "b" / "x", "1")
    save_text(tmp_path / "a" / "gone", "1")
    (tmp_path / "a" / "gone").unlink()
    (tmp_path / "a" / "other").write_text("not accord's, and not what is asked")
    require_unchanged(tmp_path / "a")
    (tmp_path / "a" / "b" / "x").write_text("2")
    with pytest.raises(InputError, match=r"a/b/x was changed since accord wrote it, and .*a is to be made again"):
        require_unchanged(tmp_path / "a")
    with overwriting():
        require_unchanged(tmp_path / "a")


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_modes_are_those_of_umask_and_of_the_file_that_was_there(mask: int, tmp_path: Path) -> None:
    before = os.umask(mask)
    try:
        save_text(tmp_path / "new" / "x", "1")
        with replacing_folder(tmp_path / "model") as partial:
            (partial / "w").touch(0o600)  # as safetensors does
            (partial / "inside").mkdir()
        write_text(tmp_path / "own", "1")
        (tmp_path / "own").chmod(0o640)
        write_text(tmp_path / "own", "2")
    finally:
        os.umask(before)
    modes = {str(path.relative_to(tmp_path)): path.stat().st_mode & 0o777 for path in tmp_path.rglob("*")}
    file, folder = 0o666 & ~mask, 0o777 & ~mask
    assert modes == {
        "new": folder, "new/x": file, f"new/{WROTE}": file, "model": folder, "model/w": file, "model/inside": folder,
        "own": 0o640,
    }  # fmt: skip


def test_commands_leave_what_is_somebody_s_and_overwrite_when_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = write_jsonl(tmp_path / "judged.jsonl", JUDGED), tmp_path / "out.jsonl"
    words = ("aggregate", "--data", data, "--columns.annotator", "who", "--by", "majority", "--out")
    out.write_text("mine\n")
    told = f"accord: {out} is there, and accord did not write it, or it was changed since: name another, or give "
    assert accord(*words, out) == 2 and capsys.readouterr().err.startswith(told) and out.read_text() == "mine\n"
    assert accord(*words, out, "--overwrite") == 0 == accord(*words, out)
    assert accord(*words, data, "--overwrite") == 2
    assert capsys.readouterr().err.endswith(
        f"accord: {data} is an input of this command, so it cannot be written too; name another.\n"
    )
    folder = tmp_path / "agreement"
    folder.mkdir()
    (folder / "evaluation.json").write_text("{}")
    asks = ("evaluate", "agreement", "--data", data, "--columns.annotator", "who", "--out", folder)
    assert accord(*asks) == 2 and (folder / "evaluation.json").read_text() == "{}"
    assert accord(*asks, "--overwrite") == 0 == accord(*asks)


def test_a_run_gives_way_to_another_only_when_asked_and_never_what_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, out = save_model(tmp_path / "base"), tmp_path / "run"
    data = write_jsonl(tmp_path / "rows.jsonl", [{"prompt": "hi", "completion": "hello"}] * 2)
    words = ("sft", "--data", data, "--batch-size", "2", "--track", "none", "--out", out, "--model")
    assert accord(*words, base, "--max-steps", "2") == 0
    (out / "notes.txt").write_text("mine")
    again = (*words, base, "--max-steps", "1")
    assert accord(*again) == 2 and "holds another run; choose another --out, or continue" in capsys.readouterr().err
    assert accord(*words, out / "model", "--max-steps", "1", "--overwrite") == 2
    assert "model, which is read, and is not replaced; choose another --out" in capsys.readouterr().err
    assert accord(*again, "--overwrite") == 0
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 1
    assert (out / "notes.txt").read_text() == "mine"
    page = out / "report.html"
    page.write_text(page.read_text() + "<p>mine</p>")
    capsys.readouterr()
    assert accord("report", out) == 2 == accord("report", out, "--out", data)
    assert accord(*again, "--resume") == 0  # it is finished; the page stays
    assert "the page is left as it is: " in capsys.readouterr().err and page.read_text().endswith("<p>mine</p>")
    assert accord("report", out, "--overwrite") == 0 and not page.read_text().endswith("<p>mine</p>")


def test_a_folder_that_is_no_run_s_is_not_cleared_even_when_asked(tmp_path: Path) -> None:
    base = save_model(tmp_path / "base")
    data = write_jsonl(tmp_path / "rows.jsonl", [{"prompt": "hi", "completion": "hello"}] * 2)
    (tmp_path / "mine" / "model").mkdir(parents=True)
    for content in (None, "name: site\n"):
        if content:
            (tmp_path / "mine" / "config.yaml").write_text(content)
        out = ("--out", tmp_path / "mine", "--overwrite")
        assert accord("sft", "--model", base, "--data", data, "--max-steps", "1", *out) == 2
    assert names(tmp_path / "mine") == ["config.yaml", "model"]


def test_what_somebody_changed_below_a_folder(tmp_path: Path) -> None:
    for name in ("a.txt", "b/c.txt", "b/d.txt"):
        save_text(tmp_path / name, name)
    assert list(changed_in(tmp_path)) == []
    (tmp_path / "b" / "d.txt").write_text("another")
    assert list(changed_in(tmp_path)) == [tmp_path / "b" / "d.txt"]
