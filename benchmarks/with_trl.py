"""One run of trl: `python benchmarks/with_trl.py FOLDER OUT` follows FOLDER/plan.json and writes to OUT.

The trainers are used as their documentation shows; benchmarks/README.md says which settings were chosen and why.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import TrainerCallback
from trl import DPOConfig, DPOTrainer, RewardConfig, RewardTrainer, SFTConfig, SFTTrainer

TRAINERS = {
    "dpo": (DPOTrainer, DPOConfig),
    "sft": (SFTTrainer, SFTConfig),
    "reward": (RewardTrainer, RewardConfig),
}


class Stopwatch(TrainerCallback):  # type: ignore[misc]
    """The seconds from the beginning of each optimiser step to its end."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self.began = time.perf_counter()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.seconds.append(time.perf_counter() - self.began)


def main(folder: Path, out: Path) -> None:
    plan = json.loads((folder / "plan.json").read_text())
    trainer_of, config_of = TRAINERS[plan["work"]]
    stopwatch = Stopwatch()
    with tempfile.TemporaryDirectory() as runs:
        config = config_of(
            output_dir=runs,
            learning_rate=plan["learning_rate"],
            per_device_train_batch_size=plan["batch_size"],
            max_steps=plan["steps"],
            max_length=plan["max_length"],
            bf16=plan["dtype"] == "bfloat16",
            seed=plan["seed"],
            lr_scheduler_type="constant",
            train_sampling_strategy="sequential",
            gradient_checkpointing=False,
            use_cpu=True,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        trainer = trainer_of(
            model=plan["start"]["trl"],
            args=config,
            train_dataset=Dataset.from_list([plan["rows"][i] for i in plan["order"]]),
            callbacks=[stopwatch],
        )
        trainer.train()
    logs = [row for row in trainer.state.log_history if "loss" in row]
    read = [_tokens(row) for row in trainer.train_dataset]
    size = plan["batch_size"]
    measures = {
        "seconds": stopwatch.seconds,
        "tokens": [sum(read[i : i + size]) for i in range(0, len(read), size)],
        "loss": [row["loss"] for row in logs],
        "gradient_norm": [row["grad_norm"] for row in logs],
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
    }
    out.write_text(json.dumps(measures))


def _tokens(row: dict[str, Any]) -> int:
    """The tokens of a prepared row, each completion with its prompt."""
    if "input_ids" in row:
        return len(row["input_ids"])
    return 2 * len(row.get("prompt_ids", ())) + len(row["chosen_ids"]) + len(row["rejected_ids"])


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
