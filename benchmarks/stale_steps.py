"""Asynchronous sampling in the café: what samples from a policy some steps old cost in reward and KL, and save in time.

    python benchmarks/stale_steps.py --out runs/stale
    python benchmarks/stale_steps.py --out runs/stale --time [--delay 1]

GRPO learns from the gold reward of samples drawn by a server, with `--stale-steps` 0, 1, 2 and 4, with and without
`--importance-cap 2`, three seeds each. Prints the gold reward and the KL of the final policies on held-out prompts.

With --time, prints seconds per step, with the trainer on one core and the server on another. A synchronous step waits W
seconds for its samples and takes T for the rest; a step whose samples are generated ahead should take the longer of the
two. --delay adds seconds to every batch of the server, without using a CPU.

The server is the one of the tests, in a process of its own, which samples with accord's engine; here it batches
concurrent requests. Finished runs are reused.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, Queue
from statistics import median
from typing import Any

import torch
from processes import mean_and_range
from rich.console import Console
from rich.table import Table

import accord
import accord.report
from accord.engine.generate import generate
from accord.engine.models import Policy
from accord.engine.sampling import Sampling
from accord.engine.trees import Branch, Tree, pack
from accord.feedback.named import as_reward
from accord.methods import GRPO
from accord.records import Completion

sys.path.append(str(Path(__file__).parents[1]))
from tests.prompting import pretend_vllm

STALE = (0, 1, 2, 4)
ARMS = [(0, None), *((stale, cap) for stale in STALE[1:] for cap in (None, 2.0))]
"""Stale steps, and caps of importance weights (which are 1 without staleness)."""
TIMED = 10
"""Steps of a timed run, including two of warmup."""
SETTINGS: dict[str, Any] = {
    "learning_rate": 5e-4, "batch_size": 8, "group_size": 4, "max_new_tokens": 40, "max_length": 128,
    "schedule": "constant", "dtype": "float32", "kl_coefficient": 0.04,
}  # fmt: skip
HELD_OUT = 100
"""Prompts that the final policies answer, twice each."""
TOGETHER, PATIENCE = 64, 0.02
"""Most samples in a batch of the server, and the seconds it waits for more."""


class Batches(threading.Thread):
    """Samples for concurrent requests in batches."""

    def __init__(self, server: Server, delay: float) -> None:
        super().__init__(daemon=True)
        self.server, self.delay = server, delay
        self.asked: Queue[tuple[dict[str, Any], Future[Completion]]] = Queue()

    def draw(self, body: dict[str, Any]) -> Completion:
        """Request a sample, and wait for it."""
        drawn: Future[Completion] = Future()
        self.asked.put((body, drawn))
        return drawn.result()

    def run(self) -> None:
        while True:
            jobs, until = [self.asked.get()], time.monotonic() + PATIENCE
            while len(jobs) < TOGETHER and (left := until - time.monotonic()) > 0:
                try:
                    jobs.append(self.asked.get(timeout=left))
                except Empty:
                    break
            policy, first = self.server.policy, jobs[0][0]
            sampling = Sampling(first["max_tokens"], first["temperature"], min_new_tokens=first["min_tokens"])
            prompts, seeds = [tuple(body["prompt"]) for body, _ in jobs], [body["seed"] for body, _ in jobs]
            with self.server.lock:
                groups = generate(policy.network, prompts, 1, sampling, seeds=seeds, **policy.limits)
            time.sleep(self.delay)
            for (_, drawn), [said] in zip(jobs, groups, strict=True):
                drawn.set_result(said)


class Handler(pretend_vllm.Handler):
    server: Server

    def do_POST(self) -> None:
        if self.path != "/v1/completions":
            return super().do_POST()
        said = self.server.batches.draw(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        shown = {"token_logprobs": list(said.logprobs)}
        finish = "stop" if said.stop == "end" else "length"
        self.answer({"choices": [{"token_ids": list(said.tokens), "logprobs": shown, "finish_reason": finish}]})


class Server(pretend_vllm.Vllm):
    def __init__(self, model: str, delay: float) -> None:
        super().__init__(model)
        self.RequestHandlerClass = Handler  # type: ignore[assignment]
        self.batches = Batches(self, delay)
        self.batches.start()


def pin(core: int) -> None:
    """Run this process on one core, with one thread."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[core % len(cores)]})
    torch.set_num_threads(1)


@contextmanager
def served(model: Path, delay: float = 0.0) -> Iterator[str]:
    """Start a server in a process of its own, on the second core; its URL."""
    command = [sys.executable, __file__, "--serve", str(model), "--delay", str(delay)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert process.stdout is not None
    url = process.stdout.readline().strip()
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=60):
            yield url
    finally:
        process.kill()
        process.wait()


def train(model: Path, out: Path, url: str, **more: Any) -> accord.train.loop.Result:
    data = model.parents[1] / "world" / "prompts.jsonl"
    grpo = GRPO(**SETTINGS, sampler=url, sampler_folder="/dev/shm" if Path("/dev/shm").is_dir() else None, **more)
    return grpo.fit(str(model), str(data), reward="cafe", out=out, track="none", save_every=10**6)


