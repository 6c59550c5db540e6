"""A small recipe with its data, and what is known of its run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from accord.records import Demonstration, Preference
from tests.commands.small import accord, save_model, write_jsonl

STAGES: dict[str, Any] = {
    "sft": {"command": "sft", "model": "${base}", "data": "${data}", "max-steps": 2, "dtype": "float32"},
    "samples": {"command": "sample", "model": "${sft}/model", "data": "${data}", "n": 2, "max_new_tokens": 4},
    "dpo": {"command": "dpo", "model": "${sft}/model", "data": "${pairs}", "max_steps": "${steps}", "dtype": "float32"},
    "scores": {"command": "score", "model": "${dpo}/model", "data": "${pairs}"},
}


class Pipeline:
    """The recipe and its folder."""

    def __init__(self, home: Path) -> None:
        self.recipe, self.out, self.data = home / "recipe.yaml", home / "out", home / "rows.jsonl"
        write_jsonl(self.data, [Demonstration("hi", "hello good day"), Demonstration("bye", "good bye")])
        pairs = write_jsonl(home / "pairs.jsonl", [Preference("hi", "hello", "bad"), Preference("bye", "hi", "day")])
        base = save_model(home / "base")
        self.variables = {"base": base, "data": str(self.data), "pairs": pairs, "steps": 2}
        self.write(STAGES)

    def write(self, stages: dict[str, Any]) -> None:
        recipe = {"name": "small", "description": "A small one.", "variables": self.variables, "stages": stages}
        self.recipe.write_text(yaml.safe_dump(recipe, sort_keys=False))

    def run(self, *options: object) -> dict[str, str]:
        """The status of every stage after a run."""
        assert accord("run", self.recipe, "--out", self.out, *options) == 0
        return self.status()

    def status(self) -> dict[str, str]:
        return {s["name"]: s["status"] for s in json.loads((self.out / "pipeline.json").read_text())["stages"]}

    def changed(self, *again: str) -> dict[str, str]:
        return {name: "ran" if name in again else "skipped" for name in STAGES}
