"""What the benchmarks of small worlds share: commands in processes of their own, in stages, and seeds summed up."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TRAINING = ("pretrain", "sft", "dpo", "grpo", "reward")
"""Commands that leave a run's folder, in which their model is."""


@dataclass(frozen=True)
class Cost:
    """What a process used: seconds of processor time, and gigabytes of resident memory at its peak."""

    seconds: float
    peak_gb: float


def accord(command: str, options: Mapping[str, Any]) -> Cost:
    """Run a command of accord in a process of its own with one thread; what it used.

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


def made(stages: Mapping[str, Mapping[str, Any]], folder: Path, name: str, seed: int) -> Path:
    """The model, the folder or the file that a stage of a seed leaves, made with those it needs unless it is there.

    A stage is a command with its options; {other} in one of them is what the stage of that name leaves.
    """
    given = dict(stages[name])
    command = given.pop("command")
    out = folder / given.get("out", name)
    result = out / "model" if command in TRAINING else out
    if not result.exists():
        needs = {need for value in given.values() for need in re.findall(r"{(\w+)}", str(value))}
        known = {need: str(made(stages, folder, need, seed)) for need in sorted(needs)}
        settings = {key: value.format(**known) if isinstance(value, str) else value for key, value in given.items()}
        accord(command, settings | {"seed": seed, "out": out})
    return result


def spread(values: list[float], digits: int = 3) -> str:
    """The mean, with the lowest and the highest."""
    if not values:
        return ""
    mean = sum(values) / len(values)
    return f"{mean:.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"