@torch.no_grad()
def evaluate(policy: Policy, start: Policy, prompts: Sequence[accord.records.Prompt]) -> dict[str, float]:
    """The mean gold reward of answers to held-out prompts, and their KL to the initial model, nats per answer."""
    encoded, _ = accord.data.encoding.encode_prompts(
        policy.tokenizer, prompts, room=40, context=policy.context, longest=128
    )
    said = policy.sample(encoded, 2, Sampling(40, seed=1))
    trees = [Tree(s.prompt_tokens, (Branch(s.completion.tokens, None, s.completion.logprobs),)) for s in said]
    gaps = [(t.logprobs - start.log_probs(t)).sum() for t in pack(trees, 4096, "cpu")]
    gold = as_reward("cafe", policy)(said)
    return {"gold": float(gold.double().mean()), "kl": float(torch.stack(gaps).sum()) / len(said)}


def run_study(model: Path, out: Path, steps: int, seeds: Sequence[int]) -> None:
    """Run every setting and seed that is missing, and print the table."""
    done, start = out / "effect.jsonl", accord.load_model(str(model), dtype="float32")
    rows = [json.loads(line) for line in done.read_text().splitlines()] if done.exists() else []
    prompts = accord.data.load_prompts(str(model.parents[1] / "world" / "heldout.jsonl"))[:HELD_OUT]
    with served(model) as url:
        for seed in seeds:
            for stale, cap in ARMS:
                known = {"stale": stale, "cap": cap, "seed": seed, "steps": steps}
                if any(known.items() <= row.items() for row in rows):
                    continue
                name = f"stale-{stale}-cap-{cap}-seed-{seed}"
                settings = {"stale_steps": stale, "importance_cap": cap, "seed": seed, "max_steps": steps}
                found = train(model, out / name, url, **settings)
                last = found.metrics[-10:]
                means = {
                    key: sum(row[key] for row in last) / len(last)
                    for key in ("sampler_drift", "off_policy_drift", "importance_weight")
                    if key in last[-1]
                }
                rows.append(known | means | evaluate(found.model, start, prompts))
                with done.open("a") as file:
                    file.write(json.dumps(rows[-1]) + "\n")
                print(rows[-1], flush=True)
    before = evaluate(start, start, prompts)
    table = Table("stale steps", "cap", "gold reward", "KL", "off-policy drift", "sampler drift", "weight")
    for stale, cap in ARMS:
        some = [r for r in rows if (r["stale"], r["cap"], r["steps"]) == (stale, cap, steps) and r["seed"] in seeds]
        mean = {
            key: f"{sum(r[key] for r in some) / len(some):.2g}"
            for key in ("off_policy_drift", "sampler_drift", "importance_weight")
            if some and key in some[0]
        }
        gold, kl = (mean_and_range([row[key] for row in some], 2) for key in ("gold", "kl"))
        table.add_row(str(stale), str(cap or "none"), gold, kl, *(mean.get(k, "") for k in
                      ("off_policy_drift", "sampler_drift", "importance_weight")))  # fmt: skip
    Console(width=120).print(f"before: gold reward {before['gold']:.2f}", table, highlight=False)


def timed(model: Path, out: Path, delay: float) -> None:
    """Print the seconds of a step, and what synchronous steps lead to expect."""
    pin(0)
    table = Table("stale steps", "seconds per step", "of which waiting for samples", "expected")
    expected = 0.0
    with served(model, delay) as url:
        for stale in STALE:
            folder = out / f"timed-{stale}-{delay:g}-{int(time.time())}"
            steps = train(model, folder, url, stale_steps=stale, max_steps=TIMED + stale).metrics[2 + stale :]
            seconds, waited = (median(row[name] for row in steps) for name in ("seconds", "samples_wait_seconds"))
            shown = f"{expected:.2f}" if stale else ""
            expected = expected or max(waited, seconds - waited)
            table.add_row(str(stale), f"{seconds:.2f}", f"{waited:.2f}", shown)
    Console(width=100).print(table, highlight=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/stale"), help="folder of the runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of each setting")
    parser.add_argument("--steps", type=int, default=20, help="steps of each run")
    parser.add_argument("--time", action="store_true", help="measure seconds per step, not reward")
    parser.add_argument("--delay", type=float, default=0.0, help="seconds that the server adds to each batch")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.serve:
        pin(1)
        server = Server(str(asked.serve), asked.delay)
        print(server.url, flush=True)
        server.serve_forever()
    asked.out.mkdir(parents=True, exist_ok=True)
    accord.report.refresh_report = lambda folder: folder / "report.html"  # not needed here
    if not (asked.out / "start" / "sft" / "model").is_dir():
        accord.run_pipeline(Path(__file__).with_suffix(".yaml"), asked.out / "start", {"seed": 0})
    model = asked.out / "start" / "sft" / "model"
    timed(model, asked.out, asked.delay) if asked.time else run_study(model, asked.out, asked.steps, asked.seeds)


if __name__ == "__main__":
    main()
