"""GRPO on SmolLM2-135M with vLLM servers as the sampler: equal log-probabilities, weight updates, and killed servers.

    python benchmarks/served_sampling.py --vllm vllm-env/bin/python --out served --what steps stale two commands lora

vLLM runs in an environment of its own (`--vllm`), and is started and stopped here. Prints a line of JSON per step with
the drift (the difference between the server's and the policy's log-probabilities, nats per token), and `from_start`,
the difference between the server's and the initial model's, which grows as the server follows the policy.

    steps      three steps; again, with the server killed in the second and restarted; again, with the server not
               restarted, and the run resumed
    stale      four steps whose samples are drawn a step ahead; again, with the run killed in the third and resumed
    two        three steps with two servers; again, with one killed for good in the second
    commands   sample, evaluate, label and chat with a server
    lora       three steps of training adapters
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
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
from safetensors.torch import load_file

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
WAIT = 900
"""Seconds that a server may take to start."""
LOGGED = (
    "sampler_drift", "staleness", "off_policy_drift", "handover_seconds", "samples_wait_seconds", "reward", "loss",
    "length",
)  # fmt: skip
CASES = ("steps", "stale", "two", "commands", "lora")


def letters(prompts: Sequence[object], completions: Sequence[Any]) -> list[float]:
    """The share of the letter e, a reward that is easy to move."""
    texts = [said if isinstance(said, str) else said[-1]["content"] for said in completions]
    return [text.count("e") / max(1, len(text)) for text in texts]


class Vllm:
    """The process of a vLLM server."""

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
        settings = {
            "VLLM_SERVER_DEV_MODE": "1", "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1", "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1",
        }  # fmt: skip
        own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, stdout=log, stderr=log, env=own | settings, start_new_session=True
            )

    def ready(self) -> float:
        """Wait until it answers; the seconds that took."""
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

    def drawn(self) -> int:
        """The number of samples that it has returned."""
        return self.log.read_bytes().count(b'"POST /v1/completions HTTP/1.1" 200')

    def kill(self) -> None:
        """Kill it and the processes that it started (SIGKILL)."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class Steps:
    """Records every step, and compares the servers' log-probabilities with the initial model's."""

    def __init__(self, start: Policy) -> None:
        self.start, self.rows, self.first_done = start, list[dict[str, float]](), threading.Event()

    @torch.no_grad()
    def __call__(self, step: int, result: StepResult) -> None:
        gaps = []
        for sample in result.samples:
            said = sample.completion
            [trees] = pack([Tree(sample.prompt_tokens, (Branch(said.tokens, None, said.logprobs),))], 4096, "cpu")
            gaps.append((self.start.log_probs(trees, 0.7) - trees.logprobs).abs())
        known = {name: result.numbers[name] for name in LOGGED if name in result.numbers}
        self.rows.append({"step": step, "from_start": float(torch.cat(gaps).mean()), **known})
        print(json.dumps(self.rows[-1]), flush=True)
        self.first_done.set()


def train(model: Path, out: Path, urls: str | list[str], steps: Steps | None = None, **more: Any) -> Result:
    """Train GRPO; also called in a process of its own, which is then killed."""
    own = {"max_steps": 3, "resume": False, "max_new_tokens": 32} | more
    resume = own.pop("resume")
    grpo = GRPO(
        learning_rate=2e-5, batch_size=2, group_size=4, temperature=0.7, sampler=urls,
        dtype="float32", schedule="constant", warmup=0.0, **own,
    )  # fmt: skip
    steps = steps or Steps(accord.load_model(str(model), dtype="float32"))
    return grpo.fit(str(model), PROMPTS, reward=letters, out=out, on_step=steps, resume=resume, save_every=1)


