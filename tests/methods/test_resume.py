"""A run killed without warning and resumed is the run that was never interrupted, bit for bit."""

from __future__ import annotations

import random
from itertools import permutations
from pathlib import Path

import pytest
import torch
import yaml
from transformers import LlamaConfig, LlamaForCausalLM

from accord.errors import InputError
from accord.methods import SFT
from accord.records import Demonstration, Message
from accord.train.loop import Result
from accord.train.rows import read_metrics
from tests.commands.small import save_model, write_jsonl
from tests.data.conftest import WORDS, word_tokenizer
from tests.days import DATED, set_day
from tests.engine.tiny import SIZES, policy_of
from tests.interrupted import kill_training

STEPS = 24
ROWS = [
    Demonstration(f"{first} {second}", f" {second} {first} good" if first < second else f" {first} bye")
    for first, second in permutations(WORDS[6:], 2)
]


def train(model: str, out: str, *, resume: bool = False) -> Result:
    sft = SFT(learning_rate=1e-2, batch_size=4, max_steps=STEPS, dtype="float32", tokens_per_pass=24)
    return sft.fit(model, ROWS, out=out, resume=resume, save_every=2)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a random little Llama with a token a word."""
    torch.manual_seed(0)
    tokenizer = word_tokenizer()
    policy = policy_of(LlamaForCausalLM(LlamaConfig(**SIZES, vocab_size=len(WORDS), pad_token_id=None)))
    policy.tokenizer = tokenizer
    return str(policy.save(tmp_path_factory.mktemp("models") / "base"))


@pytest.fixture(scope="module")
def uninterrupted(base: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(base, str(tmp_path_factory.mktemp("runs") / "straight")).folder


def test_a_killed_run_equals_the_uninterrupted_one_bit_for_bit(base: str, uninterrupted: Path, tmp_path: Path) -> None:
    out, step = tmp_path / "killed", random.randrange(1, STEPS)
    kill_training(__name__, base, out, step=step, seconds=0.05)
    train(base, str(out), resume=True)
    for name in ("model.safetensors", "config.json"):
        assert (out / "model" / name).read_bytes() == (uninterrupted / "model" / name).read_bytes(), f"step {step}"
    rows, expected = read_metrics(out), read_metrics(uninterrupted)
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    for name in ("loss", "gradient_norm", "learning_rate", "epoch", "tokens"):
        assert [row[name] for row in rows] == [row[name] for row in expected], f"{name}, killed at step {step}"


def test_a_finished_run_is_not_run_again(base: str, uninterrupted: Path) -> None:
    before = (uninterrupted / "model" / "model.safetensors").stat().st_mtime_ns
    result = train(base, str(uninterrupted), resume=True)
    assert len(result.metrics) == STEPS
    assert not (uninterrupted / "checkpoints").exists()
    assert (uninterrupted / "model" / "model.safetensors").stat().st_mtime_ns == before


def test_another_run_is_not_overwritten_nor_resumed_with_other_settings(base: str, uninterrupted: Path) -> None:
    with pytest.raises(InputError, match="holds another run; choose another --out, or continue that run with --resume"):
        train(base, str(uninterrupted))
    with pytest.raises(InputError, match="was run with batch_size = 4, not 5"):
        SFT(learning_rate=1e-2, batch_size=5, max_steps=STEPS, dtype="float32", tokens_per_pass=24).fit(
            base, ROWS, out=uninterrupted, resume=True
        )


@pytest.mark.parametrize("stream", [False, True])
def test_a_run_resumed_on_another_day_writes_the_date_on_which_it_began(
    stream: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = save_model(tmp_path / "m", DATED)
    chats = [((Message("user", f"hi {word}"),), (Message("assistant", f"good {word}"),)) for word in WORDS[6:]]
    data = write_jsonl(tmp_path / "rows.jsonl", [Demonstration(*chat) for chat in chats])

    def run(name: str, *, stops: bool = False, resume: bool = False) -> Path:
        def stop(step: int, result: object) -> None:
            if stops and step == 3:
                raise KeyboardInterrupt

        sft = SFT(learning_rate=1e-2, batch_size=2, max_steps=6, dtype="float32")
        return sft.fit(
            model, data, out=tmp_path / name, resume=resume, save_every=2, on_step=stop, stream=stream
        ).folder

    def weights(folder: Path) -> bytes:
        return (folder / "model" / "model.safetensors").read_bytes()

    set_day(monkeypatch, "2026-11-29")
    whole = run("whole")
    with pytest.raises(KeyboardInterrupt):
        run("resumed", stops=True)
    set_day(monkeypatch, "2026-11-30")
    resumed, later = run("resumed", resume=True), run("later")
    assert weights(resumed) == weights(whole) != weights(later)
    assert [row["loss"] for row in read_metrics(resumed)] == [row["loss"] for row in read_metrics(whole)]
    dates = [yaml.safe_load((folder / "config.yaml").read_text())["date"] for folder in (whole, resumed, later)]
    assert dates == ["2026-11-29", "2026-11-29", "2026-11-30"]
    for folder in (whole, later):
        assert (folder / "model" / "chat_template.jinja").read_text() == DATED
