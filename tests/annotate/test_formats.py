"""Out to Argilla and Label Studio and back in: the same records, the same people, the same provenance."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from accord.annotate import Project, assign
from accord.annotate.formats import Form, argilla_user
from accord.data import load_data
from accord.data.load import open_rows, read_rows
from accord.errors import InputError
from tests.annotate.conftest import made, person
from tests.commands.small import accord, read_jsonl, write_jsonl

CHAT = [{"role": "user", "content": "Hi?"}]
RANKED = {"prompt": "Why?", "completions": ["a", "b", "c", "d"], "ranks": [0, 1, 2, 3]}
PAIR = [
    {"id": "one", "prompt": "Why?", "chosen": "a", "rejected": "b"},
    {"id": "two", "prompt": CHAT, "chosen": "c", "rejected": "d"},
]
SAID = {"comment": ""}
CASES: dict[str, tuple[list[dict[str, Any]], dict[str, Any], list[dict[str, Any]]]] = {
    "compare": (
        PAIR, {},
        [
            {"better": 0, "strength": "much", "comment": "plainly"}, {"better": 1, "strength": "slightly", **SAID},
            {"better": None, "strength": "tie", **SAID}, {"better": None, "strength": "both bad", **SAID},
        ],
    ),
    "rank": (
        [{"id": "one", **RANKED}, {"id": "two", **RANKED, "prompt": "How?"}], {},
        [
            {"ranks": [1, 0, 1, 2], "none_will_do": False, "comment": "a tie"},
            {"ranks": [None, 0, None, 1], "none_will_do": False, **SAID},
            {"ranks": [None] * 4, "none_will_do": True, **SAID},
            {"ranks": [3, 2, 1, 0], "none_will_do": False, **SAID},
        ],
    ),
    "rate": (
        [{"id": "one", "prompt": "Why?", "completion": "a"}, {"id": "two", "prompt": "How?", "completion": "b"}],
        {"scales": ["helpful:1-5", "overall:1-100"]},
        [{"ratings": {"helpful": n, "overall": 20 * n}, **SAID} for n in (1, 3, 4, 5)],
    ),
    "write": (
        [
            {"id": "one", "prompt": "Why?", "completion": "said a model"},
            {"id": "two", "prompt": CHAT, "completion": "so"},
        ],
        {},
        [{"text": f"because {n}", **SAID} for n in range(4)],
    ),
    "edit": (
        [{"id": "one", "prompt": "Why?", "completion": "a"}, {"id": "two", "prompt": CHAT, "completion": "b"}], {},
        [{"critique": "short", "edit": f"because {n}", **SAID} for n in range(4)],
    ),
}  # fmt: skip


def answered(path: Path, task: str) -> Project:
    """A project of two items, each answered by two people; the answers in turn."""
    data, settings, answers = CASES[task]
    project = made(path, overlap=2, guidelines="Be kind.")
    project.add(data, task, **settings)
    project.add_people(["ann", "bob"])
    waiting = iter(answers)
    for name in ("ann", "bob"):
        for _ in data:
            slot = assign.next_slot(project, person(project, name))
            assert slot is not None
            project.clock.now += 10
            assign.store(project, person(project, name), slot.id or 0, next(waiting), 2.5)
    return project


def read_back(path: Path) -> list[tuple[Any, dict[str, Any]]]:
    """Records with their columns, in the order of items and people."""
    found = [(record, dict(columns)) for record, columns, _ in read_rows(str(path), "train", None, keep=True)]
    return sorted(found, key=lambda one: (one[1]["item"], one[1]["annotator"]))


@pytest.mark.parametrize("form", ["argilla", "label-studio"])
@pytest.mark.parametrize("task", list(CASES))
def test_what_is_exported_is_read_back_as_it_was(tmp_path: Path, task: str, form: Form) -> None:
    project = answered(tmp_path, task)
    ours, theirs = tmp_path / "rows.jsonl", tmp_path / "theirs.json"
    project.export(ours)
    project.export(theirs, form=form)
    expected, found = read_back(ours), read_back(theirs)
    assert len(expected) == 4
    assert [record for record, _ in found] == [record for record, _ in expected]
    for (_, row), (_, columns) in zip(expected, found, strict=True):
        told = {n: v for n, v in row.items() if n not in ("prompt", "chosen", "rejected", "completion", "completions")}
        assert {name: columns.get(name) for name in told} == told


def test_the_form_of_argillas_records(tmp_path: Path) -> None:
    out = tmp_path / "records.json"
    answered(tmp_path, "rank").export(out, form="argilla")
    first, _ = sorted(json.loads(out.read_text()), key=lambda record: record["id"])
    assert list(first) == ["id", "fields", "metadata", "suggestions", "responses", "vectors"]
    assert first["fields"] == {"prompt": "Why?", **{f"response_{i}": text for i, text in enumerate("abcd", start=1)}}
    ranking = {one["user_id"]: one["value"] for one in first["responses"]["ranking"]}
    assert set(ranking) == {argilla_user("ann"), argilla_user("bob")}
    assert all([value["value"] for value in one] == list(first["fields"])[1:] for one in ranking.values())
    out.unlink()
    other = tmp_path / "other"
    other.mkdir()
    answered(other, "write").export(out, form="argilla")
    by_id = {record["id"]: record["suggestions"] for record in json.loads(out.read_text())}
    suggested = {"one": "said a model", "two": "so"}
    assert by_id == {k: {"completion": {"value": v, "score": None, "agent": None}} for k, v in suggested.items()}


def test_the_form_of_label_studios_tasks(tmp_path: Path) -> None:
    out = tmp_path / "tasks.json"
    answered(tmp_path, "rank").export(out, form="label-studio")
    tasks = json.loads(out.read_text())
    assert [task["data"]["items"][0] for task in tasks] == [{"id": "response_1", "body": "a"}] * 2
    annotations = [one for task in tasks for one in task["annotations"]]
    assert {(one["completed_by"], one["lead_time"], one["was_cancelled"]) for one in annotations} == {
        (1, 2.5, False), (2, 2.5, False),
    }  # fmt: skip
    rankers = [r["value"]["ranker"] for one in annotations for r in one["result"] if r["type"] == "ranker"]
    names = [f"response_{i}" for i in range(1, 5)]
    for expected in (
        {"rank_1": ["response_2"], "rank_2": ["response_1", "response_3"], "rank_3": ["response_4"]},
        {"rank_1": ["response_2"], "rank_2": ["response_4"], "_": ["response_1", "response_3"]},
        {"_": names},
        {f"rank_{i}": [name] for i, name in enumerate(reversed(names), start=1)},
    ):
        assert expected in rankers


def test_the_command_and_its_wrong_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    project = answered(tmp_path, "compare")
    database, out = str(tmp_path / "labels.db"), tmp_path / "tasks.json"
    words = ["annotate", "export", "--database", database, "--format", "label-studio", "--out"]
    assert accord(*words, out) == 0
    assert f"annotate: 4 answers in {out}" in capsys.readouterr().err
    assert {row["annotator"] for _, _, row in open_rows(str(out))} == {"ann", "bob"}
    assert accord(*words, tmp_path / "tasks.jsonl") == 2
    assert "--out must end in .json" in capsys.readouterr().err and not (tmp_path / "tasks.jsonl").exists()
    project.add(2, "plain")
    slot = assign.next_slot(project, person(project, "ann"))
    assert slot is not None
    assign.store(project, person(project, "ann"), slot.id or 0, {"prompt": "Sing.", "response": "", "comment": ""}, 1)
    assert accord(*words, out, "--task", "plain") == 2
    assert "items of the task plain ask about nothing" in capsys.readouterr().err


def test_an_export_says_what_was_corrected_withdrawn_and_guided(tmp_path: Path) -> None:
    """Two people answer under the first guidelines; one corrects under the second, and then the other withdraws."""
    project = answered(tmp_path, "compare")
    project = Project.open(tmp_path / "labels.db", guidelines="Be kinder.")
    out = tmp_path / "rows.jsonl"
    project.export(out)
    assert {row["guideline"] for row in read_jsonl(out)} == {1}
    undone = assign.undo(project, person(project, "ann"))
    assert undone is not None
    project.export(out)
    assert len(read_jsonl(out)) == 3  # what was taken back counts no more
    again = {"better": 1, "strength": "much", "comment": "looked again"}
    assign.store(project, person(project, "ann"), undone, again, 1.0)
    project.export(out)
    mine = [row for row in read_jsonl(out) if row["annotator"] == "ann"]
    assert [row.get("comment") for row in mine].count("looked again") == 1 and len(mine) == 2
    assert project.withdraw("bob") == 2
    for form, name in (("accord", "rows.jsonl"), ("argilla", "a.json"), ("label-studio", "l.json")):
        exported = project.export(tmp_path / name, form=form)  # type: ignore[arg-type]
        assert exported.notes == ("the answers of 1 people were withdrawn, and are erased",)
        text = (tmp_path / name).read_text()
        assert "bob" not in text and argilla_user("bob") not in text
        assert len(load_data(str(tmp_path / name))) == 2


@pytest.mark.slow
def test_argillas_own_package_reads_and_writes_the_same(tmp_path: Path) -> None:
    rg = pytest.importorskip("argilla", reason="argilla is not installed")
    from argilla.records._io import GenericIO, JsonIO

    for task in CASES:
        folder = tmp_path / task
        folder.mkdir()
        project, out = answered(folder, task), folder / "records.json"
        project.export(out, form="argilla")
        records = JsonIO._records_from_json(out)
        assert all(isinstance(record, rg.Record) for record in records)
        JsonIO.to_json(records, folder / "again.json")
        assert read_back(folder / "again.json") == read_back(out)
        flat = folder / "flat.jsonl"
        write_jsonl(flat, GenericIO.to_list(records, flatten=True))
        assert [record for record, _ in read_back(flat)] == [record for record, _ in read_back(out)]


def test_a_task_that_is_not_there(tmp_path: Path) -> None:
    project = answered(tmp_path, "compare")
    with pytest.raises(InputError, match="the project has no task rank"):
        project.export(tmp_path / "x.json", task="rank", form="argilla")
