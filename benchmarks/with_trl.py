"""One measured run of trl, started by benchmarks/step.py: follows FOLDER/plan.json and writes its numbers to OUT.

    python benchmarks/with_trl.py FOLDER OUT
    python benchmarks/with_trl.py FOLDER OUT TURN    # one GRPO step on the samples of accord's first step in TURN

The trainers are used as their documentation shows; benchmarks/README.md explains the settings.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

from datasets import Dataset
from random_llamas import lora_config
from reward import length
from transformers import Trainer, TrainerCallback
from trl import (
    DPOConfig,
    DPOTrainer,
    GRPOConfig,
    GRPOTrainer,
    RewardConfig,
    RewardTrainer,
    SFTConfig,
    SFTTrainer,
)

TRAINERS = {
    "dpo": (DPOTrainer, DPOConfig),
    "sft": (SFTTrainer, SFTConfig),
    "reward": (RewardTrainer, RewardConfig),
}


class Stopwatch(TrainerCallback):  # type: ignore[misc]
    """Seconds of each optimizer step, and of the calls within it that are wrapped by `around`."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.within: list[float] = []

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self.began = time.perf_counter()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.seconds.append(time.perf_counter() - self.began)

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, timed."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            done = function(*args, **kwargs)
            self.within.append(time.perf_counter() - began)
            return done

        return timed


def main(folder: Path, out: Path, turn: Path | None = None) -> None:
    plan = json.loads((folder / "plan.json").read_text())
    with tempfile.TemporaryDirectory() as runs:
        settings = {
            "output_dir": runs,
            "learning_rate": plan["learning_rate"],
            "max_steps": plan["steps"],
            "bf16": plan["dtype"] == "bfloat16",
            "seed": plan["seed"],
            "lr_scheduler_type": "constant",
            "gradient_checkpointing": False,
            "use_cpu": True,
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
        }
        rows = Dataset.from_list([plan["rows"][i] for i in plan["order"]])
        if plan["work"] == "grpo":
            measures = from_samples(plan, settings, rows, json.loads(turn.read_text())["samples"] if turn else None)
        else:
            measures = from_rows(plan, settings, rows)
    measures["peak_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    out.write_text(json.dumps(measures))


def from_rows(plan: dict[str, Any], settings: dict[str, Any], rows: Dataset) -> dict[str, Any]:
    """Train SFT, DPO or a reward model on the rows."""
    trainer_of, config_of = TRAINERS[plan["work"]]
    size = plan["batch_size"]
    config = config_of(
        **settings,
        per_device_train_batch_size=size,
        max_length=plan["max_length"],
        train_sampling_strategy="sequential",
    )
    stopwatch = Stopwatch()
    trainer = trainer_of(
        model=plan["start"]["trl"],
        args=config,
        train_dataset=rows,
        callbacks=[stopwatch],
        peft_config=lora_config(plan["work"], plan["lora_rank"]),
    )
    trainer.train()
    read = [_tokens(row) for row in trainer.train_dataset]
    tokens = [sum(read[i : i + size]) for i in range(0, len(read), size)]
    return {"seconds": stopwatch.seconds, "tokens": tokens, **logged(trainer, loss="loss", gradient_norm="grad_norm")}


def from_samples(
    plan: dict[str, Any], settings: dict[str, Any], rows: Dataset, given: list[list[int]] | None
) -> dict[str, Any]:
    """Train GRPO on samples of the rows' prompts, or for one step on the samples given."""
    config = GRPOConfig(
        **settings | ({"max_steps": 1} if given else {}),
        per_device_train_batch_size=plan["batch_size"] * plan["group_size"],
        num_generations=plan["group_size"],
        max_completion_length=plan["max_new_tokens"],
        beta=plan["kl_coefficient"],
        use_bias_correction_kl=plan["kl"] == "k3-corrected",
        epsilon=plan["clip_low"],
        epsilon_high=plan["clip_high"],
        shuffle_dataset=False,
    )
    stopwatch = Stopwatch()
    trainer: Any = GRPOTrainer(
        model=plan["start"]["trl"],
        args=config,
        reward_funcs=length,
        train_dataset=rows,
        callbacks=[stopwatch],
        peft_config=lora_config(plan["work"], plan["lora_rank"]),
        rollout_func=(lambda prompts, trainer: _rollout(trainer, prompts, given)) if given else None,
    )
    trainer.model.generate = stopwatch.around(trainer.model.generate)
    trainer.train()
    names = {"loss": "loss", "gradient_norm": "grad_norm", "reward": "reward", "entropy": "entropy"}
    measures = logged(trainer, **names, tokens="num_tokens")
    total = [0, *measures["tokens"]]
    measures["tokens"] = [int(after - before) for before, after in pairwise(total)]
    return {"seconds": stopwatch.seconds, "generation": stopwatch.within, **measures}


def logged(trainer: Trainer, **names: str) -> dict[str, list[Any]]:
    """What the trainer logged in each step; `names` maps our names to trl's."""
    rows = [row for row in trainer.state.log_history if "loss" in row]
    return {ours: [row[theirs] for row in rows] for ours, theirs in names.items()}


def _rollout(trainer: Any, prompts: list[str], completions: list[list[int]]) -> dict[str, Any]:
    """Completions in the form that trl's `rollout_func` returns."""
    prompt_ids = trainer.processing_class(text=prompts)["input_ids"]
    return {"prompt_ids": prompt_ids, "completion_ids": completions, "logprobs": None}


def _tokens(row: dict[str, Any]) -> int:
    """The tokens of a prepared row, each completion with its prompt."""
    if "input_ids" in row:
        return len(row["input_ids"])
    return 2 * len(row.get("prompt_ids", ())) + len(row["chosen_ids"]) + len(row["rejected_ids"])


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
