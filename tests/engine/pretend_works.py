"""What trains and samples, on the CPU and on a card that is pretended, with the numbers that it gives on each.

python -m tests.engine.pretend FOLDER/guard.so FOLDER float32 [NAME ...]
"""

from __future__ import annotations

import json
import re
import tempfile
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from transformers import LlamaConfig, MixtralConfig

from accord import load_model
from accord.engine import adam, checkpoint, flex
from accord.engine.config import TrainingConfig
from accord.engine.decoding import decoder
from accord.engine.fit import LossTerm, Optimizer
from accord.engine.forward import log_probabilities
from accord.engine.generate import generate, stream
from accord.engine.models import prepare_network
from accord.engine.precision import autocast
from accord.engine.sampling import Sampling
from accord.engine.trees import pack
from accord.feedback.judge import ScoreJudge
from accord.methods import DPO, GRPO, KTO, PPO, SFT, NashMD, OnlineDPO, PreferenceModel, RewardModel
from accord.prompting.local import Local
from accord.prompting.requests import Request
from tests import conftest
from tests.commands.small import save_model
from tests.engine.pretend import card, waited
from tests.engine.pretend_commands import COMMANDS, SHORT, Commands
from tests.engine.tiny import CONFIGS, SIZES, VOCABULARY, ragged_trees, random_model

Work = Callable[[str], Any]
"""What is done on a device, by its name: gives numbers."""

PAIRS = [{"prompt": a, "chosen": f"{b} good", "rejected": f"{b} bye"} for a in ("hi", "hello") for b in ("day", "bad")]
LABELS = [{"prompt": row["prompt"], "completion": row["chosen"], "label": i % 2 == 0} for i, row in enumerate(PAIRS)]
PROMPTS = [{"prompt": text} for text in ("hi", "hello", "good day", "bad")]
CHATS = [{"prompt": [{"role": "user", "content": row["prompt"]}]} for row in PROMPTS]


def network(name: str, device: str) -> Any:
    return prepare_network(random_model(CONFIGS[name](), dtype=torch.float32)).to(device)


def updates(name: str, dtype: Any, device: str) -> Any:
    """Two steps of a network of this architecture; in float32 its weights afterwards too."""
    model = network(name, device)
    optimizer = Optimizer({"policy": model}, TrainingConfig(dtype=dtype), 3)

    def objective(trees: Any) -> Any:
        logp, entropy = log_probabilities(model, trees, 0.9, top_k=9, top_p=0.95, entropy=True)
        return -logp.clamp(min=-20), {"entropy": entropy}

    packs = pack(ragged_trees(), 300, optimizer.device)
    told = [optimizer.update(step, LossTerm(objective, packs, "token")) for step in range(2)]
    return told, [p.tolist() for p in model.parameters()] if dtype == "float32" else []


def by_flex(device: str) -> Any:
    """One update, on the card by FlexAttention in the place of whose kernel attention is written out."""
    sizes = {**SIZES, "hidden_size": 64, "vocab_size": VOCABULARY, "eos_token_id": 0, "pad_token_id": None}
    model = prepare_network(random_model(LlamaConfig(**sizes, sliding_window=200), dtype=torch.float32)).to(device)
    optimizer = Optimizer({"policy": model}, TrainingConfig(dtype="bfloat16"), 3)
    used = []

    def kernel(query: Any, key: Any, value: Any, *, block_mask: Any, scale: float, **_: Any) -> Any:
        used.append(query.dtype)
        at = torch.arange(query.shape[2], device=query.device)
        seen = block_mask.mask_mod(at, at, at[:, None], at[None])
        key, value = (x.repeat_interleave(2, 1) for x in (key, value))
        scores = (query @ key.transpose(2, 3)).float() * scale
        return (scores.masked_fill(~seen, -torch.inf).softmax(-1).to(value.dtype)) @ value

    def objective(trees: Any) -> Any:
        return -log_probabilities(model, trees)[0], {}

    with patch.object(flex, "compiled", lambda: kernel), patch.object(flex, "LEAST", 64):
        told = optimizer.update(0, LossTerm(objective, pack(ragged_trees(), 700, optimizer.device), "token"))
    assert used == ([torch.bfloat16] * 2 if device == "cuda" else []), used
    return told


