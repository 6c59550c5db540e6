"""Credit by turn: each turn of a conversation is learned from by what followed it, not by all that was earned.

    G_t = sum over k >= t of (r_k - beta log(pi(a_k) / ref(a_k)))     the reward to go from turn t on
    A_t = how G_t compares with those of the other conversations that came to a turn t, by the method's own rule

Whether a conversation comes to turn t is settled before its answer there is drawn, and that answer has no part in what
its siblings earn. So their mean, of those that came so far, is a baseline: with `leave_one_out` the gradient stays
unbiased, also where conversations end after different numbers of turns. A turn that no sibling came to is compared with
the latest turns that any came to; to go without a baseline there can cost more than rewards to go save.

Rewards are summed first and compared then, as by the cumulative estimate in MT-GRPO's code, which has two turns (Zeng
et al. 2025, arXiv:2505.11821). To compare every turn's reward first and sum the results, as its additive estimate does,
and GRPO under process supervision (Shao et al. 2024, arXiv:2402.03300, section 4.1.3), takes off one baseline for each
turn still to come. How many come may depend on what is said: such a gradient is biased, for or against going on.
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
        number: (K,) which turn of its conversation it is, from 0.
        rewards: (K,) its reward, NaN where nothing is said of it.
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
        lengths: list[int] = []  # of each turn, in trained tokens
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
        """The reward to go from each turn on, less what its tokens' `penalty` (N,) comes to; NaN where nothing is said.

        Rewards of which nothing is said add nothing; where none is said from a turn on, its own is NaN.
        """
        own = self.rewards.nan_to_num() - objectives.segments.segment_sum(penalty, self.turn, len(self.rewards))
        said = objectives.advantages.reward_to_go((~self.rewards.isnan()).double(), self.owner)
        return objectives.advantages.reward_to_go(own, self.owner).masked_fill(said == 0, float("nan"))


def advantages_by_turn(
    compare: Callable[[Tensor], Tensor], packs: Sequence[tuple[Experience, Tensor]], *, across: bool
) -> list[Tensor]:
    """Every trained token's advantage, (N,) for each pack, from the packs and what each token takes off its reward.

    Args:
        compare: a method's advantages, of rewards (1, n) of samples that are compared with each other.
        packs: samples with rewards by turn, and each token's penalty, (N,).
        across: turns of the same number are compared over all prompts, not each prompt's apart.
    """
    import torch

    found = [turns for trees, _ in packs if (turns := TurnRewards.of(trees))]
    to_go = [turns.to_go(penalty) for turns, (_, penalty) in zip(found, packs, strict=True)]
    together = torch.cat(to_go)  # (K,) of all packs
    talks: list[tuple[int, int]] = []  # whose turn it is: pack and branch
    groups: dict[tuple[int, int], dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    is_said = (~together.isnan()).tolist()
    for p, (turns, (trees, _)) in enumerate(zip(found, packs, strict=True)):
        of_turns = torch.stack((trees.group[turns.owner], turns.owner, turns.number), 1)
        for prompt, owner, number in of_turns.tolist():
            if is_said[len(talks)]:
                groups[(0, 0) if across else (p, prompt)][number].append(len(talks))
            talks.append((p, owner))
    each = torch.zeros_like(together)
    for by_number in groups.values():
        for number, members in by_number.items():
            compared = members if len(members) > 1 else [*members, *stand_ins(by_number, number, talks)]
            if len(compared) > 1 or across:  # else nothing is said of any sibling
                each[members] = compare(together[None, compared])[0, : len(members)]
    return [a[turns.turn] for a, turns in zip(each.split([len(t) for t in to_go]), found, strict=True)]


def stand_ins(by_number: Mapping[int, list[int]], number: int, talks: Sequence[tuple[int, int]]) -> list[int]:
    """The latest turns that other conversations came to, where one alone came to a turn of this number."""
    [alone] = by_number[number]
    for earlier in range(number - 1, -1, -1):
        if others := [k for k in by_number.get(earlier, ()) if talks[k] != talks[alone]]:
            return others
    return []
