"""What weights in bfloat16 cost: the held-out loss of fine-tuning in the small world, by how updates are rounded.

    python benchmarks/rounding.py

The same model, data and seeds three times, products in bfloat16 each time: weights in float32, in bfloat16 with updates
rounded at random (`--weight-dtype bfloat16`), and, as what this spares one, in bfloat16 rounded to the nearest.
Printed is the loss a token of the held-out fifth: means over seeds, and of the differences from float32 95% intervals.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from accord.cli.world import world
from accord.engine import adam
from accord.evaluate.statistics import mean_interval
from accord.methods import SFT

WAYS = ("float32", "bfloat16, at random", "bfloat16, to the nearest")


def losses(world: Path, steps: int, seed: int, rate: float) -> list[float]:
    """The held-out loss of every way, after fine-tuning the untrained model."""
    found, at_random = [], adam.round_stochastically
    for way in WAYS:
        method = SFT(
            weight_dtype=way.split(",")[0], dtype="bfloat16", max_steps=steps, batch_size=16, learning_rate=rate,
            seed=seed,
        )  # fmt: skip
        adam.round_stochastically = at_random if "nearest" not in way else lambda x, *_: x.bfloat16()
        with tempfile.TemporaryDirectory() as out:
            run = method.fit(
                str(world / "init"), str(world / "demonstrations.jsonl"), out=Path(out) / "run", eval_split="0.2",
                eval_every=steps,
            )  # fmt: skip
        found.append(next(row["eval_loss"] for row in reversed(run.metrics) if "eval_loss" in row))
    adam.round_stochastically = at_random
    return found


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--seeds", type=int, default=3)
    asked.add_argument("--steps", type=int, default=120)
    asked.add_argument("--learning-rate", type=float, nargs="+", default=[1e-3, 1e-4])
    given = asked.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        world(folder)
        for rate in given.learning_rate:
            every = [losses(Path(folder), given.steps, seed, rate) for seed in range(given.seeds)]
            for i, way in enumerate(WAYS):
                apart = mean_interval([row[i] - row[0] for row in every])
                more = f", {apart.estimate:+.4f} [{apart.low:+.4f}, {apart.high:+.4f}] beside float32" if i else ""
                print(
                    f"learning rate {rate:g}, {way}: {sum(row[i] for row in every) / len(every):.4f}{more}", flush=True
                )


if __name__ == "__main__":
    main()
