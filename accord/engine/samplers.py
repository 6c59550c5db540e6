"""What draws a policy's samples: this process, or anything else with the same protocol, such as servers."""

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
"""Integer types by their size in bytes."""


class Sampler(Protocol):
    """Draws n completions of every prompt from the current policy, with every token's log-probability under the
    distribution drawn from.

    The result is a function of policy, prompts and sampling (`sampling.entropies`). `progress` is called with the
    number of samples finished since its last call. Raises InputError where n < 1, or where it cannot draw.
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
    """The `Sampler` of this process; ranks that share the network each draw for their part of the prompts.

    Raises as `generate` does.
    """
    options: dict[str, Any] = {"progress": progress, **policy.limits}
    shard_unread(policy)
    if shard.is_sharded(policy.network):
        options["only"] = Team.here().share(range(len(prompts)))
    with policy.autocast():
        groups = generate(policy.network, prompts, n, sampling, **options)
    return Team.here().collect(groups) if shard.is_sharded(policy.network) else groups


def shard_unread(policy: Policy) -> None:
    """Shard a network whose weights are still unread, each rank reading its part: sampling needs them."""
    if unread(policy.network):
        shard.shard(policy.network, policy.dtype)


def state_of(policy: Policy) -> tuple[int, ...]:
    """A fingerprint of the policy's own weights: for each tensor, the sum of its bits taken as integers.

    torch's version counter of a tensor would be faster, but its fused optimizers do not advance it. Ranks that share
    the network must all call this; the sums are over the whole tensors.
    """
    own = own_state(policy.network).values()
    bits = (t.contiguous().view(BITS[t.element_size()]) for t in map(shard.local, own))
    sums = torch.stack([b.sum(dtype=torch.int64) for b in bits])
    shared = torch.tensor([shard.is_share(tensor) for tensor in own], device=sums.device)
    return tuple(torch.where(shared, Team.here().all_reduce(sums), sums).tolist())
