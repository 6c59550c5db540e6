"""One run of accord: `python benchmarks/with_accord.py FOLDER OUT` follows FOLDER/plan.json and writes to OUT."""

from __future__ import annotations

import json
import resource
import sys
import tempfile
from pathlib import Path

from accord import load_data, load_model
from accord.data import Order
from accord.methods import DPO, SFT, RewardModel

METHODS = {"dpo": DPO, "sft": SFT, "reward": RewardModel}


def main(folder: Path, out: Path) -> None:
    plan = json.loads((folder / "plan.json").read_text())
    method = METHODS[plan["work"]](
        learning_rate=plan["learning_rate"],
        batch_size=plan["batch_size"],
        max_steps=plan["steps"],
        max_length=plan["max_length"],
        dtype=plan["dtype"],
        seed=plan["seed"],
        schedule="constant",
        warmup=0.0,
    )
    model = load_model(plan["start"]["accord"], device="cpu")
    with tempfile.TemporaryDirectory() as runs:
        metrics = method.fit(model, plan["rows"], out=Path(runs) / "run").metrics
    trees = method.encode(model, load_data(plan["rows"])).trees
    read = [sum(len(tree.prompt) + len(branch.tokens) for branch in tree.branches) for tree in trees]
    order = Order(len(trees), plan["batch_size"], plan["seed"])
    measures = {
        "seconds": [row["seconds"] for row in metrics],
        "tokens": [sum(read[i] for i in order.batch(step)) for step in range(plan["steps"])],
        "loss": [row["loss"] for row in metrics],
        "gradient_norm": [row["gradient_norm"] for row in metrics],
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
    }
    out.write_text(json.dumps(measures))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
