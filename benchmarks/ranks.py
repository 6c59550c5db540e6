"""Speed-up of data-parallel ranks over one process: seconds per DPO step, one core per rank.

    python benchmarks/ranks.py --ranks 2

Three cases take turns. "alone": one process on one core does the whole step. "beside": as many independent processes as
ranks, one core each, do it at the same time; cores that share memory and clock slow each other down, so ranks x alone /
beside is the highest speed-up possible on this machine. "team": torchrun starts the ranks, which share the step.

Prints both speed-ups, and what `accord plan` predicts for the step with the same arithmetic
(accord/engine/step_time.py) from two measured rates of the ranks: matrix products in float32 at the model's widths, and
gathering and scattering a layer. As a step is not only matrix products, it is also predicted from the speed of one
process.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

SHAPE = {"hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 6, "num_attention_heads": 6, "kv": 2}
PLAN: dict[str, Any] = {
    "shape": SHAPE, "vocabulary": 8000, "prompt": 64, "completion": 64, "new": 0, "pairs": 16, "lora_rank": 0,
    "device": "cpu",
}  # fmt: skip

GIVEN = ("steps", "warmup", "tokens_per_pass", "pairs")
"""Settings of the plan that are options here."""


def main() -> None:
    given = arguments()
    plan = PLAN | {name: getattr(given, name) for name in GIVEN}
    if given.work or given.rates:
        work(plan) if given.work else rates(plan)
        return
    seconds: dict[str, list[float]] = {"alone": [], "beside": [], "team": []}
    words = [f"--{name.replace('_', '-')}={getattr(given, name)}" for name in GIVEN]
    for _ in range(0 if given.beside else given.turns):
        seconds["alone"] += measured([start(words, core=0)])
        seconds["beside"] += measured([start(words, core=core) for core in range(given.ranks)])
        seconds["team"] += measured([start(words, ranks=given.ranks)])
    if not given.beside:
        show(seconds, given.ranks)
    alone, team = given.beside or (median(seconds["alone"]), median(seconds["team"]))
    measured_rates = outputs([start(words, ranks=given.ranks, what="--rates")])
    show_expected(plan, given.ranks, json.loads(measured_rates[0]), alone, team)


def start(words: list[str], core: int | None = None, ranks: int = 1, what: str = "--work") -> subprocess.Popen[str]:
    """Start a process that measures, on the given core, or torchrun with `ranks` of them."""
    command = [sys.executable, __file__, what, *words]
    if ranks > 1:
        command[1:1] = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | ({} if core is None else {"CORE": str(core)})
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def measured(processes: list[subprocess.Popen[str]]) -> list[float]:
    """The seconds of the steps measured by the processes."""
    return [seconds for line in outputs(processes) for seconds in json.loads(line)]


def outputs(processes: list[subprocess.Popen[str]]) -> list[str]:
    """The lists that the processes print.

    Raises:
        SystemExit: a process failed.
    """
    printed = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        raise SystemExit("a process failed")
    return [line for lines in printed for line in lines.splitlines() if line.startswith("[")]


def work(plan: dict[str, Any]) -> None:
    """Measure steps in this process or rank, and print their seconds."""
    core = int(os.environ.get("LOCAL_RANK", os.environ.get("CORE", 0)))
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[core]})
    from random_llamas import network_of, rows_of, tokenizer_of

    from accord.engine.models import Policy, prepare_network
    from accord.engine.team import joined
    from accord.methods import DPO

    network = prepare_network(network_of(plan).eval())
    network.generation_config.eos_token_id = 1
    steps = plan["warmup"] + plan["steps"]
    with tempfile.TemporaryDirectory() as folder, joined() as team:
        method = DPO(
            max_steps=steps, batch_size=plan["pairs"], tokens_per_pass=plan["tokens_per_pass"], dtype="float32"
        )
        rows = rows_of("dpo", plan, messages=False)
        out = team.lead(lambda: Path(folder) / "run")
        result = method.fit(Policy(network, tokenizer_of(plan), "random"), rows, out=out, track="none")
        if team.leads:
            print(json.dumps([row["seconds"] for row in result.metrics[plan["warmup"] :]]))


def rates(plan: dict[str, Any]) -> None:
    """Measure in all ranks at once: flop/s, bytes/s between ranks, and bytes/s of memory; print them."""
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[int(os.environ["LOCAL_RANK"])]})
    import torch
    import torch.distributed as dist
    from random_llamas import network_of

    from accord.engine.groups import ReduceScatter
    from accord.engine.shares import Groups, share
    from accord.engine.team import joined

    with joined() as team:
        width, inner = plan["shape"]["hidden_size"], plan["shape"]["intermediate_size"]
        left, right = torch.randn(plan["tokens_per_pass"] // 8, width), torch.randn(width, inner)  # a few ms
        flops = 2 * left.numel() * inner / fastest(lambda: left @ right)
        part = torch.randn(share(Groups.of(network_of(plan).config).largest, team.size))
        whole = torch.empty(len(part) * team.size)
        warnings.simplefilter("ignore", FutureWarning)  # as fully_shard calls them in this torch
        gather = fastest(lambda: dist.all_gather_into_tensor(whole, part))
        reduce, group = ReduceScatter(), dist.group.WORLD
        scatter = fastest(lambda: reduce(part, whole, group, dist.ReduceOp.SUM))
        own = 2 * left.nbytes / fastest(lambda: left.clone())
        received = 3 * whole.nbytes * (team.size - 1) / team.size
        if team.leads:
            print(json.dumps([flops, received / (2 * gather + scatter), own]))


def fastest(work: Callable[[], object]) -> float:
    """The least seconds over 400 calls: other load only makes it slower."""
    taken = []
    for _ in range(400):
        begun = time.perf_counter()
        work()
        taken.append(time.perf_counter() - begun)
    return min(taken)


def show_expected(plan: dict[str, Any], ranks: int, found: list[float], alone: float, team: float) -> None:
    """Print the step time that the plan's arithmetic expects, beside the measured one."""
    import torch
    from random_llamas import network_of

    from accord.engine.gpus import Machine
    from accord.engine.memory import Shape
    from accord.engine.passes import Batch
    from accord.engine.shares import Groups
    from accord.engine.step_time import step
    from accord.methods import DPO

    flops, wire, own = found
    config = network_of(plan).config
    method = DPO(batch_size=plan["pairs"], tokens_per_pass=plan["tokens_per_pass"], dtype="float32")
    shape, groups = Shape.of(config, method, torch.float32), Groups.of(config)
    batch = Batch(plan["pairs"], plan["prompt"], plan["completion"], 2)

    def expected(rate: float, size: int) -> dict[str, float]:
        machine = Machine("here", 1e12, rate, own, wire, wire, ranks, (0.0, 0.0, 0.0), 0.0, overlaps=False)
        return step(shape, groups, method, batch, machine, size, again=False, linear=4)

    def line(name: str, rate: float) -> None:
        one, several = expected(rate, 1), expected(rate, ranks)
        seconds = (one["seconds"], several["seconds"], several["waiting"])
        table.add_row(name, *(f"{x:.2f}" for x in seconds),
                      f"{one['seconds'] / several['seconds']:.2f}")  # fmt: skip

    table = Table("expected", "alone", f"{ranks} ranks", "communication", "speed-up")
    rest = expected(flops, 1)
    line("from matrix products alone", flops)
    line("from the speed of one process", flops * (rest["reading"] + rest["training"]) / (alone - rest["updating"]))
    table.add_row("measured", f"{alone:.2f}", f"{team:.2f}", "", f"{alone / team:.2f}")
    console = Console()
    console.print(f"{flops / 1e9:.1f} Gflop/s, {wire / 1e9:.2f} GB/s between ranks, {own / 1e9:.1f} GB/s of memory.")
    console.print(table)


