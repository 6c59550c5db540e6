"""Checkpoints of other trainers that hold a model in shards: how to recognize them, and the command that merges them.

The shards are pickles, or of a layout that only their own trainer knows, so accord reads none of them.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import NamedTuple


class Layout(NamedTuple):
    """What a trainer writes: a file or folder that marks it, whose checkpoint it is, and what merges it."""

    marker: str
    """A pattern of the file or folder."""
    above: int
    """How many folders the checkpoint is above it."""
    trainer: str
    command: str
    """The command; {folder} is the checkpoint, {tag} the name of the folder of the marker."""
    is_whole: bool = False
    """Whether it also writes the configuration and the tokenizer."""


BRIDGE = (
    "python examples/conversion/convert_checkpoints.py export --hf-model MODEL --megatron-path {folder} --hf-path "
    "MERGED` of Megatron-Bridge (MODEL is the one that it was trained from)"
)
LAYOUTS = (
    Layout(
        "model_world_size_*_rank_*.pt", 1, "verl",
        "python -m verl.model_merger merge --backend fsdp --local_dir {folder} --target_dir MERGED`", True,
    ),
    Layout(
        "dist_ckpt", 1, "verl",
        "python -m verl.model_merger merge --backend megatron --local_dir {folder} --target_dir MERGED`", True,
    ),
    Layout("common.pt", 1, "Megatron", BRIDGE, True),
    Layout("pytorch_model_fsdp_[0-9]*", 0, "FSDP", "accelerate merge-weights {folder} MERGED`"),
    Layout("*.distcp", 1, "FSDP", "accelerate merge-weights {folder} MERGED`"),
    Layout(
        "*_optim_states.pt", 2, "DeepSpeed",
        "python -m deepspeed.utils.zero_to_fp32 {folder} MERGED --tag {tag} --safe_serialization`",
    ),
)  # fmt: skip
"""The layouts; one that another one contains comes after it."""
WITHIN = ("dist_ckpt", "huggingface")
"""Folders of a checkpoint of verl, which people give in place of the checkpoint."""


def how_to_merge(path: Path) -> str | None:
    """The command that merges the shards in a folder, or up to two folders further in, as the end of a sentence.

    Of several checkpoints it is that of the last step. None where there are no shards that accord knows.
    """
    path = path.absolute()
    start = path.parent if path.name in WITHIN else path
    for layout in LAYOUTS:
        for depth in ("", "*/", "*/*/"):
            markers = [one for one in start.glob(depth + layout.marker) if "optimizer" not in one.parent.name]
            if markers:
                return _sentence(layout, max(markers, key=_by_numbers))
    return None


def _sentence(layout: Layout, marker: Path) -> str:
    folder = marker
    for _ in range(layout.above):
        folder = folder.parent
    command = layout.command.format(folder=shlex.quote(str(folder)), tag=shlex.quote(marker.parent.name))
    copied = ", copy config.json and the tokenizer's files of the model it began from to MERGED,"
    copied = "" if layout.is_whole else copied
    return f"it is a checkpoint of {layout.trainer} in shards: merge it by `{command}{copied} and give MERGED."


def _by_numbers(path: Path) -> list[tuple[int, str]]:
    """A key that sorts step-9 before step-10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", str(path))]
