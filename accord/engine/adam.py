"""AdamW with states in 8 bits or in host memory, and with bfloat16 weights.

    m <- b1 m + (1 - b1) g,  v <- b2 v + (1 - b2) g^2,  w <- (1 - eta lambda) w - eta m' / (sqrt(v') + eps)

with m' = m / (1 - b1^t) and v' = v / (1 - b2^t) (Loshchilov and Hutter 2019, arXiv:1711.05101). Each weight is updated
in float32, one at a time, so that what is held between steps may be smaller:

    in 8 bits   m and sqrt(v), in blocks of 256 numbers scaled by their largest, by the dynamic code of Dettmers et al.
                2022 (arXiv:2110.02861). Not v itself, as in the paper: its root spans half as many decades.
                Ranks that shard a weight hold the same codes as one process would for their rows, if rows are whole
                blocks; states of other weights stay float32.
    bfloat16    a weight w between its neighbors a < b becomes b with probability (w - a) / (b - a), so that updates
                below the resolution are made on average (Gupta et al. 2015, arXiv:1502.02551; Zamirai et al. 2020,
                arXiv:2010.06192).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from accord.console import quiet_log
from accord.engine.shard import gathered, is_share, local, rows_of, shard_axis, shard_coordinates, shard_from_rows
from accord.errors import InputError

BLOCK = 256
"""Numbers per scale."""
SMALLEST = 4096
"""Weights with fewer numbers keep states in float32."""
DRAWN = 1 << 22
"""Numbers drawn at a time, which limits the memory for noise of other ranks' rows."""


