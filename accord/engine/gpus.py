"""GPUs and their interconnects: memory, arithmetic and bandwidth, for plans.

Figures from data sheets are peaks, of which training reaches a share: they are multiplied by `SHARES`. Measured figures
are used as given.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from accord.errors import InputError, nearest

if TYPE_CHECKING:
    import torch


def size(text: str) -> float:
    """Bytes from a text such as "24GB", "900MB" or "16 GiB". Raises InputError where it is not a size."""
    found = re.fullmatch(r"\s*([0-9.]+)\s*([KMGT])(i?)B?\s*", text, re.IGNORECASE)
    try:
        amount = float(found[1]) if found else 0.0
    except ValueError:
        amount = 0.0
    if not found or not amount > 0:
        raise InputError(f"memory is a size such as 24GB or 900MB, not {text!r}.")
    return amount * (1024 if found[3] else 1000) ** ("KMGT".index(found[2].upper()) + 1)


def available(device: torch.device) -> float:
    """Bytes of memory of a GPU, or of this machine."""
    if device.type == "cuda":
        import torch

        return float(torch.cuda.get_device_properties(device).total_memory)
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


@dataclass(frozen=True)
class Machine:
    """A GPU, its node and network.

    Attributes:
        name: its name.
        memory: bytes of memory per GPU.
        flops: floating-point operations per second in training's matrix products.
        memory_bandwidth: bytes per second read from a GPU's own memory.
        within: bytes per second to a GPU from others in its node, as nccl-tests' bus bandwidth.
        between: bytes per second to a GPU from other nodes, by its own share of the node's network.
        per_node: GPUs per node.
        hops: seconds per ring hop within a node and between nodes, and seconds per operation regardless of size.
        launch: least seconds per layer, where operations are launched one by one.
        overlaps: whether communication overlaps with computation.
        folder: bytes per second of weights handed to sampling servers through a shared folder.
        float32: relative rate in float32, for a mixture's experts held in it.
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
        """Bytes per second to each of the ranks in a ring: by the slower of a node's interconnect and its network.

        All network adapters of a node together receive what each of its GPUs needs: NCCL builds as many rings as there
        are adapters, and a ring enters a node once. So the bound per GPU is `per_node * between`, not `between`
        (NVIDIA/nccl-tests, doc/PERFORMANCE.md: "the bus bandwidth should reflect the speed of the hardware
        bottleneck").
        """
        return self.within if ranks <= self.per_node else min(self.within, self.per_node * self.between)

    def seconds(self, size: float, ranks: int) -> float:
        """Seconds of an all-gather or reduce-scatter of `size` bytes in total.

            t = base + (ranks - nodes) hop_within + (nodes - 1) hop_between + size (ranks - 1) / ranks / wire

        The last term is nccl-tests' formula for both (doc/PERFORMANCE.md), the others are NCCL's estimate for a ring
        (NVIDIA/nccl, src/graph/tuning.cc: baseLat 8.4, hwLat 3.4 and 14.0 microseconds, protocol Simple).
        """
        if ranks == 1:
            return 0.0
        nodes = -(-ranks // self.per_node)
        inside, outside, base = self.hops
        latency = base + (ranks - nodes) * inside + (nodes - 1) * outside
        return latency + size * (ranks - 1) / ranks / self.wire(ranks)


SHARES = {"flops": 0.35, "memory_bandwidth": 0.6, "within": 0.8, "between": 0.8}
"""Shares of data-sheet figures that training reaches. That of flops is what torchtitan reports for FSDP of an 8B model
on 8 and 128 H100 (33% to 39%, benchmarks/llama3_h100_202412_torchtitan.md); the others are assumed."""

SHEETS: dict[str, tuple[float, float, float, float, float, float]] = {
    "a100": (80e9, 312e12, 19.5e12, 2.039e12, 300e9, 25e9),
    "h100": (80e9, 989e12, 67e12, 3.35e12, 450e9, 50e9),
    "h200": (141e9, 989e12, 67e12, 4.8e12, 450e9, 50e9),
}
"""Bytes of memory; flops of dense bfloat16 and of float32; bytes per second of memory, of NVLink in one direction, and
of a GPU's network adapter.

NVIDIA's data sheets of A100 80GB SXM, H100 SXM and H200 SXM; the adapters are those of DGX A100 (8 of 200 Gb/s) and of
DGX H100 and H200 (8 of 400 Gb/s).
"""

LEAST = 1e6
"""Least plausible bytes, bytes per second or operations per second of a GPU."""
PREFIXES = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4, "P": 5}


def gpu_named(name: str) -> Machine:
    """The GPU of a data sheet, with `SHARES` of its figures. Raises InputError where the name is unknown."""
    key = name.lower()
    if key not in SHEETS:
        raise InputError(f"no data sheet of a GPU {name!r} is known{nearest(key, SHEETS)}; there are {_known()}.")
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
    """The machine with the given figures replaced, and for every figure whether it was given, assumed or the data
    sheet's."""
    known = {name: value for name, value in figures.items() if value is not None}
    how = {name: "given" if name in known else f"{SHARES[name]:.0%} of the data sheet's" for name in SHARES}
    how["memory"] = "given" if "memory" in known else "the data sheet's"
    how["folder"] = "given" if "folder" in known else "assumed"
    return replace(machine, **known), how  # type: ignore[arg-type]


def amount(text: str | float, what: str, unit: str) -> float:
    """A number from a text such as 400T, 50GB or 1.5e12.

    Raises InputError, naming `what` it is for and its `unit`, where it is not a number, or a text and below LEAST, as
    one without its unit is.
    """
    match = re.fullmatch(r"\s*([0-9.]+(?:e[+-]?\d+)?)\s*([KMGTP]?)(?:B|B/s|FLOPS|FLOP/s)?\s*", str(text), re.IGNORECASE)
    try:
        value = float(match[1]) * 1000 ** PREFIXES[match[2].upper()] if match else 0.0
    except ValueError:
        value = 0.0
    least = LEAST if isinstance(text, str) else 0.0
    if not least <= value < float("inf") or value == 0:
        raise InputError(f"{what} is {unit}, not {text!r}.")
    return value


def _known() -> str:
    return ", ".join(SHEETS)
