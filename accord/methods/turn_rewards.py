"""Credit by turn: each turn of a conversation is learned from by the rewards that follow it, not by the total.

    G_t = sum over k >= t of (r_k - beta log(pi(a_k) / ref(a_k)))     the reward to go from turn t on
    A_t = how G_t compares with those of the other conversations that reached a turn t, by the method's own rule

Whether a conversation reaches turn t is settled before its answer there is drawn, and that answer does not affect its
siblings' rewards. So the mean of the siblings that reached turn t is a baseline: with `leave_one_out` the gradient
stays unbiased, even if conversations differ in their numbers of turns. A turn that no sibling reached is compared with
the latest turns that any reached; having no baseline there can cost more variance than rewards to go save.

Rewards are summed first and then compared, as in the cumulative estimate of MT-GRPO's code, which has two turns (Zeng
et al. 2025, arXiv:2505.11821). Comparing each turn's rewards first and summing the results, as in its additive estimate
and in GRPO with process supervision (Shao et al. 2024, arXiv:2402.03300, section 4.1.3), subtracts one baseline for
each remaining turn. Their number may depend on the answer, so that gradient is biased, for or against continuing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from accord import objectives

if TYPE_CHECKING:
    from torch import Tensor

    from accord.engine import Experience, Trees


@dataclass(frozen=True)
class TurnRewards:
    """The policy's turns in a pack of conversations, K of them, branch after branch in order.

    Attributes:
        turn: (N,) the turn each trained token belongs to, non-decreasing.
        owner: (K,) the branch each turn belongs to, non-decreasing.
        number: (K,) the turn's number in its conversation, from 0.
        rewards: (K,) its reward, NaN where it has none.
    """

    turn: Tensor
    owner: Tensor
    number: Tensor
    rewards: Tensor

    @staticmethod
    def of(trees: Trees) -> TurnRewards | None:
        """The turns of a pack; None where its branches are rewarded as a whole."""
        import torch

        branches = [branch for tree in trees.trees for branch in tree.branches]
        if not any(branch.turns for branch in branches):
            return None
        lengths: list[int] = []  # trained tokens of each turn
        for branch in branches:
            for start, end in pairwise((0, *(turn.end for turn in branch.turns))):
                lengths.append(end - start if branch.trained is None else sum(branch.trained[start:end]))
        known = [(b, n, turn.reward) for b, branch in enumerate(branches) for n, turn in enumerate(branch.turns)]
        owner, number, rewards = zip(*known, strict=True)
        device = trees.owner.device
        counts = torch.tensor(lengths, device=device)
        return TurnRewards(
            torch.arange(len(known), device=device).repeat_interleave(counts),
            torch.tensor(owner, device=device),
            torch.tensor(number, device=device),
            torch.tensor(rewards, dtype=torch.float64, device=device),
        )

    def to_go(self, penalty: Tensor) -> Tensor:
        """The reward to go from each turn on, minus its tokens' `penalty` (N,); missing rewards count as 0.

        NaN where no turn from there on has a reward.
        """
        own = self.rewards.nan_to_num() - objectives.segments.segment_sum(penalty, self.turn, len(self.rewards))
        known = objectives.advantages.reward_to_go((~self.rewards.isnan()).double(), self.owner)  # how many
        return objectives.advantages.reward_to_go(own, self.owner).masked_fill(known == 0, float("nan"))


def advantages_by_turn(
    compare: Callable[[Tensor], Tensor], packs: Sequence[tuple[Experience, Tensor]], *, across: bool
) -> list[Tensor]:
    """Every trained token's advantage, (N,) for each pack.

    Args:
        compare: a method's advantages, of rewards (1, n) of samples that are compared with each other.
        packs: samples with rewards by turn, and each token's penalty, (N,), to be subtracted from its reward.
        across: compare turns of the same number over all prompts, not within each prompt.
    """
    import torch

    of_packs = [turns for trees, _ in packs if (turns := TurnRewards.of(trees))]
    to_go = [turns.to_go(penalty) for turns, (_, penalty) in zip(of_packs, packs, strict=True)]
    together = torch.cat(to_go)  # (K,) turns of all packs
    conversations: list[tuple[int, int]] = []  # pack and branch of each turn
    # prompt (or all) -> turn number -> indices of the rewarded turns that are compared
    groups: dict[tuple[int, int], dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    is_rewarded = (~together.isnan()).tolist()
    for p, (turns, (trees, _)) in enumerate(zip(of_packs, packs, strict=True)):
        of_turns = torch.stack((trees.group[turns.owner], turns.owner, turns.number), 1)
        for prompt, owner, number in of_turns.tolist():
            if is_rewarded[len(conversations)]:
                groups[(0, 0) if across else (p, prompt)][number].append(len(conversations))
            conversations.append((p, owner))
    each = torch.zeros_like(together)
    for by_number in groups.values():
        for number, members in by_number.items():
            compared = members if len(members) > 1 else [*members, *stand_ins(by_number, number, conversations)]
            if len(compared) > 1 or across:  # otherwise there is no sibling to compare with
                each[members] = compare(together[None, compared])[0, : len(members)]
    return [a[turns.turn] for a, turns in zip(each.split([len(t) for t in to_go]), of_packs, strict=True)]


def stand_ins(by_number: Mapping[int, list[int]], number: int, conversations: Sequence[tuple[int, int]]) -> list[int]:
    """For the only turn of this number, the latest earlier turns that other conversations reached."""
    [alone] = by_number[number]
    for earlier in range(number - 1, -1, -1):
        if others := [k for k in by_number.get(earlier, ()) if conversations[k] != conversations[alone]]:
            return others
    return []
