"""Direct preference optimization in a few lines: `python examples/dpo_from_python.py pairs.jsonl`.

The file has rows of `prompt`, `chosen` and `rejected`, or another form of preferences from docs/data.md. The last 200
rows are held out, to measure how often the policy's implicit reward agrees with them.
"""

from __future__ import annotations

import sys

import accord
from accord.evaluate import evaluate_comparisons
from accord.methods import DPO

MODEL = "smollm2"  # or a folder, or a Hub name
OUT = "runs/dpo-from-python"  # a new folder


def main(data: str) -> None:
    policy = accord.load_model(MODEL)
    pairs = accord.load_data(data, split="train[:-200]")
    run = DPO(beta=0.1, learning_rate=5e-6, max_steps=20).fit(policy, pairs, out=OUT)
    print(f"loss {run.metrics[0]['loss']:.3f} -> {run.metrics[-1]['loss']:.3f}, report: {run.report}")
    evaluate_comparisons(data, f"{OUT}-check", policy=run.model.name, reference=MODEL, split="train[-200:]")
    accord.sample(run.model.name, data, f"{OUT}-samples.jsonl", split="train[-200:]", limit=4)


if __name__ == "__main__":
    main(sys.argv[1])
