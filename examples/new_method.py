"""A method of your own in one file, SimPO, in the small world of the café: `python examples/new_method.py`.

    loss = - log sigmoid(beta * (log pi(chosen) / |chosen| - log pi(rejected) / |rejected|) - gamma)

Meng et al. 2024 (arXiv:2405.14734), eq. 6. It needs no reference model: a completion's reward is beta times the
mean log-probability of its tokens, and gamma is the margin by which the chosen reward should exceed the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from accord import objectives
from accord.engine.fit import Measures, Objective
from accord.engine.models import Policy, prepare_network
from accord.engine.trees import Trees
from accord.methods.method import Per
from accord.methods.offline import OfflineMethod
from accord.methods.pairs import margin, margin_measures
from accord.records import Preference
from accord.worlds import cafe


@dataclass(kw_only=True)
class SimPO(OfflineMethod):
    """Optimize a policy on preferences directly, without a reference."""

    command: ClassVar[str] = "simpo"
    reads: ClassVar[tuple[type, ...]] = (Preference,)
    per: ClassVar[Per] = "tree"

    beta: float = 2.0
    """Scale of the reward, the mean log-probability of a completion's tokens."""
    gamma: float = 1.0
    """The margin by which the chosen completion's reward should exceed the rejected one's."""

    def objective(self, model: Policy) -> Objective:
        def loss(pairs: Trees) -> tuple[Tensor, Measures]:
            rewards = self.beta * model.branch_log_probs(pairs, average=True)  # (2P,), chosen and rejected alternating
            values = objectives.preference.bradley_terry(rewards[0::2], rewards[1::2], self.gamma)
            return values, margin_measures(margin(rewards.detach()))

        return loss


def main() -> None:
    policy = Policy(prepare_network(cafe.new_model(0)), cafe.tokenizer(), "cafe")
    rows = [Preference(d.prompt, d.completion, "the the the") for d in cafe.demonstrations(0, 64)]
    run = SimPO(learning_rate=1e-3, max_steps=8, max_length=128).fit(policy, rows, out="runs/simpo")
    print(f"loss {run.metrics[0]['loss']:.3f} -> {run.metrics[-1]['loss']:.3f}, report: {run.report}")


if __name__ == "__main__":
    main()
