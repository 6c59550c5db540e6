"""How much memory ranks take to read a model of random weights, in shares and each the whole, and to write it.

python benchmarks/loading.py --ranks 2
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
from accord.engine.fit import manage_freed_memory
from accord.engine.load import load_model
from accord.engine.models import quiet
from accord.engine.networks import smollm2
from accord.engine.offload import shared_copy
from accord.engine.shard import shard
from accord.engine.team import joined

GB = 10**9
FILE = 300 * 10**6


def write(folder: Path) -> None:
    """A Llama of 256 million weights in a folder: 16 layers of width 1,024, and a vocabulary of 49,152; the bytes of
    all, and of the largest."""
    config = LlamaConfig(
        hidden_size=1024, intermediate_size=2816, num_hidden_layers=16, num_attention_heads=16, vocab_size=49152,
        tie_word_embeddings=True,
    )  # fmt: skip
    with quiet():
        network = LlamaForCausalLM(config)
        network.save_pretrained(folder)
        load_model(str(smollm2())).tokenizer.save_pretrained(folder)
    load_model(str(folder))  # what is proved of it is kept
    sizes = [4 * p.numel() for p in network.parameters()]
    (folder / "sizes.txt").write_text(json.dumps([sum(sizes), max(sizes)]))


def peak(folder: Path, in_shares: bool, copies: int) -> int:
    """Bytes by which this rank has more memory than before, at most, as it reads a policy and shares it out, and so a
    copy that is only read; once before, for what is made once."""
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    policy = load_model(str(folder), in_shares=in_shares)
    held = [shared_copy(policy) for _ in range(copies)]
    shard(policy.network)
    assert len(held) == copies
    return status("VmHWM") - before


def writing(folder: Path) -> int:
    """The same of writing the policy, in files of `FILE` bytes at most, beside this rank's share of it."""
    manage_freed_memory(True)  # so that none of what reading let go is there to be taken
    policy = load_model(str(folder), in_shares=True)
    shard(policy.network)
    models.SHARD = str(FILE // 10**6) + "MB"
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    policy.save(folder / "written")
    return status("VmHWM") - before


def status(name: str) -> int:
    [found] = re.findall(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found) * 1024


def on_ranks(size: int, folder: Path, measure: Callable[[], int]) -> list[int]:
    """What each of so many ranks measures, which are forked here."""
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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", type=int, default=2)
    ranks = parser.parse_args().ranks
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home)
        if not (pid := os.fork()):  # in a process of its own, whose memory no rank finds ready for it
            write(folder)
            os._exit(0)
        assert not os.waitpid(pid, 0)[1]
        whole, largest = json.loads((folder / "sizes.txt").read_text())
        print(f"a model of {whole / GB:.2f} GB on {ranks} ranks, GB at the peak of each")
        for copies, what in ((0, "policy"), (1, "policy and reference")):
            # every rank has the whole, and a share beside it; or its shares, and the rows of a weight that it reads
            expected = {
                False: (1 + copies) * whole + whole / ranks,
                True: ((1 + copies) * whole + largest) / ranks,
            }
            for in_shares, how in ((False, "each the whole"), (True, "in shares")):
                found = on_ranks(ranks, folder, partial(peak, folder, in_shares, copies))
                shown = ", ".join(f"{size / GB:.2f}" for size in found)
                print(f"{what}, {how}: measured {shown}; expected {expected[in_shares] / GB:.2f}", flush=True)
        shown = ", ".join(f"{size / GB:.2f}" for size in on_ranks(ranks, folder, partial(writing, folder)))
        first, others = max(FILE, 2 * largest) / GB, 2 * largest / GB  # gloo has a weight twice as it gathers it
        print(
            f"writing it in files of {FILE / GB:.2f}: measured {shown}; expected {first:.2f}, {others:.2f}", flush=True
        )


if __name__ == "__main__":
    main()
