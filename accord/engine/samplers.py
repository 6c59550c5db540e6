"""Who draws a policy's samples: this process, or whatever else speaks this protocol, such as servers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch

from accord.engine import shard
from accord.engine.adapters import own_state
from accord.engine.generate import generate
from accord.engine.team import Team
from accord.engine.unread import unread

if TYPE_CHECKING:
    from accord.arrays import Tokens
    from accord.engine.models import Policy
    from accord.engine.sampling import Sampling
    from accord.records import Completion

BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Whole numbers by their bytes."""


class Sampler(Protocol):
    """Draws n completions of every prompt from the policy as it is now, with the log-probability of every token under
    the distribution drawn from.

    What it draws is a function of policy, prompts and sampling (`sampling.entropies`). `progress` is called with the
    number of samples finished since its last call. Raises InputError where n < 1, or it cannot draw.
    """

    def __call__(
        self,
        policy: Policy,
        prompts: Sequence[Tokens],
        n: int = 1,
        sampling: Sampling | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> list[list[Completion]]: ...


def local(
    policy: Policy,
    prompts: Sequence[Tokens],
    n: int = 1,
    sampling: Sampling | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[list[Completion]]:
    """The `Sampler` that is this process, or all ranks that share the network: each draws for its part of the prompts.

    Raises as `generate` does.
    """
    given: dict[str, Any] = {"progress": progress, **policy.limits}
    share_out(policy)
    if shard.is_sharded(policy.network):
        given["only"] = Team.here().mine(range(len(prompts)))
    with policy.autocast():
        groups = generate(policy.network, prompts, n, sampling, **given)
    return Team.here().same(groups) if shard.is_sharded(policy.network) else groups


def share_out(policy: Policy) -> None:
    """Have ranks read their shares of a network that none has read yet: what draws samples needs its weights."""
    if unread(policy.network):
        shard.shard(policy.network, policy.dtype)


def state_of(policy: Policy) -> tuple[int, ...]:
    """Numbers that are others where the policy's own weights are: of each tensor the sum of its bits as whole numbers.

    The count of changes that torch keeps of a tensor would be quicker, but its fused optimizers leave it as it is.
    Ranks that share the network all call this, and the sums are those of the whole.
    """
    own = own_state(policy.network).values()
    bits = (t.contiguous().view(BITS[t.element_size()]) for t in map(shard.local, own))
    sums = torch.stack([b.sum(dtype=torch.int64) for b in bits])
    shared = torch.tensor([shard.is_share(tensor) for tensor in own], device=sums.device)
    return tuple(torch.where(shared, Team.here().total(sums), sums).tolist())