def show(seconds: dict[str, list[float]], ranks: int) -> None:
    """Print seconds per step and speed-ups."""
    table = Table("", "seconds per step", "from", "to", "speed-up")
    middle = {name: median(values) for name, values in seconds.items()}
    gained = {
        "alone": 1.0,
        "beside": ranks * middle["alone"] / middle["beside"],
        "team": middle["alone"] / middle["team"],
    }
    for name, values in seconds.items():
        shown = (f"{middle[name]:.2f}", f"{min(values):.2f}", f"{max(values):.2f}", f"{gained[name]:.2f}")
        table.add_row(name, *shown)
    console = Console()
    console.print(table)
    console.print(
        f"The team reaches {gained['team'] / gained['beside']:.0%} of the speed-up possible on {ranks} cores."
    )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=2, help="number of processes, one core each")
    parser.add_argument("--turns", type=int, default=2, help="turns of each of the three cases")
    parser.add_argument("--steps", type=int, default=4, help="measured steps per turn")
    parser.add_argument("--warmup", type=int, default=1, help="steps before those, not measured")
    parser.add_argument("--pairs", type=int, default=PLAN["pairs"], help="pairs per step")
    parser.add_argument("--tokens-per-pass", type=int, default=2048, help="tokens computed at once")
    parser.add_argument(
        "--beside",
        type=float,
        nargs=2,
        metavar=("ALONE", "TEAM"),
        help="seconds measured earlier: measure only the rates",
    )
    parser.add_argument("--work", action="store_true", help="measure steps in this process (used internally)")
    parser.add_argument("--rates", action="store_true", help="measure the rates in this rank (used internally)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
