"""A policy's weights on their way to servers: written into a folder that both see, anew whenever they have changed."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from accord.engine.adapters import adapted, own_state, save_adapters
from accord.engine.models import SHARD, Policy, quiet
from accord.engine.samplers import state_of
from accord.engine.saving import INDEX, write_network
from accord.engine.shard import gather_on_leader, gathered, local, shard_like
from accord.engine.team import Team
from accord.errors import InputError
from accord.files import tidy

HEAD = "head.safetensors"
NUDGED = 12
"""Tensors at either end of a network that are nudged to see whether servers take what they are handed ..."""
NUDGE, ZERO = 0.03, 0.02
"""... by noise of so many times their root mean square; or where that is 0, of this deviation."""


@dataclass(frozen=True)
class Handed:
    """Weights for servers: where they lie, what they are called, whether they are an adapter, and of how many bytes."""

    folder: Path
    name: str
    is_adapter: bool
    size: int


class Handover:
    """The folder, in the one `above`, where weights lie for servers, and those that were written last."""

    def __init__(self, above: Path) -> None:
        self.above = above
        self.folder = above / f".sampler.{os.getpid()}.partial"  # as what is left half-done, which is cleared
        self.run = secrets.token_hex(4)  # adapters of two runs must not have one name
        self.count = 0
        self.state: tuple[int, ...] = ()
        self.handed: Handed | None = None

    def write(self, policy: Policy, keep: Collection[Path] = ()) -> Handed:
        """The policy's weights, or its adapters, written for servers to read, unless they are those written last.

        What was written before goes, but for the folders to `keep`.

        Of a network that is shared out among ranks, which all call this, the one that leads writes, and has the weights
        of one file at a time. Raises InputError, on every rank, where they cannot be, or are held in few bits.
        """
        state = state_of(policy)
        if state == self.state and self.handed is not None:
            return self.handed
        if policy.is_quantized and not adapted(policy.network):
            raise InputError(f"{policy.name} is quantized, and servers are handed whole weights: do without sampler.")
        team, network = Team.here(), policy.network
        folder = self.folder / str(self.count + 1)
        try:
            folder = team.lead(lambda: self._make_room(keep))
            if adapted(network):
                own = gather_on_leader(own_state(network), team)
                team.lead(lambda: save_adapters(network, folder, own))
            else:
                with quiet():
                    write_network(network, folder, SHARD, team=team)
                save_tied_head(network, folder, team)
            self.handed = team.lead(lambda: self._described(folder, adapted(network)))
        except OSError as error:
            raise InputError(f"weights for servers cannot be written to {folder} ({error.strerror}).") from None
        self.state = state
        return self.handed

    def _make_room(self, keep: Collection[Path]) -> Path:
        """A new folder; what was written before goes, but for the folders to `keep`."""
        if self.count == 0:
            tidy(self.above, "sampler")
        self.count += 1
        folder = self.folder / str(self.count)
        for old in set(self.folder.glob("*")).difference(keep):
            shutil.rmtree(old, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

    def _described(self, folder: Path, is_adapter: bool) -> Handed:
        size = sum(file.stat().st_size for file in folder.iterdir())
        return Handed(folder, f"accord-{self.run}-{self.count}", is_adapter, size)

    def close(self) -> None:
        """Take the weights away."""
        shutil.rmtree(self.folder, ignore_errors=True)


def save_tied_head(network: Any, folder: Path, team: Team) -> None:
    """Write the output layer by its own name too, where it is the embedding, which files of weights leave out.

    vLLM on a processor multiplies by a copy of it, which it makes anew only where the layer itself is loaded.
    """
    head, embedding = network.get_output_embeddings(), network.get_input_embeddings()
    if head is None or head.weight is not embedding.weight:
        return
    [name] = [f"{name}.weight" for name, module in network.named_modules() if module is head]
    weight = gathered(head.weight.detach()).cpu()

    def write() -> None:
        save_file({name: weight}, folder / HEAD, metadata={"format": "pt"})
        if (folder / INDEX).exists():  # which says of all files what to read from them
            index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
            index["weight_map"][name] = HEAD
            (folder / INDEX).write_text(json.dumps(index), encoding="utf-8")

    team.lead(write)


@contextmanager
@torch.no_grad()
def nudged(policy: Policy) -> Iterator[None]:
    """Within it some weights of each kind are others: of the first and the last tensors; then bit for bit as before.

    A server that takes only part of what it is handed, or nothing, is told by it.
    """
    own = list(own_state(policy.network).values())
    some = {id(tensor): tensor for tensor in (*own[:NUDGED], *own[-NUDGED:])}.values()
    before = [local(tensor).clone() for tensor in some]
    generator = torch.Generator().manual_seed(0)
    try:
        for tensor in some:
            whole = gathered(tensor)
            noise = torch.randn(whole.shape, generator=generator).to(whole)
            noise *= NUDGE * float(whole.float().square().mean().sqrt()) or ZERO
            local(tensor).add_(local(shard_like(noise, tensor)))
        yield
    finally:
        for tensor, value in zip(some, before, strict=True):
            local(tensor).copy_(value)
