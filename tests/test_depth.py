"""From the command line to a method's loss is a short way, which a reader can walk."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

import pytest

from accord.cli.main import main
from accord.objectives import policy, preference
from tests.commands.small import save_model, write_jsonl

ROWS = [
    {"prompt": "hi", "chosen": "good day", "rejected": "bad"},
    {"prompt": "bye", "chosen": "good", "rejected": "bad"},
]


@pytest.mark.parametrize(
    ("command", "owner", "loss", "most", "more"),
    [
        ("dpo", preference, "dpo", 8, []),
        ("grpo", policy, "clipped", 10, ["--reward", "regex:good", "--max-new-tokens", "4", "--group-size", "2"]),
    ],
)
def test_frames_from_the_command_to_its_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, owner: Any, loss: str, most: int, more: list[str]
) -> None:
    depths, function = [], getattr(owner, loss)

    def counted(*arguments: Any, **named: Any) -> Any:
        names = [frame.name for frame in traceback.extract_stack()]  # the last is this one, in the loss's place
        depths.append(len(names) - names.index("main"))
        return function(*arguments, **named)

    monkeypatch.setattr(owner, loss, counted)
    rows = [{**row, "answer": "good"} for row in ROWS]
    options = ["--model", save_model(tmp_path / "base"), "--data", write_jsonl(tmp_path / "rows.jsonl", rows)]
    assert main([command, *options, *more, "--max-steps", "1", "--out", str(tmp_path / "run")]) == 0
    assert max(depths) <= most
