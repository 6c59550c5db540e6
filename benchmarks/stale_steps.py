"""Samples of a policy some steps old: what they cost a run in the café in reward and divergence, and spare in time.

    python benchmarks/stale_steps.py --out runs/stale
    python benchmarks/stale_steps.py --out runs/stale --time [--delay 1]

GRPO learns from the gold reward of samples that a server draws, `--stale-steps` 0, 1, 2 and 4, with and without
`--importance-cap 2`, three seeds each; the policies that come of it answer prompts held out. With --time the seconds of
a step are measured, the trainer on one core and the server on another: a step that waits for its samples takes W for
them and T for the rest, and one that does not should take the longer of the two. With --delay the server is one that
takes so many seconds more for a batch, and no processor for it.

The server is that of the tests, in a process of its own, which draws by accord's engine; here it draws what is asked
for at the same time together. What has been run is taken up.
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
"""Stale steps, and caps of importance weights, which are 1 where nothing is stale."""
TIMED = 10
"""Steps that are timed, but for the first two."""
SETTINGS: dict[str, Any] = {
    "learning_rate": 5e-4, "batch_size": 8, "group_size": 4, "max_new_tokens": 40, "max_length": 128,
    "schedule": "constant", "dtype": "float32", "kl_coefficient": 0.04,
}  # fmt: skip
HELD_OUT = 100
"""Prompts that the policies answer in the end, twice each."""
TOGETHER, PATIENCE = 64, 0.02
"""Samples that the server draws at once, and the seconds it waits for more."""


class Batches(threading.Thread):
    """Draws what is asked for at the same time together."""

    def __init__(self, server: Server, delay: float) -> None:
        super().__init__(daemon=True)
        self.server, self.delay = server, delay
        self.asked: Queue[tuple[dict[str, Any], Future[Completion]]] = Queue()

    def draw(self, body: dict[str, Any]) -> Completion:
        """A sample, once it is drawn."""
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


def pinned(core: int) -> None:
    """Have this process on one core, where there are more, with one thread."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[core % len(cores)]})
    torch.set_num_threads(1)


@contextmanager
def served(model: Path, delay: float = 0.0) -> Iterator[str]:
    """The URL of a server in a process of its own, on the second core."""
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
def measured(policy: Policy, start: Policy, prompts: Sequence[accord.records.Prompt]) -> dict[str, float]:
    """The mean gold reward of answers to prompts held out, and the nats an answer by which the policy has diverged."""
    encoded, _ = accord.data.encoding.encode_prompts(
        policy.tokenizer, prompts, room=40, context=policy.context, longest=128
    )
    said = policy.sample(encoded, 2, Sampling(40, seed=1))
    trees = [Tree(s.prompt_tokens, (Branch(s.completion.tokens, None, s.completion.logprobs),)) for s in said]
    gaps = [(t.logprobs - start.log_probs(t)).sum() for t in pack(trees, 4096, "cpu")]
    gold = as_reward("cafe", policy)(said)
    return {"gold": float(gold.double().mean()), "kl": float(torch.stack(gaps).sum()) / len(said)}


def effect(model: Path, out: Path, steps: int, seeds: Sequence[int]) -> None:
    """Run every setting and seed that is not there, and show what came of them."""
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
                rows.append(known | means | measured(found.model, start, prompts))
                with done.open("a") as file:
                    file.write(json.dumps(rows[-1]) + "\n")
                print(rows[-1], flush=True)
    before = measured(start, start, prompts)
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
    """Show the seconds of a step, and what is expected of them by those of steps that wait."""
    pinned(0)
    table = Table("stale steps", "seconds a step", "of them waiting for samples", "expected")
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
    parser.add_argument("--out", type=Path, default=Path("runs/stale"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--time", action="store_true", help="measure seconds a step, not what is learned")
    parser.add_argument("--delay", type=float, default=0.0, help="seconds that the server takes more for a batch")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.serve:
        pinned(1)
        server = Server(str(asked.serve), asked.delay)
        print(server.url, flush=True)
        server.serve_forever()
    asked.out.mkdir(parents=True, exist_ok=True)
    accord.report.refresh_report = lambda folder: folder / "report.html"  # nobody reads one of every run
    if not (asked.out / "start" / "sft" / "model").is_dir():
        accord.run_pipeline(Path(__file__).with_suffix(".yaml"), asked.out / "start", {"seed": 0})
    model = asked.out / "start" / "sft" / "model"
    timed(model, asked.out, asked.delay) if asked.time else effect(model, asked.out, asked.steps, asked.seeds)


if __name__ == "__main__":
    main()
