"""Reading folders: rows cut short, steps gone through twice, and files that are not what they should be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from accord.errors import InputError
from accord.report.folder import read_stage, read_story
from accord.report.page import write_report


def test_a_last_line_cut_short_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.0}\n{"step": 3, "na\xc3')
    assert read_story(tmp_path).stages[0].run.metrics == [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}]


def test_a_broken_line_before_the_last_is_named(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\nnot json\n{"step": 3}\n')
    with pytest.raises(InputError, match=r"metrics\.jsonl: row 2 is not a JSON object"):
        read_story(tmp_path)


def test_a_step_gone_through_again_counts_once(tmp_path: Path) -> None:
    rows = [{"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.0}, {"step": 3, "loss": 9.0}, {"step": 2, "loss": 1.0}]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert [row["loss"] for row in read_story(tmp_path).stages[0].run.metrics] == [3.0, 1.0, 9.0]


def test_rows_without_a_step_are_numbered(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"loss": 3}\n{"loss": 2, "step": null}\n')
    assert [row["step"] for row in read_story(tmp_path).stages[0].run.metrics] == [0, 1]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.yaml", "- a\n- b\n", "config.yaml is not a YAML mapping of settings"),
        ("config.yaml", "a: [", "config.yaml is not a YAML mapping of settings"),
        ("evaluation.json", '{"kind": ', "evaluation.json is not a JSON object"),
        ("pipeline.json", "[]", "pipeline.json is not a JSON object"),
        ("pipeline.json", '{"stages": [{"name": "a"}, {}]}', "pipeline.json: stage 2 has no name"),
    ],
)
def test_files_that_are_something_else_are_named(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message):
        read_story(tmp_path)


def test_an_input_may_be_one_name_or_several(tmp_path: Path) -> None:
    stages = [{"name": "v", "inputs": {"models": ["sft", "ppo"], "data": "x.jsonl"}}]
    (tmp_path / "pipeline.json").write_text(json.dumps({"stages": stages}))
    assert read_story(tmp_path).stages[0].inputs == {"models": ("sft", "ppo"), "data": ("x.jsonl",)}


def test_names_of_settings_and_measures_hide_nothing(tmp_path: Path) -> None:
    """An escape sequence, a NUL, and a change of direction, as names in every file that is shown by them."""
    hostile = "a\x1b[31m\x00\u202e"
    (tmp_path / "config.yaml").write_text(json.dumps({"command": hostile, hostile: 1}))
    (tmp_path / "environment.json").write_text(json.dumps({hostile: "x"}))
    rows = [json.dumps({"step": step, "loss": 1.0, hostile: step}) + "\n" for step in (1, 2)]
    (tmp_path / "metrics.jsonl").write_text("".join(rows))
    (tmp_path / "alarms.jsonl").write_text(
        json.dumps({"step": 1, "alarm": hostile, "saw": hostile, "try": "no"}) + "\n"
    )
    page = write_report(tmp_path).read_text(encoding="utf-8")
    shown = "a⟨U+001B⟩[31m⟨U+0000⟩⟨U+202E⟩"
    assert read_stage(tmp_path).run.metrics[0][shown] == 1 and shown in page
    assert not set(page) & {"\x1b", "\x00", "\u202e"}
