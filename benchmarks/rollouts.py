"""Memory, transfer and layout costs of samples and their trees: bytes and nanoseconds per token.

    python benchmarks/rollouts.py

Measures samples of 10, 100, 1,000 and 4,096 tokens (a million tokens in all, 4,096 samples at most), stored in accord's
arrays or in tuples: memory with their trees, bytes sent between ranks (pickled), and the time to send and read them and
to lay them out. Takes no options.
"""

from __future__ import annotations

import gc
import pickle
import random
import tracemalloc
from collections.abc import Callable
from time import process_time

import torch
from rich.console import Console
from rich.table import Table

from accord.arrays import Doubles, Ints
from accord.engine.trees import Branch, Tree, Trees
from accord.records import Completion

TOKENS, MOST = 1_000_000, 4096
GROUP = 8
VOCABULARY = 49_152
STORAGE = {"tuples": (tuple, tuple), "arrays": (Ints, Doubles)}


def random_samples(length: int, ints: type, doubles: type) -> list[Completion]:
    """Samples of `length` random tokens."""
    rng = random.Random(length)

    def one() -> Completion:
        tokens, logprobs = (rng.randrange(VOCABULARY) for _ in range(length)), (-rng.random() for _ in range(length))
        return Completion(ints(tokens), doubles(logprobs), "length")

    return [one() for _ in range(min(MOST, TOKENS // length) // GROUP * GROUP)]


def trees_of(samples: list[Completion]) -> list[Tree]:
    """Trees of eight samples each, with a prompt of eight tokens."""
    branches = [Branch(said.tokens, None, said.logprobs, 0.0) for said in samples]
    prompt = Ints(range(GROUP))
    return [Tree(prompt, tuple(branches[i : i + GROUP]), row=i) for i in range(0, len(branches), GROUP)]


def seconds(do: Callable[[], object]) -> float:
    """The least CPU time of three calls."""
    taken = []
    for _ in range(3):
        begun = process_time()
        do()
        taken.append(process_time() - begun)
    return min(taken)


def main() -> None:
    torch.set_num_threads(1)
    table = Table(
        "tokens per sample",
        "stored as",
        "bytes per token in memory",
        "bytes per token sent",
        "ns per token to send and read",
        "ns per token to lay out",
    )
    for length in (10, 100, 1000, 4096):
        for name, (ints, doubles) in STORAGE.items():
            gc.collect()
            tracemalloc.start()
            samples = random_samples(length, ints, doubles)
            trees = trees_of(samples)
            held = tracemalloc.get_traced_memory()[0]
            tracemalloc.stop()
            count = length * len(samples)
            sent = pickle.dumps(samples)
            sending = seconds(lambda given=samples: pickle.loads(pickle.dumps(given)))
            layout = seconds(lambda given=trees: Trees.of(given))
            numbers = (held, len(sent), 1e9 * sending, 1e9 * layout)
            table.add_row(f"{length:,}", name, *(f"{number / count:.1f}" for number in numbers))
    Console().print(table)


if __name__ == "__main__":
    main()
