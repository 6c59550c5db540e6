"""Peak memory and start-up time of training with streamed data, against reading all rows first.

    python benchmarks/streaming.py --megabytes 10 1000

For each size, writes a .jsonl file and fine-tunes a tiny model on it for a few steps in a process of its own: with
--stream and, up to --whole megabytes, without. Prints peak resident memory, seconds to the first step, and seconds per
later step.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

PLAN: dict[str, Any] = {
    "shape": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "kv": 2},
    "vocabulary": 1000, "prompt": 40, "completion": 120, "new": 0, "lora_rank": 0, "device": "cpu",
}  # fmt: skip
STEPS = 6


def write(path: Path, megabytes: int) -> int:
    """Write rows of random words until the file has this size; the number of rows."""
    rng, count = random.Random(0), 0
    some = [" ".join(str(rng.randrange(998)) for _ in range(PLAN["prompt"] + PLAN["completion"])) for _ in range(500)]
    with path.open("w", encoding="utf-8") as file:
        while file.tell() < megabytes * 10**6:
            words = some[count % 500].split()
            row = {"prompt": " ".join(words[: PLAN["prompt"]]), "completion": " ".join(words[PLAN["prompt"] :])}
            file.write(json.dumps(row) + "\n")
            count += 1
    return count


def work(data: str, stream: bool) -> None:
    """Train, and print peak memory in bytes, seconds to the first step, and the median seconds of later ones."""
    from random_llamas import network_of, tokenizer_of

    from accord.engine.models import Policy, prepare_network
    from accord.methods import SFT

    network = prepare_network(network_of(PLAN).eval())
    network.generation_config.eos_token_id = 1
    marks = [time.perf_counter()]
    with tempfile.TemporaryDirectory() as folder:
        SFT(max_steps=STEPS, batch_size=64, dtype="float32").fit(
            Policy(network, tokenizer_of(PLAN), "random"), data, out=Path(folder) / "run", track="none", stream=stream,
            on_step=lambda step, result: marks.append(time.perf_counter()),
        )  # fmt: skip
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    apart = [later - earlier for earlier, later in pairwise(marks[1:])]
    print(json.dumps([peak, marks[1] - marks[0], median(apart)]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, nargs="+", default=[10, 1000], help="sizes of the files")
    parser.add_argument("--whole", type=int, default=100, help="also read all rows first, up to this size")
    parser.add_argument("--work", nargs=2, help="a file, and whether to stream it (used internally)")
    given = parser.parse_args()
    if given.work:
        work(given.work[0], given.work[1] == "True")
        return
    table = Table("megabytes", "rows", "read", "peak GB", "seconds to the first step", "seconds per step")
    with tempfile.TemporaryDirectory() as folder:
        for megabytes in given.megabytes:
            path = Path(folder) / f"{megabytes}.jsonl"
            rows = write(path, megabytes)
            for stream in (True, False)[: 2 if megabytes <= given.whole else 1]:
                command = [sys.executable, __file__, "--work", str(path), str(stream)]
                said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
                peak, first, step = json.loads(said.splitlines()[-1])
                how = "as needed" if stream else "at once"
                table.add_row(f"{megabytes:,}", f"{rows:,}", how, f"{peak / 1e9:.2f}", f"{first:.1f}", f"{step:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
