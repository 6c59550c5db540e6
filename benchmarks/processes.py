"""Shared by the benchmarks in small worlds: their options, commands in processes of their own, and seeds averaged."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TRAINING = ("pretrain", "sft", "dpo", "grpo", "reward")
"""Commands whose output folder is a run, with the model in `model/`."""


def study_parser(doc: str | None, out: str) -> argparse.ArgumentParser:
    """A parser with `--seeds` and `--out`, and the module's docstring as its help."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="the study is repeated for each")
    parser.add_argument("--out", type=Path, default=Path(out), help="folder of the runs; finished ones are reused")
    return parser


@dataclass(frozen=True)
class Cost:
    """The cost of a process: seconds of CPU time, and peak resident memory in gigabytes."""

    seconds: float
    peak_gb: float


def run_cli(command: str, options: Mapping[str, Any]) -> Cost:
    """Run a command of accord in a process of its own with one thread, and return what it cost.

    Raises:
        SystemExit: the command failed.
    """
    given = {
        f"{name}.{k}": v for name, value in options.items() if isinstance(value, Mapping) for k, v in value.items()
    }
    given |= {name: value for name, value in options.items() if not isinstance(value, Mapping)}
    arguments = [f"--{name}={value}" for name, value in given.items()]
    print(f"accord {command} --out {options.get('out')}", file=sys.stderr)
    process = subprocess.Popen(
        [sys.executable, "-m", "accord", command, *arguments],
        stdout=subprocess.DEVNULL,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"accord {command} failed: {' '.join(arguments)}")
    return Cost(used.ru_utime + used.ru_stime, used.ru_maxrss * 1024 / 1e9)


def output_of(stages: Mapping[str, Mapping[str, Any]], folder: Path, name: str, seed: int) -> Path:
    """The path of a stage's output (a model, folder or file); the stage, and those it needs, run if it is missing.

    A stage is a command with its options; {other} in an option stands for the output of the stage `other`.
    """
    given = dict(stages[name])
    command = given.pop("command")
    out = folder / given.get("out", name)
    result = out / "model" if command in TRAINING else out
    if not result.exists():
        needs = {need for value in given.values() for need in re.findall(r"{(\w+)}", str(value))}
        known = {need: str(output_of(stages, folder, need, seed)) for need in sorted(needs)}
        settings = {key: value.format(**known) if isinstance(value, str) else value for key, value in given.items()}
        run_cli(command, settings | {"seed": seed, "out": out})
    return result


def train_weak_adder(folder: Path, seed: int) -> Path:
    """A model that has seen few demonstrations of sums, in `folder`/weak, and its world in `folder`/world."""
    world, weak = folder / "world", folder / "weak"
    if not world.exists():
        run_cli("world", {"name": "sums", "out": world, "seed": seed})
    if not (weak / "model").exists():
        given = {"model": world / "init", "data": world / "demonstrations.jsonl", "out": weak, "seed": seed}
        run_cli("sft", given | {"batch_size": 32, "epochs": 4.5, "learning_rate": 2e-3, "max_length": 64})
    return weak / "model"


def mean_and_range(values: list[float], digits: int = 3) -> str:
    """The mean, with the lowest and the highest value in brackets."""
    if not values:
        return ""
    mean = sum(values) / len(values)
    return f"{mean:.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"
