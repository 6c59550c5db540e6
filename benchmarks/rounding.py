"""The cost of bfloat16 weights: held-out loss after fine-tuning in the café, by how updates are rounded.

    python benchmarks/rounding.py

Trains the same model on the same data and seeds three times, with matrix products in bfloat16: weights in float32; in
bfloat16 with stochastic rounding of updates (`--weight-dtype bfloat16`); and in bfloat16 with rounding to nearest,
which accord does not offer. Prints the held-out loss per token: means over seeds, and 95% intervals of the difference
from float32.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from accord.cli.world import world
from accord.engine import adam
from accord.evaluate.statistics import mean_interval
from accord.methods import SFT

ROUNDING = ("float32", "bfloat16, stochastic rounding", "bfloat16, rounding to nearest")


def losses(world: Path, steps: int, seed: int, rate: float) -> list[float]:
    """The held-out loss of the untrained model after fine-tuning, for each kind of weights."""
    found, stochastic = [], adam.round_stochastically
    for way in ROUNDING:
        method = SFT(
            weight_dtype=way.split(",")[0], dtype="bfloat16", max_steps=steps, batch_size=16, learning_rate=rate,
            seed=seed,
        )  # fmt: skip
        adam.round_stochastically = stochastic if "nearest" not in way else lambda x, *_: x.bfloat16()
        with tempfile.TemporaryDirectory() as out:
            run = method.fit(
                str(world / "init"), str(world / "demonstrations.jsonl"), out=Path(out) / "run", eval_split="0.2",
                eval_every=steps,
            )  # fmt: skip
        found.append(next(row["eval_loss"] for row in reversed(run.metrics) if "eval_loss" in row))
    adam.round_stochastically = stochastic
    return found


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--seeds", type=int, default=3, help="number of seeds")
    asked.add_argument("--steps", type=int, default=120, help="training steps")
    asked.add_argument("--learning-rate", type=float, nargs="+", default=[1e-3, 1e-4], help="learning rates")
    given = asked.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        world(folder)
        for rate in given.learning_rate:
            every = [losses(Path(folder), given.steps, seed, rate) for seed in range(given.seeds)]
            for i, way in enumerate(ROUNDING):
                apart = mean_interval([row[i] - row[0] for row in every])
                more = f", {apart.estimate:+.4f} [{apart.low:+.4f}, {apart.high:+.4f}] from float32" if i else ""
                print(
                    f"learning rate {rate:g}, {way}: {sum(row[i] for row in every) / len(every):.4f}{more}", flush=True
                )


if __name__ == "__main__":
    main()
