"""Every command that takes a reward can give its server a key, and time."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from accord.cli.call import target_of
from accord.cli.options import options_of
from accord.cli.table import COMMANDS
from tests.commands.small import accord, save_model, write_jsonl
from tests.feedback.serving import serving

SCORERS = {"reward", "judge", "verifier", "score", "watch"}
"""Options that take a reward."""
GIVEN = {"reward_timeout", "reward_key", "reward_insecure"}
ROWS = [("hi", "good day", "bad"), ("bye", "bye", "day day"), ("good", "hi hi", "bad")]


class Scoring(BaseHTTPRequestHandler):
    """Counts the words of completions for who has the key, and knows nobody else."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        is_known = self.headers["Authorization"] == "Bearer SECRET"
        self.send_response(200 if is_known else 401)
        self.end_headers()
        words = [float(len(str(completion).split())) for completion in asked["completions"]]
        self.wfile.write(json.dumps({"rewards": words}).encode() if is_known else b"who are you?")

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, object]]:
    """What commands read, by name, and where the server is."""
    folder = tmp_path_factory.mktemp("home")
    base = save_model(folder / "base")
    pairs = write_jsonl(folder / "pairs.jsonl", [{"prompt": p, "chosen": c, "rejected": r} for p, c, r in ROWS])
    prompts = write_jsonl(folder / "prompts.jsonl", [{"prompt": p} for p, *_ in ROWS])
    samples = [{"prompt": p, "completion": text, "watched": len(text)} for p, *both in ROWS for text in both]
    many = write_jsonl(folder / "samples.jsonl", samples)
    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Scoring)) as server:
        url = f"http://127.0.0.1:{server.server_port}/"
        yield {"BASE": base, "PAIRS": pairs, "PROMPTS": prompts, "SAMPLES": many, "URL": url}


CALLED = {
    "sample": "--model BASE --data PROMPTS --reward URL --max-new-tokens 4 --out OUT.jsonl",
    "label": "--data SAMPLES --judge URL --out OUT.jsonl",
    "evaluate judge": "--data PAIRS --judge URL --out OUT",
    "evaluate comparisons": "--reward URL --data PAIRS --out OUT",
    "evaluate frontier": "--data PROMPTS --reference BASE --families.a BASE --judge cafe --reward URL --best-of-n 2 "
    "--max-new-tokens 4 --out OUT",
    "evaluate overoptimization": "--samples SAMPLES --reward URL --out OUT",
    "chat": "BASE --reward URL --max-new-tokens 4",
    "critique": "--model BASE --data PROMPTS --max-new-tokens 4 --rounds 1 --score URL --out OUT",
}


@pytest.mark.parametrize("command", CALLED)
def test_a_server_with_a_key(
    command: str, home: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    places = home | {"OUT": tmp_path / "out", "OUT.jsonl": tmp_path / "out.jsonl"}
    words = [*command.split(), *(places.get(word, word) for word in CALLED[command].split())]
    monkeypatch.setenv("MY_KEY", "SECRET")
    monkeypatch.setattr("sys.stdin", io.StringIO("hi\n"))
    assert accord(*words, "--reward-key", "MY_KEY", "--reward-timeout", "7") == 0
    assert accord(*words, "--reward-key", "OTHER") == 2
    assert "no environment variable OTHER, which --reward-key names" in " ".join(capsys.readouterr().err.split())


def test_every_command_that_takes_a_reward_has_the_options() -> None:
    for command in COMMANDS:
        options = set(options_of(target_of(command)))
        assert SCORERS.isdisjoint(options) or options >= GIVEN, command
