"""What tests of samples drawn by servers share: prompts, a reward, a judge, a run, and when two runs are the same."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from accord.engine.models import Policy
from accord.methods import GRPO
from accord.train.loop import Result
from tests.data.conftest import WORDS, word_tokenizer
from tests.engine.tiny import SIZES, policy_of

PROMPTS = [{"prompt": text} for text in ("hi", "good day", "bye bye", "day", "bad hi", "good")]
SETTINGS: dict[str, Any] = {
    "learning_rate": 1e-2, "batch_size": 3, "group_size": 4, "max_new_tokens": 6, "temperature": 0.7, "max_steps": 3,
    "dtype": "float32",
}  # fmt: skip


def score(prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
    """How often what was said has the word good, and a little for every word."""
    return [text.split().count("good") + 0.1 * len(text.split()) for text in completions]


def judge(prompts: Sequence[str], firsts: Sequence[str], seconds: Sequence[str]) -> list[float]:
    """The longer one wins."""
    return [float(len(first) > len(second)) for first, second in zip(firsts, seconds, strict=True)]


def run(model: str | Policy, out: Path, **more: Any) -> Result:
    """GRPO on the prompts, by SETTINGS and more."""
    resume = more.pop("resume", False)
    return GRPO(**SETTINGS | more).fit(model, PROMPTS, reward=score, out=out, resume=resume, save_every=1)


def weights(result: Result) -> dict[str, torch.Tensor]:
    """The weights that a run has saved."""
    return load_file(result.folder / "model" / "model.safetensors")


def same(found: Result, wanted: Result) -> None:
    """Weights bit for bit, and what was logged, but for times."""
    for name, weight in weights(wanted).items():
        assert torch.equal(weights(found)[name], weight), name
    for row, other in zip(found.metrics, wanted.metrics, strict=True):
        assert {k: row[k] for k in ("reward", "loss", "length", "kl", "sampler_drift")} == {
            k: other[k] for k in ("reward", "loss", "length", "kl", "sampler_drift")
        }


def other_model(folder: Path, **more: Any) -> str:
    """A folder with another model that reads the same words."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        config = LlamaConfig(**{**SIZES, "vocab_size": len(WORDS)} | more, pad_token_id=None)
        policy = policy_of(LlamaForCausalLM(config))
    policy.tokenizer = word_tokenizer()
    policy.save(folder)
    return str(folder)
