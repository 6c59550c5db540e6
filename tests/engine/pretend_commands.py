"""Commands on the CPU and on a card that is pretended: each is run on both, and what it writes has the same numbers.

The device is the one that a command chooses by itself. Later commands read what earlier ones wrote.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable, Iterable
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

from tests.commands.small import accord, read_jsonl, save_model, write_jsonl
from tests.feedback.test_encoders import save as save_encoder

STEPS = "--batch-size 2 --max-steps 2 --dtype float32"
SAMPLED = f"{STEPS} --max-new-tokens 4"
DRAWN = "--data prompts.jsonl --max-new-tokens 4"
SHORT = (
    "dpo --model m --data pairs.jsonl {STEPS} --lora-rank 2 --quantize nf4 --out nf4",
    "sample --model nf4/model {DRAWN} --n 3 --out samples.jsonl",
    "sample --model m {DRAWN} --n 2 --beams 3 --out beams.jsonl",
    "label --data samples.jsonl --judge bert --out by-bert.jsonl",
)
"""Those whose way to a card no method shows; the rest are tried in a slow test."""

COMMANDS = (
    "pretrain --model m --data text.txt {STEPS} --out pretrained",
    "sft --model m --data demonstrations.jsonl {STEPS} --eval-data demonstrations.jsonl --eval-every 1 --out sft",
    "sft --model m --data demonstrations.jsonl {STEPS} --optimizer muon --save-dtype bfloat16 --out muon",
    "reward --model m --data pairs.jsonl {STEPS} --eval-data pairs.jsonl --eval-every 1 --out whole-reward",
    "reward --model m --data pairs.jsonl {STEPS} --lora-rank 2 --out reward",
    "preference --model m --data pairs.jsonl {STEPS} --out preference",
    "personal --model m --data users.jsonl {STEPS} --eval-data users.jsonl --eval-every 1 --out personal",
    "fspo --model m --data users.jsonl {STEPS} --out fspo",
    "dpo --model m --data pairs.jsonl {STEPS} --lora-rank 2 --quantize nf4 --out nf4",
    "dpo --model m --data pairs.jsonl {STEPS} --lora-rank 2 --quantize int8 --out int8",
    "dpo --model m --data pairs.jsonl {STEPS} --precompute-reference --activation-checkpointing --out precomputed",
    "dpo --model m --data pairs.jsonl {STEPS} --memory 24GB --out fitted",
    "ipo --model m --data pairs.jsonl {STEPS} --optimizer-states 8bit --out ipo",
    "grpo --model m --data prompts.jsonl --reward whole-reward/model {SAMPLED} --lora-rank 2 --watch reward/model "
    "--watch-every 1 --watch-data prompts.jsonl --out grpo",
    "grpo --model m --data prompts.jsonl --reward modernbert {SAMPLED} --out by-modernbert",
    "rloo --model m --data prompts.jsonl --reward reward/model {SAMPLED} --out rloo",
    "reinforce --model m --data prompts.jsonl --reward reward/model {SAMPLED} --out reinforce",
    "ppo --model m --data prompts.jsonl --reward reward/model {SAMPLED} --lora-rank 2 --out ppo",
    "raft --model m --data prompts.jsonl --reward reward/model {SAMPLED} --out raft",
    "nash-md --model m --data prompts.jsonl --judge preference/model {SAMPLED} --out nash-md",
    "ipo-md --model m --data prompts.jsonl --judge preference/model {SAMPLED} --out ipo-md",
    "self-consistency --model m --data answers.jsonl --verifier exact {SAMPLED} --rounds 1 --out agreed",
    "distill --model m --teacher sft/model --data prompts.jsonl {SAMPLED} --out distilled",
    "sample --model nf4/model {DRAWN} --n 3 --out samples.jsonl",
    "sample --model m {DRAWN} --best-of 3 --reward whole-reward/model --out best.jsonl",
    "sample --model m {DRAWN} --n 2 --beams 3 --out beams.jsonl",
    "sample --model m {DRAWN} --beams 2 --block 2 --branch 3 --reward reward/model --out guided.jsonl",
    "sample --model fspo/model --data users.jsonl --choices users.jsonl --given 2 --max-new-tokens 4 --out fed.jsonl",
    "score --model m --data demonstrations.jsonl --out scores.jsonl",
    "label --data samples.jsonl --judge bert --out by-bert.jsonl",
    "label --data samples.jsonl --judge deberta --out by-deberta.jsonl",
    "label --data samples.jsonl --judge preference/model --soft --out by-preference.jsonl",
    "evaluate models --models.a m --models.b sft/model --judge reward/model {DRAWN} --out of-models",
    "evaluate comparisons --reward reward/model --data pairs.jsonl --out of-reward",
    "evaluate comparisons --policy sft/model --reference m --data pairs.jsonl --out of-policy",
    "evaluate passes --models.a m --data answers.jsonl --verifier exact --max-new-tokens 4 --n 4 --out of-passes",
    "evaluate personal --models.a personal/model --data users.jsonl --out of-personal",
    "evaluate users --models.a fspo/model --models.b m --against b --judge reward/model --given 0 2 "
    "--data users.jsonl --max-new-tokens 4 --out of-users",
    "evaluate overoptimization --model m --reward reward/model --judge whole-reward/model {DRAWN} --n 4 --out proxy",
    "inspect m 'hi good day' --layer 1 --head 1 --position 2 --out inspected.html",
    "merge reward/model --out merged",
    "export m --dtype bfloat16 --out exported",
    "doctor --model m --method grpo",
)


def write_inputs(folder: Path) -> None:
    """A small model, encoders, and rows of every kind, under the names that the commands have."""
    save_model(folder / "m")
    for name in ("bert", "deberta", "modernbert"):
        save_encoder(folder / name, name)
    asked, ends = ("hi", "hello", "good day", "bad"), ("day", "bad", "hi")
    pairs = [{"prompt": a, "chosen": f"{b} good", "rejected": f"{b} bye"} for a in asked[:2] for b in ends[:2]]
    users = [
        {"prompt": a, "chosen": f"{b} good", "rejected": f"{b} bye", "user": user}
        for user in ("ann", "bob", "eve", "joe") for a in asked for b in ends
    ]  # fmt: skip
    write_jsonl(folder / "pairs.jsonl", pairs)
    write_jsonl(folder / "users.jsonl", users)
    write_jsonl(folder / "demonstrations.jsonl", [{"prompt": r["prompt"], "completion": r["chosen"]} for r in pairs])
    write_jsonl(folder / "prompts.jsonl", [{"prompt": text} for text in asked])
    write_jsonl(folder / "answers.jsonl", [{"prompt": text, "answer": "good"} for text in asked])
    (folder / "text.txt").write_text("hi good day bye bad hello\n" * 40)


def numbers(written: Path) -> Any:
    """The rows, the evaluation or the steps' metrics that a command wrote, without times; nothing of a page."""
    if (written / "evaluation.json").exists():
        return json.loads((written / "evaluation.json").read_text())
    file = written / "metrics.jsonl" if written.is_dir() else written
    rows = read_jsonl(file) if file.suffix == ".jsonl" and file.exists() else []
    return [{key: value for key, value in row.items() if "second" not in key} for row in rows]


class Commands:
    """The commands in a folder of each device."""

    def __init__(self, folder: Path) -> None:
        self.folders = {device: folder / f"commands-{device}" for device in ("cpu", "cuda")}
        for own in self.folders.values():
            own.mkdir()
            write_inputs(own)

    def run(self, line: str, device: str) -> Any:
        """The numbers that a command writes, in its own folder, with the device's."""
        os.chdir(self.folders[device])
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()) as told:
            status = accord(*shlex.split(line.format(STEPS=STEPS, SAMPLED=SAMPLED, DRAWN=DRAWN)))
            assert status == 0, told.getvalue()
            return numbers(Path(line.rpartition("--out ")[2]))

    def works(self, lines: Iterable[str]) -> dict[str, Callable[[str], Any]]:
        """What each command does on a device, by its line."""
        return {line: partial(self.run, line) for line in lines}
