"""FSPO: few-shot preference optimization, a policy that reads its user's earlier choices and answers accordingly.

    loss = ((log pi(chosen | c, x) - log pi(rejected | c, x)) - (log ref(chosen | c, x) - log ref(rejected | c, x))
            - 1 / (2 tau))^2,   c: k choices of the user of (x, chosen, rejected), k drawn from 0 to `given`

Singh et al. 2025 (arXiv:2502.19312): users are tasks of a meta-learner that learns in context, and IPO (Azar et al.
2023, arXiv:2310.12036, eq. 17) is the loss. How users differ is learned from many users, and a new one needs a few
choices and no training. Each time a row is used its choices are drawn anew, in a new order, from the same user's, and
never with the same prompt, whose pairs may share their answers. As k is drawn too, one policy serves unknown users and
those with up to `given` choices. `accord.data.choices` writes choices into prompts, as `accord sample` does. In a
ranking every pair of different ranks is a comparison.

Departures: the paper's k is fixed; here it is uniform, so that the policy is trained for any number of choices. The
paper's other part, a user description that the model writes first, is omitted. Choices that do not fit before the
prompt within max_length are left out, the last drawn first.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, ClassVar

from accord import data, engine
from accord.errors import InputError, LeftOut
from accord.methods.offline import OfflineLearner
from accord.methods.pairs import ACCURACY_ALONE, IPOLoss, PreferenceMethod
from accord.records import Preference, Ranking, Row
from accord.train.held_out import USERS, Tally, Unit
from accord.train.learner import StepResult

if TYPE_CHECKING:
    from torch import Tensor

    from accord.data.choices import UserTree
    from accord.engine import Measures, Objective, Optimizer, Policy, Tree, Trees


@dataclass(kw_only=True)
class FSPO(IPOLoss, PreferenceMethod):
    """Few-shot preference optimization: a policy that reads a few of its user's choices, from the preferences of many
    users."""

    command: ClassVar[str] = "fspo"
    on_ranks: ClassVar[bool] = True
    reads: ClassVar[tuple[type, ...]] = (Preference, Ranking)
    unit: ClassVar[Unit] = USERS

    max_length: int = 2048
    given: int = 8
    """The most choices of its user that precede a comparison; the number is drawn from 0 up."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.given < 1:
            raise InputError(f"given must be at least 1, not {self.given}; without choices it is `accord ipo`.")
        if self.precompute_reference:
            raise InputError(
                "precompute_reference: choices are drawn anew at every step, so prompts are not known in advance; "
                "leave it out."
            )

    def encode(self, model: Policy, rows: Sequence[Row], left_out: LeftOut) -> list[Tree]:  # type: ignore[override]
        pairs, origin = data.choices.user_pairs(rows, left_out)
        trees = super().encode(model, pairs, left_out.part(origin))
        of_user: dict[str, list[tuple[int, Preference]]] = {}
        for tree in trees:
            of_user.setdefault(tree.user, []).append((origin[tree.row], pairs[tree.row]))
        asked: list[Tree] = []
        for tree in trees:
            held = {field.name: getattr(tree, field.name) for field in fields(engine.Tree)}
            more = {"comparison": pairs[tree.row], "of_user": of_user[tree.user]}
            asked.append(data.choices.UserTree(**held | more | {"row": left_out.index(origin[tree.row])}))
        if not any(len({row for row, _ in some}) > 1 for some in of_user.values()):
            raise InputError("no user has two comparisons, so none can be read before another: add rows.")
        return asked

    def with_choices(self, model: Policy, asked: Sequence[UserTree], rng: random.Random) -> list[UserTree]:
        """The comparisons with newly drawn choices put before them."""
        longest = self.max_length if model.context is None else min(self.max_length, model.context)
        drawn = []
        for tree in asked:
            room = longest - max(len(branch.tokens) for branch in tree.branches)
            choices = data.choices.draw(tree, self.given, rng)
            prompt, k = data.choices.encode_with_choices(model.tokenizer, tree.comparison.prompt, choices, room)
            drawn.append(replace(tree, prompt=prompt, given=k))
        return drawn

    def objective(self, model: Policy) -> Objective:
        import torch

        pair_loss = super().objective(model)

        def loss(pairs: Trees) -> tuple[Tensor, Measures]:
            values, measures = pair_loss(pairs)
            counts = torch.tensor([tree.given for tree in pairs.trees], device=values.device)  # type: ignore[attr-defined]
            return values, {**measures, ACCURACY_ALONE: measures["accuracy"][counts == 0], "given": counts.double()}

        return loss

    def owners(self, trees: Trees, measures: Mapping[str, Tensor]) -> dict[str, Tensor]:
        each = super().owners(trees, {name: values for name, values in measures.items() if name != ACCURACY_ALONE})
        return {**each, ACCURACY_ALONE: each["given"][measures["given"] == 0]}

    def learner(self, model: Policy, trees: Sequence[Tree]) -> OfflineLearner:  # type: ignore[override]
        return FewShotLearner(self, model, trees)


class FewShotLearner(OfflineLearner):
    """Passes over comparisons whose choices are drawn anew at every step; those of held-out rows stay the same."""

    method: FSPO
    model: Policy

    def step(self, step: int, items: Sequence[UserTree], optimizer: Optimizer) -> StepResult:  # type: ignore[override]
        rng = random.Random(f"choices {self.method.seed} {step}")
        return super().step(step, self.method.with_choices(self.model, items, rng), optimizer)

    def measure(self, items: Sequence[UserTree], clusters: Sequence[int], when: str) -> Tally:  # type: ignore[override]
        rng = random.Random(f"choices held out {self.method.seed}")
        return super().measure(self.method.with_choices(self.model, items, rng), clusters, when)