def samples(dtype: Any, device: str) -> Any:
    how = Sampling(9, 1.2, 9, 0.95, min_new_tokens=2)
    prompts = [(3, 1, 4), (2,), (5, 5, 5, 5)]
    model, other = (network(name, device) for name in ("gemma2", "mamba"))
    with autocast(getattr(torch, dtype), device):
        return [
            generate(model, prompts, 5, how, end=0, vocabulary=12, capacity=10),
            list(stream(model, prompts[0], how, end=0, vocabulary=12)),
            generate(other, prompts, 2, Sampling(3), end=0),
        ]


def graphed_samples(device: str) -> Any:
    """Of networks tried on the device, whose steps are graphs unless they wait for numbers, as dynamic RoPE."""
    how, prompts = Sampling(9, 1.2, min_new_tokens=2), [(3, 1, 4), (2,), (5, 5, 5, 5)]
    sizes: dict[str, Any] = {**SIZES, "vocab_size": VOCABULARY}
    configs = {
        **{name: CONFIGS[name]() for name in ("llama", "gemma2")},
        "mixtral": MixtralConfig(**sizes, num_local_experts=4, num_experts_per_tok=2),
        "dynamic": LlamaConfig(**sizes, rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}),
    }
    models = [prepare_network(random_model(c, dtype=torch.float32).to(device), n) for n, c in configs.items()]
    graphed = ["GraphedCache" if device == "cuda" else "Cache"] * 3
    assert [type(decoder(model, 9)).__name__ for model in models] == [*graphed, "Cache"]
    return [generate(model, prompts, 5, how, end=0, capacity=10) for model in models]


def length(completions: list[str], **_: Any) -> list[float]:
    return [float(len(str(text))) for text in completions]


def goes_on(messages: Any) -> str:
    return "good day"


LONGER = ScoreJudge(lambda _, text: float(len(str(text))))


class Runs:
    """Works on the small model that is in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        save_model(folder / "model")

    def model(self, device: str) -> Any:
        return load_model(str(self.folder / "model"), device=device)

    def run(self, method: Any, device: str, rows: Any, **more: Any) -> Any:
        """The numbers of a run's steps, without times."""
        result = method.fit(self.model(device), rows, out=Path(tempfile.mkdtemp(dir=self.folder)) / "run", **more)
        return [{k: v for k, v in row.items() if "second" not in k and "per_" not in k} for row in result.metrics]

    def methods(self, dtype: str) -> dict[str, Work]:
        """Runs of methods with products in this precision."""
        steps: dict[str, Any] = {"batch_size": 2, "max_steps": 2, "dtype": dtype, "learning_rate": 1e-2}
        sampled = {**steps, "max_new_tokens": 5}

        def of(rows: Any, kind: Any, more: Any = None, **settings: Any) -> Work:
            return lambda device: self.run(kind(**settings), device, rows, **(more or {}))

        def on_host(rows: Any, kind: Any, more: Any = None, **settings: Any) -> Work:
            """The reference is on the host, which only a card's is."""
            return lambda device: self.run(
                kind(**settings, offload_reference=device == "cuda"), device, rows, **(more or {})
            )

        rewarded, judged = {"reward": length}, {"judge": LONGER}
        return {
            "dpo with adapters": of(PAIRS, DPO, **steps, lora_rank=2),
            "dpo, the reference computed once": of(PAIRS, DPO, **steps, precompute_reference=True),
            "dpo, the reference on the host": on_host(PAIRS, DPO, **steps),
            "kto": of(LABELS, KTO, **steps),
            "reward": of(PAIRS, RewardModel, **steps),
            "preference": of(PAIRS, PreferenceModel, **steps),
            "grpo": of(PROMPTS, GRPO, rewarded, **sampled, group_size=3),
            "grpo, turn by turn": of(
                CHATS, GRPO, rewarded, **sampled, group_size=2, user=goes_on, max_turns=2, reward_at="turns-to-go"
            ),
            "grpo, the reference on the host": on_host(
                PROMPTS, GRPO, rewarded, **sampled, group_size=3, kl_coefficient=0.1
            ),
            "ppo": of(PROMPTS, PPO, rewarded, **sampled),
            "online dpo": of(PROMPTS, OnlineDPO, judged, **sampled),
            "nash-md, the reference on the host": on_host(PROMPTS, NashMD, judged, **sampled, past=1, snapshot_every=1),
            "muon": of(PAIRS, SFT, **steps, optimizer="muon"),
            "activations computed again": of(PAIRS, SFT, **steps, activation_checkpointing=True),
            "int8": of(PAIRS, DPO, **steps, lora_rank=2, quantize="int8"),
            "nf4": of(PAIRS, DPO, **steps, lora_rank=2, quantize="nf4"),
            **({"rounded weights": of(PAIRS, SFT, **steps, weight_dtype=dtype)} if dtype == "bfloat16" else {}),
            "a model that is asked": lambda device: self.asked(dtype, device),
        }

    def resumed(self, device: str) -> Any:
        """Three steps, stopped after the second; states are in 8 bits, and those of the card on the host."""
        steps: dict[str, Any] = {"batch_size": 2, "max_steps": 3, "dtype": "float32", "learning_rate": 1e-2}
        method = DPO(**steps, optimizer_states="8bit", offload_optimizer=device == "cuda")
        run, real, held = Path(tempfile.mkdtemp(dir=self.folder)) / "run", checkpoint.load, set[type]()
        fit = {"out": run, "save_every": 1}

        def load(at: Path, optimizer: Any, *given: Any) -> Any:
            done = real(at, optimizer, *given)
            held.update(type(tensor) for state in optimizer.rule.state.values() for tensor in state.values())
            return done

        def stop(step: int, _: object) -> None:
            if step == 2:
                raise KeyboardInterrupt

        with patch.object(adam, "SMALLEST", 256), patch.object(checkpoint, "load", load):
            with suppress(KeyboardInterrupt):
                method.fit(self.model(device), PAIRS, **fit, on_step=stop)
            result = method.fit(self.model(device), PAIRS, **fit, resume=True)
        assert held == {Tensor}, held
        return [row["loss"] for row in result.metrics]

    def asked(self, dtype: str, device: str) -> Any:
        """Replies of a model in this process, and how likely they begin with words."""
        requests = [
            Request(prompt=prompt, max_tokens=4, temperature=1.0, seed=i, choices=("good", "bad"))
            for i, prompt in enumerate(("hi", "bye"))
        ]
        replies = Local(self.model(device).in_dtype(dtype))(requests)
        return [(list(map(ord, str(reply.text))), reply.choices) for reply in replies]


