"""PPO killed without warning and resumed is the PPO that was never interrupted, its adapted KL coefficient included."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from accord.feedback.reward import TextReward
from accord.methods import PPO
from accord.records import Prompt, Text
from accord.train.loop import Result
from accord.train.rows import read_metrics
from tests.commands.small import read_jsonl, save_model
from tests.interrupted import kill_training

STEPS = 12
ROWS = [Prompt(text) for text in ("hi", "hello", "good day", "bad day", "bye")]
TIMED = {"seconds", "tokens_per_second"}


def length(prompt: Text, completion: str) -> float:
    return len(completion) / 10


def train(model: str, out: str, *, resume: bool = False) -> Result:
    sizes: dict[str, Any] = {"batch_size": 3, "group_size": 2, "max_new_tokens": 6, "tokens_per_pass": 24}
    ppo = PPO(
        learning_rate=1e-3, max_steps=STEPS, inner_epochs=2, minibatches=2, kl_target=0.01, dtype="float32", **sizes
    )
    return ppo.fit(model, ROWS, reward=TextReward(length), out=out, resume=resume, save_every=2, sample_every=1)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_model(tmp_path_factory.mktemp("models") / "base")


def test_a_killed_run_equals_the_uninterrupted_one_bit_for_bit(base: str, tmp_path: Path) -> None:
    straight = train(base, str(tmp_path / "straight")).folder
    out, step = tmp_path / "killed", random.randrange(1, STEPS)
    kill_training(__name__, base, out, step=step, seconds=0.03)
    train(base, str(out), resume=True)
    for name in ("model/model.safetensors", "samples.jsonl"):
        assert (out / name).read_bytes() == (straight / name).read_bytes(), f"{name}, killed at step {step}"
    rows, expected = ([{k: r[k] for k in r.keys() - TIMED} for r in read_metrics(f)] for f in (out, straight))
    assert rows == expected, f"killed at step {step}"
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    # The coefficient moved by at most 2% a step, and did move: it is part of what was restored.
    coefficients = [row["kl_coefficient"] for row in rows]
    assert coefficients[0] == 0.05 and len(set(coefficients)) == STEPS
    assert all(0.98 - 1e-12 <= b / a <= 1.02 + 1e-12 for a, b in pairwise(coefficients))
    assert {row["step"] for row in read_jsonl(out / "samples.jsonl")} == set(range(1, STEPS + 1))
