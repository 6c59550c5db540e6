"""Keys in the environment, as canaries: after every kind of command, failing ones too, they are in no file or output.

What a URL of `--reward` holds is not among them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("openai")

from tests.commands.small import accord
from tests.feedback.serving import serving
from tests.prompting.faulty import Faulty
from tests.trust.commands import SAMPLED, SMALL, STEPS, WORDS_OF, Command, write_inputs

NAMES = (
    "OPENAI_API_KEY", "ACCORD_KEY", "ACCORD_OTHER_KEY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY",
    "ANTHROPIC_API_KEY", "AWS_SECRET_ACCESS_KEY", "GITHUB_TOKEN", "MLFLOW_TRACKING_PASSWORD",
)  # fmt: skip
CANARIES = {name: f"sk-canary-{number}-0123456789abcdef" for number, name in enumerate(NAMES)}
REPLIES = ("A", "401", "429;-;insufficient_quota", "500", "400", "garbage", "html", "null", "half")
"""What a judge's server does; errors quote the key that it was sent."""
FAILS: dict[str, list[str]] = {
    "no data": ["sft", "--model", "IN/base", "--data", "IN/none.jsonl", "--out", "OUT/x"],
    "no model": ["sample", "--model", "IN/none", "--data", "IN/prompts.jsonl", "--out", "OUT/x.jsonl"],
    "a damaged model": ["sample", "--model", "IN/broken", "--data", "IN/prompts.jsonl", "--out", "OUT/x.jsonl"],
    "other settings": ["sft", "--model", "IN/base", "--data", "IN/rows.jsonl", *SMALL, *STEPS, "--seed", "7",
                       "--out", "OUT/run", "--resume"],
    "a function that raises": ["grpo", "--model", "IN/base", "--data", "IN/prompts.jsonl", "--reward", "told:all",
                               *SMALL, *STEPS, *SAMPLED, "--group-size", "2", "--out", "OUT/x"],
    "a diverging step": ["sft", "--model", "IN/base", "--data", "IN/rows.jsonl", *SMALL, *STEPS,
                         "--learning-rate", "1e38", "--warmup", "0", "--schedule", "constant", "--out", "OUT/x"],
    "no such option": ["dpo", "--model", "IN/base", "--nothing", "1"],
    "no hub": ["push", "IN/base", "someone/something"],
    "no run": ["report", "IN"],
}  # fmt: skip


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "home"
    write_inputs(folder / "in")
    (folder / "in" / "broken").mkdir()
    (folder / "in" / "broken" / "config.json").write_text('{"model_type": "llama"}')
    (folder / "in" / "told.py").write_text("def all(prompts, completions):\n    raise ValueError('a bug')\n")
    for name, value in CANARIES.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("ACCORD_DEBUG", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr("accord.prompting.faults.BASE", 0.01)
    monkeypatch.chdir(folder / "in")
    return folder


@pytest.fixture
def server() -> Iterator[Faulty]:
    with serving(Faulty()) as running:
        yield running


def leaked(text: bytes) -> list[str]:
    """Whose keys are there, whole or by their last half."""
    return [name for name, value in CANARIES.items() if value[-20:].encode() in text]


def require_secret(home: Path, said: tuple[str, str], what: str) -> int:
    """No output and no file below the folder has a canary; how many there are."""
    assert leaked("".join(said).encode()) == [], f"{what}: {''.join(said)}"
    files = [path for path in home.rglob("*") if path.is_file()]
    assert {str(path): found for path in files if (found := leaked(path.read_bytes()))} == {}, what
    return len(files)


@pytest.mark.parametrize(
    "names",
    [pytest.param(["sft", "evaluate models"], id="few"), pytest.param([*WORDS_OF], id="all", marks=pytest.mark.slow)],
)
def test_no_command_tells_a_key(names: list[str], home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    total = 0
    for name in names:
        command = Command(name, home)
        command.clear()
        words = [
            "tensorboard" if word == "none" else word for word in command.words
        ]  # a tracker, which is told the settings
        assert accord(*words) == 0
        total += require_secret(home, capfd.readouterr(), name)
    print(f"{len(names)} commands, {total} files")


def test_no_failing_command_tells_a_key(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    command = Command("sft", home)
    command.clear()
    assert accord(*command.words) == 0
    capfd.readouterr()
    for what, words in FAILS.items():
        given = [w.replace("IN", f"{home}/in", w.startswith("IN")).replace("OUT/", f"{command.out}/") for w in words]
        assert accord(*given) in (2, 3), what
        printed = capfd.readouterr()
        assert "Traceback" in printed.err, what  # as ACCORD_DEBUG asks
        require_secret(home, printed, what)


@pytest.mark.parametrize("reply", REPLIES)
def test_no_judge_tells_its_key(reply: str, home: Path, server: Faulty, capfd: pytest.CaptureFixture[str]) -> None:
    server.told = lambda prompt, n: f"text:{reply}" if reply == "A" else reply
    words = ("label", "--data", home / "in" / "samples.jsonl", "--judge", f"ai:m@{server.url}", "--key", "ACCORD_KEY")
    status = accord(*words, "--retries", 1, "--out", home / "pairs.jsonl")
    assert server.asked and all(header == f"Bearer {os.environ['ACCORD_KEY']}" for _, header, _ in server.asked)
    assert status in (0, 2)
    require_secret(home, capfd.readouterr(), reply)
