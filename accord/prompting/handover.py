"""Handing a policy's weights to servers: written to a shared folder, again whenever they have changed."""

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
"""How many tensors at either end of a network are nudged to test whether servers take new weights."""
NUDGE, ZERO = 0.03, 0.02
"""The nudge's standard deviation as a share of the tensor's root mean square; absolute, where that is 0."""


@dataclass(frozen=True)
class HandedWeights:
    """Weights written for servers: their folder, name and size in bytes, and whether they are an adapter."""

    folder: Path
    name: str
    is_adapter: bool
    size: int


class Handover:
    """The writer of weights for servers, into a folder inside `above`; remembers those written last."""

    def __init__(self, above: Path) -> None:
        self.above = above
        self.folder = above / f".sampler.{os.getpid()}.partial"  # named so that `files.tidy` clears it after a crash
        self.run = secrets.token_hex(4)  # so that adapters of two runs never share a name
        self.count = 0
        self.state: tuple[int, ...] = ()
        self.handed: HandedWeights | None = None

    def write(self, policy: Policy, keep: Collection[Path] = ()) -> HandedWeights:
        """Write the policy's weights, or its adapters, for servers, unless they were written last.

        Weights written before are deleted, except the folders in `keep`. Where the network is sharded among ranks, all
        of them call this; the leading rank writes, and holds the weights of one file at a time. Raises InputError, on
        every rank, where the weights cannot be written, or are quantized.
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
        """A new folder; deletes those written before, except the ones to `keep`."""
        if self.count == 0:
            tidy(self.above, "sampler")
        self.count += 1
        folder = self.folder / str(self.count)
        for old in set(self.folder.glob("*")).difference(keep):
            shutil.rmtree(old, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

    def _described(self, folder: Path, is_adapter: bool) -> HandedWeights:
        size = sum(file.stat().st_size for file in folder.iterdir())
        return HandedWeights(folder, f"accord-{self.run}-{self.count}", is_adapter, size)

    def close(self) -> None:
        """Delete the weights."""
        shutil.rmtree(self.folder, ignore_errors=True)


def save_tied_head(network: Any, folder: Path, team: Team) -> None:
    """Write a tied output layer under its own name too; files of weights leave it out.

    vLLM on a CPU multiplies by a copy of it, which it renews only where the layer itself is loaded.
    """
    head, embedding = network.get_output_embeddings(), network.get_input_embeddings()
    if head is None or head.weight is not embedding.weight:
        return
    [name] = [f"{name}.weight" for name, module in network.named_modules() if module is head]
    weight = gathered(head.weight.detach()).cpu()

    def write() -> None:
        save_file({name: weight}, folder / HEAD, metadata={"format": "pt"})
        if (folder / INDEX).exists():  # the index decides what is read from which file
            index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
            index["weight_map"][name] = HEAD
            (folder / INDEX).write_text(json.dumps(index), encoding="utf-8")

    team.lead(write)


@contextmanager
@torch.no_grad()
def nudged(policy: Policy) -> Iterator[None]:
    """Change some weights of the first and last tensors in the block; afterwards they are restored bit for bit.

    This detects a server that takes only part of the weights it is handed, or none.
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
