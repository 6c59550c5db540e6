"""accord against trl on one CUDA GPU: tokens per second and peak memory of DPO, SFT, reward models and GRPO.

    benchmarks/cuda.sh --out runs/cuda
    benchmarks/cuda.sh --device cpu --out runs/toy      # toy models, to check that it runs

The models are random Llamas of 0.1, 1 and 7 billion parameters, made in memory; nothing is downloaded. Each size of
each library has a process of its own, which saves its results after every method, so that a failure, an out-of-memory
error or a timeout keeps the rows before it. Writes cuda.json and cuda.md within nine minutes.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

SIDES = ("accord", "trl")
WORKS = ("sft", "dpo", "reward", "grpo")
MODELS: dict[str, dict[str, Any]] = {
    "toy": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "kv": 2},
    "toy-7B": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "kv": 2},
    "0.1B": {
        "hidden_size": 768,
        "intermediate_size": 2048,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "kv": 4,
    },
    "1B": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32, "kv": 8},
    "7B": {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 30,
        "num_attention_heads": 32,
        "kv": 8,
    },
}
"""Shapes of Llamas; those with a rank in `ADAPTERS` have bfloat16 weights and train adapters."""

ADAPTERS = {"7B": 16, "toy-7B": 2}
"""LoRA ranks."""
CARD = {"vocabulary": 32000, "prompt": 256, "completion": 256, "batch_size": 8, "pairs": 4}
CARD |= {"prompts": 4, "group_size": 8, "new": 128, "warmup": 2, "steps": 4}
TOY = {"vocabulary": 500, "prompt": 12, "completion": 12, "batch_size": 4, "pairs": 2}
TOY |= {"prompts": 2, "group_size": 4, "new": 6, "warmup": 1, "steps": 2}


def main() -> None:
    given = arguments()
    if given.side:
        child(given)
        return
    began, out = time.perf_counter(), Path(given.out)
    out.mkdir(parents=True, exist_ok=True)
    parts: list[dict[str, Any]] = []
    sides = [side for side in SIDES if importlib.util.find_spec(side) or print(f"{side} is not installed: left out.")]
    for size in given.sizes:
        for side in sides:
            left = given.seconds - (time.perf_counter() - began)
            parts.append(part(given, side, size, left))
            write(out, parts, given, time.perf_counter() - began)
    print((out / "cuda.md").read_text())


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"), help="cpu runs toy models")
    parser.add_argument("--sizes", nargs="+", choices=tuple(MODELS), help="default: all; on a CPU the toys")
    parser.add_argument("--works", nargs="+", choices=WORKS, default=list(WORKS), help="methods to measure")
    parser.add_argument("--seconds", type=float, default=530.0, help="time limit for everything")
    parser.add_argument("--out", default="runs/cuda", help="folder for cuda.json and cuda.md")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    given = parser.parse_args()
    given.sizes = given.sizes or (["toy", "toy-7B"] if given.device == "cpu" else ["0.1B", "1B", "7B"])
    if given.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            parser.error(f"torch {torch.__version__} sees no CUDA GPU; --device cpu runs toy models.")
    return given


def part(given: argparse.Namespace, side: str, size: str, seconds: float) -> dict[str, Any]:
    """Measure one library with one model, in a process of its own."""
    with tempfile.TemporaryDirectory() as scratch:
        told = Path(scratch) / "part.json"
        command = [sys.executable, __file__, "--side", side, "--sizes", size, "--device", given.device]
        command += ["--out", str(told), "--works", *given.works]
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        failure = "out of time"
        if seconds > 0:
            try:
                done = subprocess.run(command, env=environment, stderr=subprocess.PIPE, timeout=seconds, text=True)
                failure = (done.stderr.strip().splitlines() or ["nothing said"])[-1]
            except subprocess.TimeoutExpired:
                pass
        found = json.loads(told.read_text()) if told.exists() else {}
    missing = [{"work": work, "failed": failure} for work in given.works if work not in found.get("works", {})]
    return {"side": side, "size": size, "rows": [*found.get("works", {}).values(), *missing]} | found.get("about", {})


def child(given: argparse.Namespace) -> None:
    """Measure all methods of one library with one model, and save the results after each."""
    import random_llamas
    import torch

    size = given.sizes[0]
    plan = (TOY if given.device == "cpu" else CARD) | {"size": size, "device": given.device}
    plan |= {"shape": MODELS[size], "lora_rank": ADAPTERS.get(size, 0)}
    told: dict[str, Any] = {"about": random_llamas.about(given.side, plan), "works": {}}
    for work in given.works:
        row: dict[str, Any] = {"work": work}
        if given.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        try:
            row |= summary(random_llamas.RUN[given.side](work, plan), plan)
            row["peak_gb"] = peak(given.device)
        except torch.OutOfMemoryError:
            row["failed"] = f"out of memory at {peak(given.device):.1f} GB"
        except Exception as error:  # becomes a row of the table
            row["failed"] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        told["works"][work] = row
        Path(given.out).write_text(json.dumps(told))
        gc.collect()
        if given.device == "cuda":
            torch.cuda.empty_cache()


def summary(steps: dict[str, list[float]], plan: dict[str, Any]) -> dict[str, Any]:
    """Results over the steps after warmup."""
    seconds, tokens = (steps[name][plan["warmup"] :] for name in ("seconds", "tokens"))
    rate = sum(tokens) / sum(seconds)
    return {"seconds": median(seconds), "first": steps["seconds"][0], "tokens_per_second": rate, "steps": steps}


def peak(device: str) -> float:
    """Peak memory in GB: of tensors on a GPU, or resident memory of the process on a CPU."""
    if device == "cpu":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    import torch

    return torch.cuda.max_memory_allocated() / 1e9


def write(out: Path, parts: list[dict[str, Any]], given: argparse.Namespace, seconds: float) -> None:
    """Write every number as JSON, and the table."""
    about = {"machine": machine(given.device), "seconds": seconds, "parts": parts}
    (out / "cuda.json").write_text(json.dumps(about, indent=1))
    lines = [", ".join(f"{k} {v}" for k, v in about["machine"].items()), ""]
    lines += [
        "| model | method | library | seconds per step | tokens/s | peak GB | first step |",
        "|---|---|---|--:|--:|--:|--:|",
    ]
    rows = [(p["size"], row["work"], p["side"], row) for p in parts for row in p["rows"]]
    for size, work, side, row in sorted(rows, key=lambda r: (given.sizes.index(r[0]), WORKS.index(r[1]), r[2])):
        names = ("seconds", "tokens_per_second", "peak_gb", "first")
        numbers = (
            [f"{row[n]:,.{digits}f}" for n, digits in zip(names, (3, 0, 2, 1), strict=True)] if "steps" in row else []
        )
        lines.append(f"| {size} | {work} | {side} | " + " | ".join(numbers or [row["failed"], "", "", ""]) + " |")
    (out / "cuda.md").write_text("\n".join(lines) + "\n")


def machine(device: str) -> dict[str, str]:
    """The device and the versions of packages."""
    packages = ("torch", "transformers", "trl", "peft", "liger-kernel", "flash-attn")
    versions = {}
    for package in packages:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    if device == "cpu":
        return {"device": f"CPU {platform.machine()}", **versions}
    import torch

    card = torch.cuda.get_device_properties(0)
    return {"device": f"{card.name} with {card.total_memory / 1e9:.0f} GB", **versions}


if __name__ == "__main__":
    main()
