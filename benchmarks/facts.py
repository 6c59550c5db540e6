"""What fine-tuning, DPO and GRPO do to facts a model knows, facts it does not, and its use of "i do not know".

    python benchmarks/facts.py [--seeds 0 1 2] [--out runs/facts]

For each seed, `accord world --name facts` generates a world and its text, which a 0.5 M parameter model learns to
continue. The text states half of the facts, in four wordings each, and never the other half. The model is then
fine-tuned for the same number of steps on answers to all questions (all); on those about stated facts only (known); or
on the latter plus "i do not know" to the others (unsure). From "known", DPO continues with comparisons, and GRPO with
the verifier `truthful`: 1 for the right answer, 0 for not knowing, -1 for a wrong one. `accord evaluate failures` asks
all models about facts that no training question was about.

Prints the share of probes that show each failure: means over seeds with Student's 95% intervals. A seed takes four to
five minutes on one core; finished runs are reused.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cafe import with_interval
from processes import output_of, run_cli, study_parser
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
"""The stages in order; {name} is the model or the folder of an earlier stage."""

MODELS = {
    "base": "base",
    "all": "SFT, all answered",
    "known": "SFT, known alone",
    "unsure": "SFT, unsure shown",
    "dpo": "+ DPO",
    "grpo": "+ GRPO",
}
"""The models evaluated, and their names in the table; the last two start from "SFT, known alone"."""


def main() -> None:
    """Run what is missing, and print the table."""
    options = study_parser(__doc__, "runs/facts").parse_args()
    found = [failures(options.out / f"seed-{seed}", seed) for seed in options.seeds]
    table = Table("failure", "probes", *MODELS.values(), title=f"seeds: {len(options.seeds)}")
    for name, row in found[0].items():
        shares = ([one[name]["values"][model]["estimate"] for one in found] for model in MODELS)
        table.add_row(name, str(row["n"]), *map(with_interval, shares))
    Console(width=160).print(table)


def failures(folder: Path, seed: int) -> dict[str, Any]:
    """The result of `accord evaluate failures` for a seed's models, by name of the failure."""
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
