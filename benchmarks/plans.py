"""The tables of docs/planning.md: what `accord plan` expects of 8B, 32B and 70B models on 1 to 1,024 GPUs.

    python benchmarks/plans.py --model 8B

Computed without loading a model or measuring anything.
"""

from __future__ import annotations

import argparse
import contextlib
import io

import accord
from accord.results.plan import GB, GpusPlan

CASES = (("sft", 0.0), ("dpo", 0.0), ("grpo", 0.0), ("grpo", 0.5), ("ppo", 0.5))
"""Methods, and the share of the GPUs that only sample."""
GPUS = [1, 8, 64, 256, 1024]


def cells(row: GpusPlan) -> list[str]:
    """The cells of a row."""
    fits = f"no ({', '.join(row.lacks)})" if row.lacks else "activations again" if row.again else "yes"
    memory, passes, step = row.memory, row.passes, row.step
    training = memory.training_again if row.again else memory.training
    hidden = f"{passes.hidden_at:,.0f}" if row.ranks > 1 else ""
    sizes = [f"{size / GB:,.0f}" for size in (training, memory.sampling, memory.loading)]
    counts = [f"{passes.each:,} x {passes.tokens:,}", hidden, f"{step.seconds:,.1f}", f"{row.rate:,.0f}", step.bound]
    return [f"{row.gpus:,}", *sizes, fits, *counts]


def table(model: str) -> None:
    """Print the table of a model."""
    heads = ["method", "GPUs", "GB training", "sampling", "loading", "fits 80 GB", "passes",
             "tokens to hide communication", "seconds", "tokens/s/GPU", "bound by"]  # fmt: skip
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for method, share in CASES:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            found = accord.plan(model, method, gpus=GPUS[bool(share) :], sampler_share=share)
        for row in found.rows:
            print(f"| {method}{', half of the GPUs sample' if share else ''} | {' | '.join(cells(row))} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="8B", help="a size, as `accord plan` takes it")
    table(parser.parse_args().model)


if __name__ == "__main__":
    main()
