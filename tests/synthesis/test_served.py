"""Instructions from a served model: what was answered is in the folder, and is not asked again."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

pytest.importorskip("openai")

from tests.commands.small import accord, read_jsonl, write_jsonl
from tests.feedback.serving import serving
from tests.prompting.faulty import Faulty
from tests.synthesis.scripted import SEEDS, WORDS

CANARY = "sk-canary-0123456789"


def test_a_server_that_refuses_midway(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("SERVER_KEY", CANARY)
    refused = [7, 20]

    def told(prompt: str, n: int) -> str:
        if len(server.asked) in refused:
            return "401"
        return "text:Tell " + " ".join(random.Random(f"{prompt} {n}").choices(WORDS, k=6))

    seeds = write_jsonl(tmp_path / "seeds.jsonl", [{"instruction": seed.instruction} for seed in SEEDS])
    out = tmp_path / "out"
    with serving(Faulty(told)) as server:
        words = [
            "instruct",
            "--server",
            server.url,
            "--key",
            "SERVER_KEY",
            "--model",
            "small",
            "--seeds",
            seeds,
            "--out",
            out,
        ]
        words += ["--generator", "evolve", "--requests", 4, "--count", 10, "--parallel", 1]
        assert [accord(*words) for _ in range(3)] == [2, 2, 0]
        asked = [json.dumps(body, sort_keys=True) for _, _, body in server.asked]
        again = len(asked) - len(set(asked))
        assert again == len(refused)  # only what was refused
    shown = "".join(capsys.readouterr())
    assert "the same command goes on" in shown and CANARY not in shown
    assert len(read_jsonl(out / "demonstrations.jsonl")) >= 10
    assert not any(CANARY in path.read_text(encoding="utf-8") for path in out.iterdir())
