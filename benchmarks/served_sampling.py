"""vLLM servers as the sampler of GRPO on SmolLM2-135M: the same numbers, weights that follow, and what a kill does.

    python benchmarks/served_sampling.py --vllm vllm-env/bin/python --out served --what steps stale two commands lora

vLLM runs in an environment of its own, and is started and ended here. Every row is a step: its drift (nats a token by
which the server's log-probabilities and the policy's differ), and by how many nats the server's differ from those of
the model as it was at first, which the policy leaves behind.

    steps      three steps; again with the server killed in the second and started again; again with it not started
               again, and resumed
    stale      four steps whose samples are drawn a step ahead; again with the run killed in the third, and resumed
    two        three steps by two servers; again with one killed in the second step for good
    commands   sample, evaluate, label and chat by a server
    lora       three steps of adapters
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
LOGGED = (
    "sampler_drift", "staleness", "off_policy_drift", "handover_seconds", "samples_wait_seconds", "reward", "loss",
    "length",
)  # fmt: skip
CASES = ("steps", "stale", "two", "commands", "lora")


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

    def drawn(self) -> int:
        """The samples that it has answered."""
        return self.log.read_bytes().count(b'"POST /v1/completions HTTP/1.1" 200')

    def kill(self) -> None:
        """End it, and the processes that it started, without warning."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class Steps:
    """What the servers said at every step, held against the model as it was at first."""

    def __init__(self, start: Policy) -> None:
        self.start, self.rows, self.begun = start, list[dict[str, float]](), threading.Event()

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
        self.begun.set()


def train(model: Path, out: Path, urls: str | list[str], steps: Steps | None = None, **more: Any) -> Result:
    """The run, of which another process is told by `metrics.jsonl` alone."""
    own = {"max_steps": 3, "resume": False, "max_new_tokens": 32} | more
    resume = own.pop("resume")
    grpo = GRPO(
        learning_rate=2e-5, batch_size=2, group_size=4, temperature=0.7, sampler=urls,
        dtype="float32", schedule="constant", warmup=0.0, **own,
    )  # fmt: skip
    steps = steps or Steps(accord.load_model(str(model), dtype="float32"))
    return grpo.fit(str(model), PROMPTS, reward=letters, out=out, on_step=steps, resume=resume, save_every=1)


class Bench:
    """The model, the servers, which are started when they are first needed, and what is done with them."""

    def __init__(self, python: str, out: Path, port: int, tokens: int) -> None:
        self.python, self.out, self.port, self.given = python, out, port, {"max_new_tokens": tokens}
        self.model, self.start = out / "smollm2", accord.load_model("smollm2", dtype="float32")
        self.start.save(self.model)
        self.servers: dict[str, Vllm] = {}

    def train(self, name: str, urls: str | list[str], **more: Any) -> Result:
        more = {"steps": Steps(self.start)} | more
        return train(self.model, self.out / name, urls, **self.given, **more)

    def begun(self, *names: str) -> list[Vllm]:
        """Servers of these names, which answer."""
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
        [vllm] = self.begun("plain")
        print("three steps", flush=True)
        self.train("whole", vllm.url)
        print("killed in the second step, and started again", flush=True)
        steps = Steps(self.start)
        threading.Thread(target=killed_in_a_step, args=(vllm, steps), daemon=True).start()
        self.train("killed", vllm.url, steps=steps)
        print("killed in the second step, and not started again", flush=True)
        steps = Steps(self.start)
        threading.Thread(target=killed_in_a_step, args=(vllm, steps, False), daemon=True).start()
        try:
            self.train("stopped", vllm.url, steps=steps, sampler_wait=20)
        except InputError as error:
            print(f"InputError: {error}", flush=True)
        vllm.start()
        vllm.ready()
        print("resumed", flush=True)
        self.train("stopped", vllm.url, resume=True)

    def stale(self) -> None:
        [vllm] = self.begun("plain")
        stale = {"max_steps": 4, "stale_steps": 1}
        print("four steps, drawn a step ahead", flush=True)
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
        servers = self.begun("plain", "other")
        urls = [vllm.url for vllm in servers]
        before = [vllm.drawn() for vllm in servers]
        print("three steps by two servers", flush=True)
        self.train("two", urls)
        counts = [vllm.drawn() - count for vllm, count in zip(servers, before, strict=True)]
        print(f"samples of each: {counts}", flush=True)
        print("the second is killed in the second step", flush=True)
        steps = Steps(self.start)
        threading.Thread(target=killed_in_a_step, args=(servers[1], steps, False), daemon=True).start()
        self.train("two-killed", urls, steps=steps, sampler_wait=60)
        del self.servers["other"]

    def lora(self) -> None:
        [vllm] = self.begun("lora")
        print("three steps of adapters", flush=True)
        self.train("lora", vllm.url, lora_rank=8)

    def commands(self) -> None:
        [vllm] = self.begun("plain")
        data, samples, model = self.out / "prompts.jsonl", self.out / "samples.jsonl", str(self.model)
        rows = [{**row, "answer": "3"} for row in PROMPTS[:3]]
        data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        drawing = ["--data", str(data), "--max-new-tokens", "16", "--dtype", "float32", "--n", "2", "--overwrite"]
        drawing += ["--sampler", vllm.url, "--model", model]
        judge = ["--judge", f"ai:{model}@{vllm.url}", "--overwrite"]
        run("sample", *drawing, "--out", str(samples))
        run("evaluate", "passes", *drawing, "--verifier", "exact", "--out", str(self.out / "passes"))
        run("label", "--data", str(samples), *judge, "--soft", "--out", str(self.out / "labels.jsonl"))
        run("chat", "--server", vllm.url, "--max-new-tokens", "16", said="Name three fruits.\n")


def run(*words: str, said: str = "") -> None:
    """A command, and how it ended."""
    print(f"accord {' '.join(words)}", flush=True)
    begun = time.monotonic()
    ended = subprocess.run([sys.executable, "-m", "accord", *words], input=said, text=True)
    print(f"exit {ended.returncode} after {time.monotonic() - begun:.0f} s", flush=True)


def killed_in_a_step(vllm: Vllm, steps: Steps, again: bool = True) -> None:
    """Kill a server once the first step is done and it has begun to draw for the second."""
    steps.begun.wait()
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
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--port", type=int, default=8000, help="of the first server; others take the next")
    parser.add_argument("--tokens", type=int, default=32, help="of a sample, at most")
    parser.add_argument("--what", nargs="+", choices=CASES, default=["steps"])
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
