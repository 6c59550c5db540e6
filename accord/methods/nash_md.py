"""Nash-MD: the policy that no other beats in a judge's preferences, which need not be transitive.

    y ~ pi,  y' ~ pi^(1 - m) ref^m (token by token, from the mixed logits)
    loss = - (P(y beats y' | x) - tau log(pi(y) / ref(y)) - b) log pi(y)

Munos et al. 2023 (arXiv:2312.00886): the policy gradient over whole completions. The fixed point is pi = ref exp(P(y
beats its opponent) / tau) / Z: for m = 0 the Nash equilibrium of the regularized game, for m = 1 the best response to
ref. `--past 4` plays past snapshots of the policy; `--past 1` with `--mirror`, the penalty on divergence from the
snapshot, is online mirror descent.

Departures: a sample is compared with all of the opponent's samples of its prompt; pairs without a valid verdict are
left out, and a sample without any is not learned from; b is the mean of its siblings, or 1/2 for a single sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from accord import engine, objectives
from accord.errors import InputError
from accord.methods.online import JudgeMethod
from accord.methods.pairwise import match
from accord.methods.policy_gradient import GroupLearner, GroupPolicyGradient, shuffled
from accord.records import EncodedPrompt
from accord.train.learner import StepResult

if TYPE_CHECKING:
    from torch import Tensor, nn

    from accord.engine import Experience, Optimizer, Policy, Trees
    from accord.feedback.judge import Judge


@dataclass(kw_only=True)
class NashMD(GroupPolicyGradient, JudgeMethod):
    """Nash mirror descent: optimize a policy, by a judge, against a mixture of itself and the reference."""

    command: ClassVar[str] = "nash-md"
    on_ranks: ClassVar[bool] = True

    batch_size: int = 8
    group_size: int = 4
    kl_coefficient: float = 0.008
    """Penalty (tau) per nat of divergence from the reference; 0 needs no reference."""
    opponents: int = 4
    """Samples of the opponent per prompt."""
    mixture: float = 0.125
    """The reference's share (m) in the opponent: 0 is self-play, 1 the reference."""
    past: int = 0
    """Number of past snapshots of the policy to play against in turn; 0 plays the mixture."""
    snapshot_every: int = 10
    """Steps between snapshots."""
    mirror: float = 0.0
    """Penalty per nat of divergence from the last snapshot."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (0 <= self.mixture <= 1 and self.mirror >= 0):
            raise InputError(f"mixture lies in [0, 1] and mirror from 0 up, not {self.mixture} and {self.mirror}.")
        if self.samples_ahead:
            raise InputError("nash-md plays the current policy, not an earlier one: leave stale_steps out.")
        if self.opponents < 1 or self.past < 0 or self.snapshot_every < 1:
            raise InputError("opponents and snapshot_every must be at least 1, and past must not be negative.")
        if self.mixture and not (self.past or self.kl_coefficient):
            raise InputError("a mixture with the reference needs one: give a kl_coefficient above 0, or mixture 0.")

    @property
    def frozen_copies(self) -> int:
        return super().frozen_copies + self.snapshots

    @property
    def snapshots(self) -> int:
        """Number of past snapshots that are kept."""
        return self.past or int(self.mirror > 0)

    def advantages(self, rewards: Tensor) -> Tensor:
        return objectives.advantages.leave_one_out(rewards) if self.group_size > 1 else rewards - 0.5

    def learner(self, policy: Policy, feedback: Any) -> NashLearner:
        return NashLearner(self, policy, feedback)


class NashLearner(GroupLearner):
    """The policy, its frozen reference, and the snapshots it plays against or is regularized toward."""

    method: NashMD

    def __init__(self, method: NashMD, policy: Policy, judge: Judge) -> None:
        self.method, self.policy, self.judge, self.done = method, policy, judge, 0
        self.reference = engine.offload.reference_copy(policy, method) if method.kl_coefficient else None
        self.past = Snapshots(policy, count=method.snapshots, every=method.snapshot_every)
        self.networks = {"policy": policy.network, **self.past.networks}

    def step(self, step: int, items: Sequence[EncodedPrompt], optimizer: Optimizer) -> StepResult:
        method, self.done = self.method, step
        ours = self.policy.sample(items, method.group_size, method.sampling(step))
        theirs = self.opponent(step).sample(items, method.opponents, method.sampling(step, 1))
        rollout, numbers = match(self.judge, items, ours, theirs)
        row = self.learn(step, rollout, optimizer)
        self.past.keep(self.policy, step + 1)
        return rollout.result(row | numbers)

    def opponent(self, step: int) -> Policy:
        """The opponent at a step."""
        if self.method.past:
            return self.past.any(self.method.seed, step)
        if self.reference is None:
            return self.policy
        mixture = engine.decoding.Mixture(self.policy.network, self.reference.network, self.method.mixture)
        return self.policy.with_network(mixture)

    def score(self, trees: Trees) -> Experience:
        batch = super().score(trees)
        if not self.method.mirror:
            return batch
        return replace(batch, past=self.past.last(self.done).log_probs(trees, self.method.temperature))

    def kl_penalty(self, batch: Experience) -> Tensor:
        if batch.past is None:
            return super().kl_penalty(batch)
        return super().kl_penalty(batch) + self.method.mirror * objectives.kl.k1(batch.logprobs, batch.past)


class Snapshots:
    """The policy every `every` steps, the last `count` of them; initially copies of the starting policy."""

    def __init__(self, policy: Policy, *, count: int, every: int) -> None:
        self.kept, self.every = [engine.offload.shared_copy(policy) for _ in range(count)], every

    @property
    def networks(self) -> dict[str, nn.Module]:
        """The networks that a checkpoint must include."""
        return {f"past-{i}": policy.network for i, policy in enumerate(self.kept)}

    def last(self, steps: int) -> Policy:
        """The most recent snapshot after this many steps."""
        return self.kept[steps // self.every % len(self.kept)]

    def any(self, *seed: int) -> Policy:
        """One of the snapshots, drawn by the seed."""
        return self.kept[shuffled(len(self.kept), *seed)[0]]

    def keep(self, policy: Policy, steps: int) -> None:
        """Replace the oldest snapshot by the policy after this many steps, if it is time."""
        if self.kept and steps % self.every == 0:
            engine.adapters.load_own_state(self.last(steps).network, engine.adapters.own_state(policy.network))
