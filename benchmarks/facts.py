"""Known facts, made-up ones, and "i do not know": what each stage of training does to them.

    python benchmarks/facts.py [--seeds 0 1 2] [--out runs/facts]

For each seed, `accord world --name facts` draws a world, whose text a model of 0.5 M parameters learns to continue: it
tells half of the facts, in four wordings, and never the others. The model is then fine-tuned on answers to questions:
to all of them, as if it knew all (all); to those about facts that the text tells (known); or to these, and "i do not
know" to the others (unsure), in as many steps. From the second, DPO goes on by comparisons, and GRPO by the verifier
`truthful`: 1 for the right answer, 0 for not knowing, -1 for a wrong one. `accord evaluate failures` asks each about
facts that no question before was about, by the world's own probes. Each command runs in a process of its own with one
thread; what has been run is taken up, not run again.

The table has a row a failure, and the share of the probes failed so: means over seeds with Student's 95% intervals.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from cafe import with_interval
from processes import output_of, run_cli
from rich.console import Console
from rich.table import Table

SHORT = {"max_length": 64, "track": "none"}
TUNED = SHORT | {"command": "sft", "model": "{base}", "batch_size": 32, "max_steps": 100, "learning_rate": 5e-4}
TUNED |= {"schedule": "linear"}

STAGES: dict[str, dict[str, Any]] = {
    "world": {"command": "world", "name": "facts"},
    "base": {
        "command": "pretrain", **SHORT, "model": "{world}/init", "data": "{world}/corpus.jsonl",
        "batch_size": 64, "max_steps": 700, "learning_rate": 2e-3, "schedule": "linear",
    },
    "all": {**TUNED, "data": "{world}/demonstrations.jsonl"},
    "known": {**TUNED, "data": "{world}/demonstrations-known.jsonl"},
    "unsure": {**TUNED, "data": "{world}/demonstrations-unsure.jsonl"},
    "dpo": {
        "command": "dpo", **SHORT, "model": "{known}", "data": "{world}/comparisons.jsonl", "batch_size": 32,
        "epochs": 2, "learning_rate": 2e-4, "beta": 0.1,
    },
    "grpo": {
        "command": "grpo", **SHORT, "model": "{known}", "data": "{world}/prompts.jsonl", "reward": "truthful",
        "batch_size": 16, "group_size": 16, "max_steps": 160, "max_new_tokens": 8, "learning_rate": 6e-4,
        "kl_coefficient": 0,
    },
}  # fmt: skip
"""The stages in order; {name} is the model or the folder of an earlier one."""

MODELS = {
    "base": "base",
    "all": "SFT, all answered",
    "known": "SFT, known alone",
    "unsure": "SFT, unsure shown",
    "dpo": "+ DPO",
    "grpo": "+ GRPO",
}
"""The models that are asked, and what the table calls them; the last two go on from known alone."""


def main() -> None:
    """Run what has not been run, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/facts"))
    options = parser.parse_args()
    found = [failures(options.out / f"seed-{seed}", seed) for seed in options.seeds]
    table = Table("failure", "probes", *MODELS.values(), title=f"seeds: {len(options.seeds)}")
    for name, row in found[0].items():
        shares = ([one[name]["values"][model]["estimate"] for one in found] for model in MODELS)
        table.add_row(name, str(row["n"]), *map(with_interval, shares))
    Console(width=160).print(table)


def failures(folder: Path, seed: int) -> dict[str, Any]:
    """What `accord evaluate failures` finds of a seed's models, by the failure's name."""
    out = folder / "failures"
    if not (out / "evaluation.json").exists():
        models = {name: output_of(STAGES, folder, name, seed) for name in MODELS}
        probes = output_of(STAGES, folder, "world", seed) / "probes.yaml"
        run_cli(
            "evaluate failures", {"models": models, "probes": probes, "max_new_tokens": 8, "seed": seed, "out": out}
        )
    result = json.loads((out / "evaluation.json").read_text(encoding="utf-8"))
    return {row["name"]: row for row in result["failures"]}


if __name__ == "__main__":
    main()