def works(folder: Path, dtype: str) -> dict[str, Work]:
    """Everything that is done on both devices with products in this precision, by name; or all commands."""
    if dtype == "commands":
        return Commands(folder).works(COMMANDS)
    runs = Runs(folder)
    own: dict[str, Work] = {
        f"update {name}": lambda device, name=name: updates(name, dtype, device)  # type: ignore[misc]
        for name in ("llama", "gemma2", "mamba")
    }
    own["sampling"] = lambda device: samples(dtype, device)
    if dtype == "float32":
        own |= {"by flex": by_flex, "sampling by graphs": graphed_samples, "resumed": runs.resumed}
        own |= Commands(folder).works(SHORT)
    return own | runs.methods(dtype)


def apart(got: Any, expected: Any) -> float:
    """The largest difference of two numbers, relative to 1 where they are smaller."""
    one, other = ([float(x) for x in re.findall(r"-?\d+(?:\.\d+)?(?:e-?\d+)?", repr(each))] for each in (got, expected))
    assert len(one) == len(other)
    return max((abs(a - b) / max(1, abs(b)) for a, b in zip(one, other, strict=True)), default=0.0)


def main(folder: Path, dtype: str, only: list[str]) -> None:
    """Every work on both devices; prints, as JSON, whether the numbers are the same and what was waited for.

    Reports stay blank: no device takes part in pictures, which are a third of the time.
    """
    torch.set_num_threads(1)
    patch("accord.report.refresh_report", conftest.blank).start()
    found: dict[str, Any] = {}
    for name, work in works(folder, dtype).items():
        if only and name not in only:
            continue
        waited.clear()
        try:
            expected = work("cpu")
            with card():
                got = work("cuda")
            found[name] = {"apart": apart(got, expected), "waits": dict(sorted(waited.items()))}
        except Exception as error:
            lines = [f"{Path(f.filename).name}:{f.lineno}" for f in traceback.extract_tb(error.__traceback__)]
            found[name] = {"failed": f"{type(error).__name__} {str(error)[:300]} {lines}"}
    print(json.dumps(found))