class LeanAdamW(torch.optim.Optimizer):
    """AdamW with small states; `host` keeps them in host memory, and `seed` determines the stochastic rounding.

    Raises InputError where 8-bit states are asked for and bitsandbytes is missing.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        lr: float,
        betas: tuple[float, float],
        *,
        eight_bits: bool = False,
        host: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": 1e-8})
        self.code = Code() if eight_bits else None
        self.host, self.seed = host, seed

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Update every weight that has a gradient."""
        generator: torch.Generator | None = None
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                count = int(state.get("step", 0)) + 1
                if generator is None:
                    generator = torch.Generator(p.device).manual_seed(seed_of(self.seed, count))
                own = local(p)  # this rank's rows
                weight = own.float() if p.dtype == torch.bfloat16 else own
                mean, root = self.read(state, "exp_avg", p), self.read(state, "exp_avg_sq_root", p)
                _update(weight, local(p.grad), mean, root, count, group)
                state["step"] = torch.tensor(float(count))
                self.write(state, "exp_avg", mean, p, signed=True)
                self.write(state, "exp_avg_sq_root", root, p, signed=False)
                if weight is not own:
                    own.copy_(round_stochastically(weight, generator, p))

    def read(self, state: dict[str, Tensor], name: str, p: Tensor) -> Tensor:
        """This rank's rows of a state in float32 (or wider, as the weight), on the weight's device; zeros before the
        first step."""
        if name not in state:
            return torch.zeros_like(local(p), dtype=torch.promote_types(p.dtype, torch.float32))
        held = local(state[name]).to(p.device)
        if held.dtype != torch.uint8:
            return held
        assert self.code is not None
        scale, is_signed = state[f"{name}_scale"], name == "exp_avg"
        if is_share(p) and not is_share(scale):  # from a one-process checkpoint: blocks span rows
            held, scale = (gathered(tensor).to(p.device).flatten() for tensor in (state[name], scale))
            first, last = rows_of(p)
            whole = self.code.decode(held, scale, signed=is_signed).view(p.shape)
            return whole.narrow(shard_axis(p), first, last - first).clone()
        return self.code.decode(held.flatten(), local(scale).to(p.device).flatten(), signed=is_signed).view_as(local(p))

    def write(self, state: dict[str, Tensor], name: str, value: Tensor, p: Tensor, *, signed: bool) -> None:
        """Store a state of a weight until the next step, encoded if possible, and sharded like the weight."""
        parts, blocks = {name: value}, in_blocks(value.shape)
        state.pop(f"{name}_scale", None)
        if self.code is not None and p.numel() >= SMALLEST and (blocks or not is_share(p)):
            held, scale = self.code.encode(value.flatten(), signed=signed)
            parts = {name: held.view_as(value) if blocks else held, f"{name}_scale": scale}
            if blocks:
                parts[f"{name}_scale"] = scale.view(len(value), math.prod(value.shape[1:]) // BLOCK)
        for key, tensor in parts.items():
            state[key] = shard_from_rows(tensor.cpu() if self.host else tensor, p, _whole_shape(tensor, p))


def in_blocks(shape: Sequence[int]) -> bool:
    """Whether each row of a weight of this shape (or for experts, each rank's rows of an expert) is a whole number of
    blocks."""
    return math.prod(shape[1:]) % BLOCK == 0


def _whole_shape(own: Tensor, p: Tensor) -> tuple[int, ...]:
    """The shape of the whole tensor whose part on this rank, sharded like the weight `p`, is `own`."""
    if is_share(p) and shard_axis(p):  # all parts are equal in size
        return (*own.shape[:1], own.shape[1] * shard_coordinates(p)[1], *own.shape[2:])
    return (*p.shape[:1], *own.shape[1:]) if own.dim() else ()


def seed_of(*numbers: int) -> int:
    """A 63-bit seed derived from several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _update(weight: Tensor, grad: Tensor, mean: Tensor, root: Tensor, count: int, group: dict[str, Any]) -> None:
    """One AdamW step in place; `mean` is m and `root` is sqrt(v)."""
    beta1, beta2 = group["betas"]
    grad = grad.to(mean.dtype)
    mean.lerp_(grad, 1 - beta1)
    root.square_().mul_(beta2).addcmul_(grad, grad, value=1 - beta2).sqrt_()
    weight.mul_(1 - group["lr"] * group["weight_decay"])
    scale = (1 - beta2**count) ** 0.5
    weight.addcdiv_(mean, root / scale + group["eps"], value=-group["lr"] / (1 - beta1**count))


def round_stochastically(x: Tensor, generator: torch.Generator | None = None, of: Tensor | None = None) -> Tensor:
    """Round float32 to bfloat16, up or down at random, so that the expectation is x.

    A bfloat16 is the upper half of a float32: a random number from 0 ... 2^16 - 1 is added to the bits and the lower
    half dropped, which carries into the upper half with probability (lower half) / 2^16. Where ranks shard `of`, x is
    this rank's rows, rounded as they would be in the whole.
    """
    bits = x.float().contiguous().view(torch.int32)
    return ((bits + _noise(bits, generator, of)) & -(1 << 16)).view(torch.float32).to(torch.bfloat16)


def _noise(bits: Tensor, generator: torch.Generator | None, of: Tensor | None) -> Tensor:
    """Random numbers from 0 ... 2^16 - 1, as many as `bits`; other ranks' rows are drawn too and dropped, `DRAWN` at a
    time, so that each row gets the same noise as in one process."""
    noise = torch.empty_like(bits)
    if not noise.dim():
        return noise.random_(0, 1 << 16, generator=generator)
    shape, axis, first, last = bits.shape, 0, 0, len(bits)
    if of is not None and is_share(of):
        shape, axis, (first, last) = of.shape, shard_axis(of), rows_of(of)
    each = max(1, DRAWN // max(1, math.prod(shape[1:])))
    for start in range(0, shape[0], each):
        end = min(start + each, shape[0])
        if axis == 0 and first <= start and end <= last:
            noise[start - first : end - first].random_(0, 1 << 16, generator=generator)
            continue
        drawn = bits.new_empty((end - start, *shape[1:])).random_(0, 1 << 16, generator=generator)
        low, high = max(start, first), min(end, last)
        if axis:
            noise[start:end] = drawn[:, first:last]
        elif low < high:
            noise[low - first : high - first] = drawn[low - start : high - start]
    return noise


class Code:
    """8-bit encoding of numbers, by bitsandbytes' kernels."""

    def __init__(self) -> None:
        try:
            with quiet_log("bitsandbytes"):
                from bitsandbytes import functional
        except ImportError:
            raise InputError("optimizer_states 8bit needs bitsandbytes: pip install bitsandbytes.") from None
        self.kernels = functional
        self.tables = {signed: functional.create_dynamic_map(signed=signed) for signed in (True, False)}

    def encode(self, x: Tensor, *, signed: bool) -> tuple[Tensor, Tensor]:
        """One byte per number, and the largest magnitude of each block."""
        if not len(x):  # a weight may have fewer rows than there are ranks
            return x.to(torch.uint8), x.float()
        table = self.tables[signed].to(x.device)
        held, how = self.kernels.quantize_blockwise(x.float(), code=table, blocksize=BLOCK)
        return held.flatten(), how.absmax

    def decode(self, held: Tensor, scale: Tensor, *, signed: bool) -> Tensor:
        """The numbers, float32."""
        if not len(held):
            return held.float()
        table = self.tables[signed].to(held.device)
        return self.kernels.dequantize_blockwise(held, absmax=scale, code=table, blocksize=BLOCK)  # type: ignore[no-any-return]
