"""Peak memory of ranks that load a model of random weights, whole or sharded, and that save it.

    python benchmarks/loading.py --ranks 2

Prints the peak in GB on each rank beside the expected value, for a policy, and for a policy and its reference.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch.distributed import TCPStore
from transformers import LlamaConfig, LlamaForCausalLM

from accord.engine import models
from accord.engine.load import load_model
from accord.engine.memory import manage_freed_memory
from accord.engine.models import quiet
from accord.engine.networks import smollm2
from accord.engine.offload import shared_copy
from accord.engine.shard import shard
from accord.engine.team import joined

GB = 10**9
FILE = 300 * 10**6
"""The most bytes of a saved file."""


def write(folder: Path) -> None:
    """Write a Llama of 256 million weights (16 layers of width 1,024, a vocabulary of 49,152) to a folder.

    sizes.txt holds the bytes of all weights, and of the largest.
    """
    config = LlamaConfig(
        hidden_size=1024, intermediate_size=2816, num_hidden_layers=16, num_attention_heads=16, vocab_size=49152,
        tie_word_embeddings=True,
    )  # fmt: skip
    with quiet():
        network = LlamaForCausalLM(config)
        network.save_pretrained(folder)
        load_model(str(smollm2())).tokenizer.save_pretrained(folder)
    load_model(str(folder))  # so that no rank repeats the checks of a new model, which are cached
    sizes = [4 * p.numel() for p in network.parameters()]
    (folder / "sizes.txt").write_text(json.dumps([sum(sizes), max(sizes)]))


def loading_peak(folder: Path, in_shares: bool, copies: int) -> int:
    """The peak increase of this rank's memory, in bytes, as it loads and shards a policy and `copies` frozen copies."""
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    policy = load_model(str(folder), in_shares=in_shares)
    held = [shared_copy(policy) for _ in range(copies)]
    shard(policy.network)
    assert len(held) == copies
    return status("VmHWM") - before


def saving_peak(folder: Path) -> int:
    """The same for saving the policy in files of at most `FILE` bytes, on top of this rank's shard."""
    manage_freed_memory(True)  # so that memory freed by loading is not reused
    policy = load_model(str(folder), in_shares=True)
    shard(policy.network)
    models.SHARD = str(FILE // 10**6) + "MB"
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    policy.save(folder / "written")
    return status("VmHWM") - before


def status(name: str) -> int:
    """A field of /proc/self/status, in bytes."""
    [found] = re.findall(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found) * 1024


def on_ranks(size: int, folder: Path, measure: Callable[[], int]) -> list[int]:
    """Fork `size` ranks, and return what each measures."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    results = [folder / f"rank-{rank}.txt" for rank in range(size)]
    pids = []
    for rank in range(size):
        pids.append(os.fork())
        if pids[-1]:
            continue
        team = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_PORT": store.port}
        os.environ.update({name: str(value) for name, value in team.items()})
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "TORCHELASTIC_USE_AGENT_STORE": "True"}
        with joined():
            results[rank].write_text(json.dumps(measure()))
        os._exit(0)
    assert not any(os.waitpid(pid, 0)[1] for pid in pids)
    return [json.loads(result.read_text()) for result in results]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=2, help="number of processes")
    ranks = parser.parse_args().ranks
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home)
        if not (pid := os.fork()):  # in a process of its own, so that ranks cannot reuse its memory
            write(folder)
            os._exit(0)
        assert not os.waitpid(pid, 0)[1]
        whole, largest = json.loads((folder / "sizes.txt").read_text())
        print(f"a model of {whole / GB:.2f} GB on {ranks} ranks, peak GB on each")
        for copies, what in ((0, "policy"), (1, "policy and reference")):
            # Loaded whole: all copies and one shard. Sharded: the rank's shards, and the rows it reads of one weight.
            expected = {
                False: (1 + copies) * whole + whole / ranks,
                True: ((1 + copies) * whole + largest) / ranks,
            }
            for in_shares, how in ((False, "loaded whole"), (True, "sharded")):
                found = on_ranks(ranks, folder, partial(loading_peak, folder, in_shares, copies))
                shown = ", ".join(f"{size / GB:.2f}" for size in found)
                print(f"{what}, {how}: measured {shown}; expected {expected[in_shares] / GB:.2f}", flush=True)
        shown = ", ".join(f"{size / GB:.2f}" for size in on_ranks(ranks, folder, partial(saving_peak, folder)))
        first, others = max(FILE, 2 * largest) / GB, 2 * largest / GB  # gloo holds a weight twice while gathering it
        print(
            f"writing it in files of {FILE / GB:.2f}: measured {shown}; expected {first:.2f}, {others:.2f}", flush=True
        )


if __name__ == "__main__":
    main()
