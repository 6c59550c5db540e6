"""accord against trl on a CPU: seconds and peak memory of one optimizer step, measured in the same run.

    python benchmarks/step.py --work dpo --data hh_harmless_test.jsonl.gz

The libraries take turns, each turn in a process of its own, so that a slowdown of the machine affects both and peak
memory is a process's own. Stops if they did not read the same number of tokens. Prints seconds per step, tokens per
second, peak memory, and the loss and gradient norm of both. benchmarks/README.md has the details.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
SIDES = ("accord", "trl")
WORK: dict[str, dict[str, Any]] = {
    "dpo": {"what": "{batch_size} pairs", "batch_size": 4, "learning_rate": 1e-5},
    "sft": {"what": "{batch_size} rows", "batch_size": 8, "learning_rate": 1e-5},
    "reward": {"what": "{batch_size} pairs", "batch_size": 8, "learning_rate": 1e-5},
    "grpo": {
        "what": "{batch_size} prompts x {group_size} samples x {max_new_tokens} tokens",
        "batch_size": 2,
        "learning_rate": 1e-6,
        "group_size": 8,
        "max_new_tokens": 64,
        "kl": "k3-corrected",
        "kl_coefficient": 0.04,
        "clip_low": 0.2,
        "clip_high": 0.28,
    },
}
"""The batch and settings of one optimizer step."""

PARTS = ("generation", "reference", "update")
"""Parts of a GRPO step; for trl only the first is timed."""


@dataclass(frozen=True)
class Summary:
    """One library's results: seconds per step, tokens per second, and peak resident memory.

    Every turn has the same steps. As other load only adds time, each step counts with its fastest turn.
    """

    median: float
    minimum: float
    maximum: float
    tokens_per_second: float
    peak_gb: float

    @staticmethod
    def of(turns: list[dict[str, Any]], warmup: int) -> Summary:
        seconds = fastest(turns, "seconds", warmup)
        rate = sum(turns[0]["tokens"][warmup:]) / sum(seconds)
        return Summary(median(seconds), min(seconds), max(seconds), rate, max(turn["peak_gb"] for turn in turns))


def fastest(turns: list[dict[str, Any]], name: str, warmup: int) -> list[float]:
    """Seconds of every step after warmup, each in its fastest turn."""
    return [min(step) for step in zip(*(turn[name] for turn in turns), strict=True)][warmup:]


def main() -> None:
    given = arguments()
    if missing := [name for name in (*SIDES, "psutil") if importlib.util.find_spec(name) is None]:
        raise SystemExit(f"a comparison with trl needs {' and '.join(missing)}: pip install --editable '.[bench]'")
    with tempfile.TemporaryDirectory(prefix="accord-benchmark-") as scratch:
        folder = Path(scratch)
        settings = {
            "work": given.work,
            "data": str(Path(given.data).resolve()) if Path(given.data).exists() else given.data,
            "model": given.model,
            "dtype": given.dtype,
            "steps": given.warmup + given.steps,
            "max_length": 512,
            "lora_rank": given.lora_rank,
            **WORK[given.work],
        }
        (folder / "plan.json").write_text(json.dumps(settings))
        process("rows.py", folder)
        plan = json.loads((folder / "plan.json").read_text())
        turns, alike = measure(folder, given.turns, given.work)
    if turns["accord"][0]["tokens"] != turns["trl"][0]["tokens"]:
        raise SystemExit("accord and trl did not read the same tokens, so their times cannot be compared.")
    summaries = {side: Summary.of(turns[side], given.warmup) for side in SIDES}
    show(plan, summaries, given)
    if given.work == "grpo":
        show_samples(turns, given.warmup)
    show_agreement(alike)
    print("machine: " + ", ".join(f"{k} {v}" for k, v in plan["machine"].items()))
    if given.out:
        kept = {key: value for key, value in plan.items() if key not in ("rows", "order", "start")}
        result = {"plan": kept, "summary": {side: asdict(s) for side, s in summaries.items()}, "turns": turns}
        result |= {"alike": alike["trl"], "warmup": given.warmup}
        Path(given.out).write_text(json.dumps(result, indent=1))


def measure(folder: Path, count: int, work: str) -> tuple[dict[str, list[dict[str, Any]]], dict[str, dict[str, Any]]]:
    """All turns of each library, and one of each in which both computed on the same tokens."""
    turns: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    for turn in range(count):
        for side in SIDES:
            print(f"turn {turn + 1} of {count}: {side}", file=sys.stderr)
            out = folder / f"{side}-{turn}.json"
            process(f"with_{side}.py", folder, out)
            turns[side].append(json.loads(out.read_text()))
    alike = {side: turns[side][0] for side in SIDES}
    if work == "grpo":
        print("trl on the samples of accord's first step", file=sys.stderr)
        out = folder / "alike.json"
        process("with_trl.py", folder, out, folder / "accord-0.json")
        alike["trl"] = json.loads(out.read_text())
    return turns, alike


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", choices=tuple(WORK), required=True, help="method")
    parser.add_argument("--data", required=True, help="preference pairs, as `accord dpo --data` takes them")
    parser.add_argument("--model", default="smollm2", help="a folder, a Hub name or a short name")
    parser.add_argument("--dtype", default="auto", choices=("auto", "bfloat16", "float32"), help="compute precision")
    parser.add_argument("--steps", type=int, default=6, help="measured steps in a turn")
    parser.add_argument("--warmup", type=int, default=2, help="steps before those, not measured")
    parser.add_argument("--lora-rank", type=int, default=0, help="train adapters of this rank in both")
    parser.add_argument("--turns", type=int, default=2, help="turns of each library")
    parser.add_argument("--out", help="a JSON file for all numbers")
    return parser.parse_args()


def process(script: str, *arguments: Path) -> None:
    """Run a script of this folder in a process of its own, on the CPU."""
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, str(HERE / script), *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{script} failed:\n{done.stdout}\n{done.stderr}")


def show(plan: dict[str, Any], summaries: dict[str, Summary], given: argparse.Namespace) -> None:
    """Print the table of seconds and memory."""
    adapters = f", adapters of rank {plan['lora_rank']}" if plan["lora_rank"] else ""
    title = (
        f"{plan['work']}, {plan['what'].format(**plan)} per step, {plan['model']}, {plan['dtype']}{adapters}: "
        f"{given.turns} turns of {given.steps} steps after {given.warmup}"
    )
    table = Table("", "seconds per step", "min", "max", "tokens/s", "peak GB")
    for column in table.columns[1:]:
        column.justify = "right"
    for side, s in summaries.items():
        numbers = (
            f"{s.median:.2f}",
            f"{s.minimum:.2f}",
            f"{s.maximum:.2f}",
            f"{s.tokens_per_second:.0f}",
            f"{s.peak_gb:.2f}",
        )
        table.add_row(side, *numbers)
    ours, theirs = (summaries[side] for side in SIDES)
    ratio = {name: getattr(theirs, name) / getattr(ours, name) for name in ("median", "tokens_per_second", "peak_gb")}
    table.add_section()
    table.add_row("trl / accord", f"{ratio['median']:.2f}", "", "", *(f"{ratio[n]:.2f}" for n in list(ratio)[1:]))
    print(title)
    Console().print(table)


def show_samples(turns: dict[str, list[dict[str, Any]]], warmup: int) -> None:
    """Print the seconds of each part of a GRPO step, and the mean reward and entropy of the samples."""
    for side in SIDES:
        parts = {name: fastest(turns[side], name, warmup) for name in PARTS if name in turns[side][0]}
        means = {name: mean(turns[side][0][name]) for name in ("reward", "entropy")}
        seconds = ", ".join(f"{name} {median(values):.2f} s" for name, values in parts.items())
        print(f"{side}: {seconds}; " + ", ".join(f"mean {name} {value:.3f}" for name, value in means.items()))


def show_agreement(alike: dict[str, dict[str, Any]]) -> None:
    """Print the losses and gradient norm that both computed from the same tokens."""
    for name, last in (("loss", min(2, len(alike["trl"]["loss"]))), ("gradient_norm", 1)):
        for step in range(last):
            values = "  ".join(f"{side} {round(alike[side][name][step], 5) + 0.0:.5f}" for side in SIDES)
            print(f"{name.replace('_', ' ')} of step {step + 1}: {values}")


if __name__ == "__main__":
    main()
