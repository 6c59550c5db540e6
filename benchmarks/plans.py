"""The tables of docs/scale.md: what `accord plan` expects of 8B, 32B and 70B on 1 to 1,024 cards.

    python benchmarks/plans.py --model 8B
    python benchmarks/plans.py --rollouts

No model is read, and nothing is measured, but by --rollouts: the bytes that a token of a sample takes in Python, which
the plan rests on.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import random
import tracemalloc

import accord
from accord.results.plan import GB, GpusPlan

CASES = (("sft", 0.0), ("dpo", 0.0), ("grpo", 0.0), ("grpo", 0.5), ("ppo", 0.5))
"""Methods, and the share of the cards that only sample."""
CARDS = [1, 8, 64, 256, 1024]


def cells(row: GpusPlan) -> list[str]:
    """What a row says."""
    fits = f"no ({', '.join(row.lacks)})" if row.lacks else "activations again" if row.again else "yes"
    memory, passes, step = row.memory, row.passes, row.step
    training = memory.training_again if row.again else memory.training
    hidden = f"{passes.hidden_at:,.0f}" if row.ranks > 1 else ""
    sizes = [f"{size / GB:,.0f}" for size in (training, memory.sampling, memory.loading)]
    counts = [f"{passes.each:,} x {passes.tokens:,}", hidden, f"{step.seconds:,.1f}", f"{row.rate:,.0f}", step.bound]
    return [f"{row.gpus:,}", *sizes, fits, *counts]


def table(model: str) -> None:
    """Print the table of a model."""
    heads = ["method", "cards", "GB training", "sampling", "loading", "fits 80 GB", "passes", "hidden at", "seconds",
             "tokens/s/card", "bound by"]  # fmt: skip
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for method, share in CASES:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            found = accord.plan(model, method, gpus=CARDS[bool(share) :], sampler_share=share)
        for row in found.rows:
            print(f"| {method}{', half of the cards sample' if share else ''} | {' | '.join(cells(row))} |", flush=True)


def rollouts() -> None:
    """Print the bytes that a token takes: of a completion, and of the branch that is made of it."""
    from accord.methods.rollouts import Rollout, branch_of
    from accord.records import Completion, EncodedPrompt, Prompt, Sample

    rng, length, count = random.Random(0), 2048, 64
    prompt = EncodedPrompt(Prompt("p"), (300,), 0)

    def sample() -> Sample:
        tokens = tuple(rng.randrange(300, 128_000) for _ in range(length))
        drawn = Completion(tokens, tuple(-rng.random() for _ in tokens), "length")
        return Sample(prompt.prompt, "", prompt.tokens, drawn, 0)

    branch_of([sample()], 0.0)  # imports what it needs
    tracemalloc.start()
    samples = [sample() for _ in range(count)]
    drawn, _ = tracemalloc.get_traced_memory()
    held = Rollout.of([prompt], samples, [0.0] * count)
    both, _ = tracemalloc.get_traced_memory()
    numbers = [f"{size / count / length:.1f}" for size in (drawn, both)]
    print(f"{numbers[0]} bytes a token drawn, {numbers[1]} with the branches of {len(held.trees)} tree")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="8B", help="a size, as `accord plan` takes it")
    parser.add_argument("--rollouts", action="store_true", help="measure what samples take in Python")
    given = parser.parse_args()
    rollouts() if given.rollouts else table(given.model)


if __name__ == "__main__":
    main()
