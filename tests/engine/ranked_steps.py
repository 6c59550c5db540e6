"""Steps of offline methods that one process takes, or the ranks of a team, on many architectures: their gradients."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from accord.engine import checkpoint
from accord.engine.classifiers import PreferenceNetwork, Scorer
from accord.engine.fit import Optimizer
from accord.engine.memory import prepare_training
from accord.engine.models import Model
from accord.engine.shard import gathered
from accord.engine.trees import Branch, Tree
from accord.methods import DPO, IPO, KTO, SFT, PreferenceModel, RewardModel
from accord.methods.offline import OfflineLearner, OfflineMethod
from tests.engine.ranked_methods import ARCHITECTURES
from tests.engine.tiny import VOCABULARY, policy_of, random_model

STEPS = 3


@dataclass(frozen=True)
class Case:
    """A method on an architecture, whose output layer is the embedding or not, with settings; `branches` a tree."""

    method: type[OfflineMethod]
    branches: int
    architecture: str = "llama"
    tied: bool = False
    dtype: torch.dtype = torch.float64
    batch_size: int = 4
    checkpointing: bool = False
    adapters: dict[str, Any] = field(default_factory=dict)
    balanced: bool = False
    """With the balancing loss of experts, which is of a pass: each tree has its own."""
    longest: int = 6
    """Tokens that a prompt and a branch have at most."""

    @property
    def tokens_per_pass(self) -> int:
        """So few that a step takes several passes, of which some hold several trees."""
        return 1 if self.balanced else 5 * self.longest - 18

    @property
    def name(self) -> str:
        kind = "tied" if self.tied else "untied"
        bits = str(self.dtype).removeprefix("torch.") + ("-again" if self.checkpointing else "")
        bits += "".join(f"-{name}" for name in self.adapters) + "-balanced" * self.balanced
        return f"{self.method.command}-{self.architecture}-{kind}-{self.batch_size}-{bits}"


CASES = [
    Case(SFT, 1),
    Case(SFT, 1, tied=True, batch_size=1),
    Case(SFT, 1, "qwen3", tied=True, checkpointing=True),
    Case(SFT, 1, "mamba", dtype=torch.float32),  # whose states are of float32 whatever the weights are
    Case(RewardModel, 3),
    Case(PreferenceModel, 3, tied=True),
    Case(DPO, 2),
    Case(DPO, 2, "gpt2", tied=True, batch_size=1),
    Case(DPO, 2, tied=True, dtype=torch.float32),
    Case(IPO, 2, batch_size=3),
    Case(KTO, 1, tied=True),
    Case(DPO, 2, "longrope", longest=12),
    Case(SFT, 1, "longrope", checkpointing=True, longest=12),
    Case(SFT, 1, "mixtral"),
    Case(SFT, 1, "mixtral", balanced=True),
    Case(DPO, 2, checkpointing=True, adapters={"lora_rank": 2}),
    Case(DPO, 2, tied=True, batch_size=1, adapters={"lora_rank": 2, "lora_dora": True}),
    Case(RewardModel, 3, tied=True, adapters={"lora_rank": 2, "lora_targets": "q_proj"}),
    Case(DPO, 2, "gpt2", tied=True, adapters={"lora_rank": 2, "quantize": "int8"}),
]
"""Of a vocabulary of 13, which neither 2 nor 3 ranks can share evenly."""


def trees_of(case: Case) -> list[Tree]:
    """Rows for the steps; of the second, alone in its pass, nothing is trained on but where a loss needs it."""
    rng = random.Random(7)

    def tokens(most: int) -> tuple[int, ...]:
        return tuple(rng.randrange(1, VOCABULARY) for _ in range(rng.randint(2, most)))

    trees = []
    for row in range(STEPS * case.batch_size):
        branches = tuple(Branch(tokens(case.longest)) for _ in range(case.branches))
        ranks = tuple(range(case.branches)) if case.branches > 1 else (row % 2,)
        trees.append(Tree(tokens(case.longest), branches, ranks, row))
    if case.method is SFT and case.batch_size > 1:
        [branch] = trees[1].branches
        trees[1] = replace(trees[1], branches=(replace(branch, trained=(False,) * len(branch.tokens)),))
    return trees


def learner_of(case: Case) -> OfflineLearner:
    """The method at work, from the same weights every time."""
    method = case.method(
        batch_size=case.batch_size, max_steps=STEPS, learning_rate=1e-3, tokens_per_pass=case.tokens_per_pass,
        dtype="float32", weight_decay=0.1, max_grad_norm=0.5, activation_checkpointing=case.checkpointing,
        router_aux_loss_coefficient=None if case.balanced else 0.0, **case.adapters,
    )  # fmt: skip
    config = ARCHITECTURES[case.architecture]()
    config.tie_word_embeddings = case.tied
    policy = policy_of(random_model(config, dtype=case.dtype))
    model: Model = policy
    if case.method is RewardModel:
        model = Scorer.on(policy)
    if case.method is PreferenceModel:
        model = PreferenceNetwork.on(policy, 2)
    prepare_training(model, method)
    trees = trees_of(case)
    return OfflineLearner(method, model, trees).learn_from(trees, None)


def steps(learner: OfflineLearner, optimizer: Optimizer, first: int = 0) -> Iterator[tuple[str, Tensor]]:
    """What the steps log, and the first gradient, as it is when it is clipped."""
    gradients: dict[str, Tensor] = {}

    def note(*_: Any) -> None:
        for name, parameter in optimizer.named_parameters().items():
            if parameter.grad is not None:
                gradients.setdefault(f"gradient of {name}", gathered(parameter.grad).clone())

    hook = optimizer.rule.register_step_pre_hook(note)
    for step in range(first, STEPS):
        numbers = learner.step(step, learner.batch(step), optimizer).numbers
        yield from ((f"{name} of step {step}", torch.tensor(x, dtype=torch.float64)) for name, x in numbers.items())
    hook.remove()
    yield from gradients.items()


def outcome(case: Case, folder: Path) -> dict[str, Tensor]:
    """Logs, gradients and weights of three steps, of which there is then a checkpoint in the folder."""
    learner = learner_of(case)
    optimizer = Optimizer(learner.networks, learner.method, STEPS)
    logged = dict(steps(learner, optimizer))
    checkpoint.save(folder / case.name, STEPS, optimizer, {})
    return logged | {name: gathered(p.detach()).contiguous() for name, p in optimizer.named_parameters().items()}


def gone_on(case: Case, folder: Path) -> dict[str, Tensor]:
    """Weights and moments that were read of a checkpoint, and the weights after one more step."""
    learner = learner_of(case)
    optimizer = Optimizer(learner.networks, learner.method, STEPS)
    checkpoint.load(checkpoint.checkpoints(folder / case.name)[-1], optimizer)
    state = {
        f"{key} of {name}": tensor
        for name, p in optimizer.named_parameters().items()
        for key, tensor in {"weight": p.detach().clone(), **optimizer.rule.state[p]}.items()
    }
    whole = {name: gathered(tensor).clone() for name, tensor in state.items()}
    learner.step(STEPS - 1, learner.batch(STEPS - 1), optimizer)
    return whole | {f"then {name}": gathered(p.detach()) for name, p in optimizer.named_parameters().items()}
