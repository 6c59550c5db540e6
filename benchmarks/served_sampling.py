"""A vLLM server as the sampler of GRPO on SmolLM2-135M: the same numbers, weights that follow, and what a kill does.

    python benchmarks/served_sampling.py --vllm vllm-env/bin/python --out served

vLLM runs in an environment of its own, and is started and ended here. Every row is a step: its drift (nats a token by
which the server's log-probabilities and the policy's differ), and by how many nats the server's differ from those of
the model as it was at first, which the policy leaves behind.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

import accord
from accord.engine.models import Policy
from accord.engine.trees import Branch, Tree, pack
from accord.errors import InputError
from accord.methods import GRPO
from accord.train.learner import StepResult
from accord.train.loop import Result

PROMPTS = [
    {"prompt": [{"role": "user", "content": text}]}
    for text in (
        "What is a lighthouse?", "Name three fruits.", "Why is the sky blue?", "What do bees do?",
        "Tell me about rivers.", "How is bread made?",
    )
]  # fmt: skip
WAIT = 600


def letters(prompts: Sequence[object], completions: Sequence[Any]) -> list[float]:
    """The share of the letter e: whatever moves the policy will do."""
    texts = [said if isinstance(said, str) else said[-1]["content"] for said in completions]
    return [text.count("e") / max(1, len(text)) for text in texts]


class Vllm:
    """The server's process."""

    def __init__(self, python: str, model: Path, port: int, log: Path, lora: bool) -> None:
        self.command = [
            python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model), "--host", "127.0.0.1",
            "--port", str(port), "--dtype", "float32", "--logprobs-mode", "processed_logprobs",
            "--generation-config", "vllm", "--max-model-len", "512", "--enforce-eager",
            *(["--enable-lora", "--max-lora-rank", "8"] if lora else []),
        ]  # fmt: skip
        self.url, self.log = f"http://127.0.0.1:{port}", log
        self.start()

    def start(self) -> None:
        told = {
            "VLLM_SERVER_DEV_MODE": "1", "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1", "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1",
        }  # fmt: skip
        own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, stdout=log, stderr=log, env=own | told, start_new_session=True
            )

    def ready(self) -> float:
        """Seconds until it answers."""
        begun = time.monotonic()
        while time.monotonic() - begun < WAIT:
            if self.process.poll() is not None:
                sys.exit(f"vLLM has ended; see {self.log}")
            try:
                with urllib.request.urlopen(f"{self.url}/health", timeout=5):
                    return time.monotonic() - begun
            except (OSError, urllib.error.URLError):
                time.sleep(1)
        sys.exit(f"vLLM does not answer; see {self.log}")

    def kill(self) -> None:
        """End it, and the processes that it started, without warning."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class Steps:
    """What the server said at every step, held against the model as it was at first."""

    def __init__(self, start: Policy) -> None:
        self.start, self.rows, self.begun = start, list[dict[str, float]](), threading.Event()

    @torch.no_grad()
    def __call__(self, step: int, result: StepResult) -> None:
        gaps = []
        for sample in result.samples:
            said = sample.completion
            [trees] = pack([Tree(sample.prompt_tokens, (Branch(said.tokens, None, said.logprobs),))], 4096, "cpu")
            gaps.append((self.start.log_probs(trees, 0.7) - trees.logprobs).abs())
        known = {k: result.numbers[k] for k in ("sampler_drift", "handover_seconds", "reward", "length")}
        self.rows.append({"step": step, "from_start": float(torch.cat(gaps).mean()), **known})
        print(json.dumps(self.rows[-1]), flush=True)
        self.begun.set()


def train(model: Path, out: Path, url: str, steps: Steps, **more: Any) -> Result:
    resume = more.pop("resume", False)
    grpo = GRPO(
        learning_rate=2e-5, batch_size=2, group_size=4, max_new_tokens=32, temperature=0.7, max_steps=3, sampler=url,
        dtype="float32", schedule="constant", warmup=0.0, **more,
    )  # fmt: skip
    return grpo.fit(str(model), PROMPTS, reward=letters, out=out, on_step=steps, resume=resume, save_every=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vllm", required=True, help="the Python of the environment that has vLLM")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--lora", action="store_true", help="train adapters, which go by a new name each step")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    model, start = asked.out / "smollm2", accord.load_model("smollm2", dtype="float32")
    start.save(model)
    vllm = Vllm(asked.vllm, model, asked.port, asked.out / "vllm.log", asked.lora)
    more = {"lora_rank": 8} if asked.lora else {}
    try:
        print(f"vLLM answers after {vllm.ready():.0f} s", flush=True)
        print("three steps", flush=True)
        train(model, asked.out / "whole", vllm.url, Steps(start), **more)
        print("killed in the second step, and started again", flush=True)
        steps = Steps(start)
        threading.Thread(target=killed_in_a_step, args=(vllm, steps), daemon=True).start()
        train(model, asked.out / "killed", vllm.url, steps, **more)
        print("killed in the second step, and not started again", flush=True)
        steps = Steps(start)
        threading.Thread(target=killed_in_a_step, args=(vllm, steps, False), daemon=True).start()
        try:
            train(model, asked.out / "stopped", vllm.url, steps, sampler_wait=20, **more)
        except InputError as error:
            print(f"InputError: {error}", flush=True)
        vllm.start()
        vllm.ready()
        print("resumed", flush=True)
        train(model, asked.out / "stopped", vllm.url, Steps(start), resume=True, **more)
    finally:
        vllm.kill()


def killed_in_a_step(vllm: Vllm, steps: Steps, again: bool = True) -> None:
    """Kill the server once the first step is done and it has begun to draw for the second."""
    steps.begun.wait()
    before = vllm.log.stat().st_size
    while b"Resetting prefix cache" not in vllm.log.read_bytes()[before:]:
        time.sleep(0.05)
    time.sleep(0.3)
    vllm.kill()
    print("killed", flush=True)
    if again:
        vllm.start()


if __name__ == "__main__":
    main()