class Bench:
    """The model, the servers (started when first needed), and a method for each of `CASES`."""

    def __init__(self, python: str, out: Path, port: int, tokens: int) -> None:
        self.python, self.out, self.port, self.given = python, out, port, {"max_new_tokens": tokens}
        self.model, self.start = out / "smollm2", accord.load_model("smollm2", dtype="float32")
        self.start.save(self.model)
        self.servers: dict[str, Vllm] = {}

    def train(self, name: str, urls: str | list[str], **more: Any) -> Result:
        more = {"steps": Steps(self.start)} | more
        return train(self.model, self.out / name, urls, **self.given, **more)

    def started(self, *names: str) -> list[Vllm]:
        """The servers of these names, started and ready."""
        for name in names:
            if name not in self.servers:
                log = self.out / f"{name}.log"
                self.servers[name] = Vllm(self.python, self.model, self.port, log, lora=name == "lora")
                self.port += 1
        found = [self.servers[name] for name in names]
        for name, vllm in zip(names, found, strict=True):
            if (seconds := vllm.ready()) > 1:
                print(f"{name} answers after {seconds:.0f} s", flush=True)
        return found

    def end(self) -> None:
        for vllm in self.servers.values():
            vllm.kill()

    def steps(self) -> None:
        [vllm] = self.started("plain")
        print("three steps", flush=True)
        self.train("whole", vllm.url)
        print("killed in the second step, and restarted", flush=True)
        steps = Steps(self.start)
        threading.Thread(target=kill_in_second_step, args=(vllm, steps), daemon=True).start()
        self.train("killed", vllm.url, steps=steps)
        print("killed in the second step, and not restarted", flush=True)
        steps = Steps(self.start)
        threading.Thread(target=kill_in_second_step, args=(vllm, steps, False), daemon=True).start()
        try:
            self.train("stopped", vllm.url, steps=steps, sampler_wait=20)
        except InputError as error:
            print(f"InputError: {error}", flush=True)
        vllm.start()
        vllm.ready()
        print("resumed", flush=True)
        self.train("stopped", vllm.url, resume=True)

    def stale(self) -> None:
        [vllm] = self.started("plain")
        stale = {"max_steps": 4, "stale_steps": 1}
        print("four steps, sampled a step ahead", flush=True)
        whole = self.train("stale", vllm.url, **stale)
        print("killed in the third step", flush=True)
        out = self.out / "stale-killed"
        run = multiprocessing.get_context("spawn").Process(
            target=train, args=(self.model, out, vllm.url), kwargs=self.given | stale
        )
        run.start()
        while not (out / "checkpoints" / "step-0000002").exists() and run.is_alive():
            time.sleep(0.2)
        time.sleep(3)
        run.kill()
        run.join()
        print(f"killed (exit {run.exitcode}), and resumed", flush=True)
        again = self.train("stale-killed", vllm.url, resume=True, **stale)
        ours, theirs = (load_file(one.folder / "model" / "model.safetensors") for one in (whole, again))
        most = max(float((ours[name] - theirs[name]).abs().max()) for name in ours)
        print(f"weights differ by {most:.3g} at most", flush=True)

    def two(self) -> None:
        servers = self.started("plain", "other")
        urls = [vllm.url for vllm in servers]
        before = [vllm.drawn() for vllm in servers]
        print("three steps with two servers", flush=True)
        self.train("two", urls)
        counts = [vllm.drawn() - count for vllm, count in zip(servers, before, strict=True)]
        print(f"samples from each server: {counts}", flush=True)
        print("the second is killed in the second step", flush=True)
        steps = Steps(self.start)
        threading.Thread(target=kill_in_second_step, args=(servers[1], steps, False), daemon=True).start()
        self.train("two-killed", urls, steps=steps, sampler_wait=60)
        del self.servers["other"]

    def lora(self) -> None:
        [vllm] = self.started("lora")
        print("three steps of training adapters", flush=True)
        self.train("lora", vllm.url, lora_rank=8)

    def commands(self) -> None:
        [vllm] = self.started("plain")
        data, samples, model = self.out / "prompts.jsonl", self.out / "samples.jsonl", str(self.model)
        rows = [{**row, "answer": "3"} for row in PROMPTS[:3]]
        data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        drawing = ["--data", str(data), "--max-new-tokens", "16", "--dtype", "float32", "--n", "2", "--overwrite"]
        drawing += ["--sampler", vllm.url, "--model", model]
        judge = ["--judge", f"ai:{model}@{vllm.url}", "--overwrite"]
        run("sample", *drawing, "--out", str(samples))
        run("evaluate", "passes", *drawing, "--verifier", "exact", "--out", str(self.out / "passes"))
        run("label", "--data", str(samples), *judge, "--soft", "--out", str(self.out / "labels.jsonl"))
        run("chat", "--server", vllm.url, "--max-new-tokens", "16", text="Name three fruits.\n")


def run(*words: str, text: str = "") -> None:
    """Run a command of accord, and print its exit status."""
    print(f"accord {' '.join(words)}", flush=True)
    begun = time.monotonic()
    ended = subprocess.run([sys.executable, "-m", "accord", *words], input=text, text=True)
    print(f"exit {ended.returncode} after {time.monotonic() - begun:.0f} s", flush=True)


def kill_in_second_step(vllm: Vllm, steps: Steps, again: bool = True) -> None:
    """Kill a server once the first step is done and it has begun to sample for the second; restart it if `again`."""
    steps.first_done.wait()
    before = vllm.log.stat().st_size
    while b"Resetting prefix cache" not in vllm.log.read_bytes()[before:]:
        time.sleep(0.05)
    time.sleep(0.3)
    vllm.kill()
    print("killed", flush=True)
    if again:
        vllm.start()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vllm", required=True, help="the Python of the environment that has vLLM")
    parser.add_argument("--out", type=Path, required=True, help="folder of runs and logs")
    parser.add_argument("--port", type=int, default=8000, help="port of the first server; others get the next ones")
    parser.add_argument("--tokens", type=int, default=32, help="most tokens of a sample")
    parser.add_argument("--what", nargs="+", choices=CASES, default=["steps"], help="cases to run")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    bench = Bench(asked.vllm, asked.out, asked.port, asked.tokens)
    try:
        for what in asked.what:
            getattr(bench, what)()
    finally:
        bench.end()


if __name__ == "__main__":
    main()
