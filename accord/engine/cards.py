"""Cards and the wires between them: what they hold, and how much they do a second.

A plan needs six figures of a machine. Those that a data sheet gives are peaks, of which a training has a share: such
figures are `SHARES` of the sheet's. What is measured is taken as it is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from accord.errors import InputError, nearest


@dataclass(frozen=True)
class Machine:
    """What a rank computes on, and by what it speaks to others.

    Attributes:
        name: what it is called.
        memory: bytes that a card has.
        flops: additions and multiplications that a card does a second in a training, in products of matrices.
        memory_bandwidth: bytes a second that a card reads of its own memory.
        within: bytes a second that reach a card from the others of its node, as nccl-tests' bus bandwidth counts them.
        between: bytes a second that reach a card from other nodes, by its own share of the node's network.
        per_node: cards of a node.
        hops: seconds that a hop of a ring takes within a node and between nodes, and seconds that an operation takes
            whatever its size.
        launch: seconds that a layer takes at least, where operations are started one by one.
        overlaps: whether cards speak while they compute.
        folder: bytes a second that weights take to servers that sample, by a folder that all see.
        float32: the share of `flops` that a card does in float32, in which a mixture's experts are multiplied
            that are held in it.
    """

    name: str
    memory: float
    flops: float
    memory_bandwidth: float
    within: float
    between: float
    per_node: int = 8
    hops: tuple[float, float, float] = (3.4e-6, 14e-6, 8.4e-6)
    launch: float = 1e-3
    overlaps: bool = True
    folder: float = 1e9
    float32: float = 1.0

    def wire(self, ranks: int) -> float:
        """Bytes a second that reach each of so many ranks in a ring: by the slower of a node's wires and its network.

        A node's cards take in together, by all their network adapters, what each of them needs: NCCL makes as many
        rings as there are adapters, and a ring enters a node once. So the bound is `per_node * between` a card, not
        `between` (NVIDIA/nccl-tests, doc/PERFORMANCE.md: "the bus bandwidth should reflect the speed of the hardware
        bottleneck").
        """
        return self.within if ranks <= self.per_node else min(self.within, self.per_node * self.between)

    def seconds(self, size: float, ranks: int) -> float:
        """Seconds in which ranks gather, or sum and scatter, what is `size` bytes as a whole.

            t = base + (ranks - nodes) hop_within + (nodes - 1) hop_between + size (ranks - 1) / ranks / wire

        The last part is nccl-tests' formula of both (doc/PERFORMANCE.md), the first three are by what NCCL estimates
        a ring by (NVIDIA/nccl, src/graph/tuning.cc: baseLat 8.4, hwLat 3.4 and 14.0 microseconds, protocol Simple).
        """
        if ranks == 1:
            return 0.0
        nodes = -(-ranks // self.per_node)
        inside, outside, base = self.hops
        latency = base + (ranks - nodes) * inside + (nodes - 1) * outside
        return latency + size * (ranks - 1) / ranks / self.wire(ranks)


SHARES = {"flops": 0.35, "memory_bandwidth": 0.6, "within": 0.8, "between": 0.8}
"""Of a data sheet's figures, what a training has. That of flops is what torchtitan reports of FSDP of an 8B on 8 and on
128 H100 (33% to 39%, benchmarks/llama3_h100_202412_torchtitan.md); the others are assumed."""

SHEETS: dict[str, tuple[float, float, float, float, float, float]] = {
    "a100": (80e9, 312e12, 19.5e12, 2.039e12, 300e9, 25e9),
    "h100": (80e9, 989e12, 67e12, 3.35e12, 450e9, 50e9),
    "h200": (141e9, 989e12, 67e12, 4.8e12, 450e9, 50e9),
}
"""Bytes, flops of dense bfloat16, of float32, bytes a second of memory, of NVLink in one direction, of a card's network
adapter.

NVIDIA's data sheets of A100 80GB SXM, H100 SXM and H200 SXM; the adapters are those of DGX A100 (8 of 200 Gb/s) and of
DGX H100 and H200 (8 of 400 Gb/s)."""

LEAST = 1e6
"""Bytes, bytes a second or operations a second: no card has less of anything."""
PREFIXES = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4, "P": 5}


def card_called(name: str) -> Machine:
    """The card of a data sheet, with `SHARES` of its figures. Raises InputError where none is called so."""
    key = name.lower()
    if key not in SHEETS:
        raise InputError(f"no data sheet of a card {name!r} is known{nearest(key, SHEETS)}; there are {_known()}.")
    memory, flops, float32, own, within, between = SHEETS[key]
    return Machine(
        name=key,
        memory=memory,
        flops=SHARES["flops"] * flops,
        memory_bandwidth=SHARES["memory_bandwidth"] * own,
        within=SHARES["within"] * within,
        between=SHARES["between"] * between,
        float32=float32 / flops,
    )


def with_figures(machine: Machine, **figures: float | None) -> tuple[Machine, dict[str, str]]:
    """The machine with figures of one's own where they are given; of every figure, whether it was."""
    given = {name: value for name, value in figures.items() if value is not None}
    how = {name: "given" if name in given else f"{SHARES[name]:.0%} of the data sheet's" for name in SHARES}
    how["memory"] = "given" if "memory" in given else "the data sheet's"
    how["folder"] = "given" if "folder" in given else "assumed"
    return replace(machine, **given), how  # type: ignore[arg-type]


def amount(text: str | float, what: str, unit: str) -> float:
    """A number of what is written 400T, 50GB or 1.5e12.

    Raises InputError, which says what it is to be, where it is none, or a text and below LEAST, as what lacks
    its unit is.
    """
    found = re.fullmatch(r"\s*([0-9.]+(?:e[+-]?\d+)?)\s*([KMGTP]?)(?:B|B/s|FLOPS|FLOP/s)?\s*", str(text), re.IGNORECASE)
    try:
        value = float(found[1]) * 1000 ** PREFIXES[found[2].upper()] if found else 0.0
    except ValueError:
        value = 0.0
    least = LEAST if isinstance(text, str) else 0.0
    if not least <= value < float("inf") or value == 0:
        raise InputError(f"{what} is {unit}, not {text!r}.")
    return value


def _known() -> str:
    return ", ".join(SHEETS)
