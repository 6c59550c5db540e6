"""Small trainings that one process does, or the ranks of a team: what came of them is compared in test_ranks.py.

python -m torch.distributed.run --standalone --nproc-per-node 2 -m tests.engine.ranked FOLDER
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_pre_hook
from transformers import MixtralConfig

from accord.engine import checkpoint
from accord.engine.classifiers import PreferenceNetwork, Scorer
from accord.engine.fit import Optimizer
from accord.engine.forward import checkpoint_activations
from accord.engine.models import Model, Policy
from accord.engine.shard import gathered, local
from accord.engine.team import Team, joined
from accord.engine.trees import Branch, Tree
from accord.methods import (
    DPO,
    FSPO,
    GRPO,
    IPO,
    IPOMD,
    KTO,
    PPO,
    RAFT,
    REINFORCE,
    RLOO,
    SFT,
    Distill,
    NashMD,
    OnlineDPO,
    PersonalReward,
    PreferenceModel,
    Pretrain,
    RewardModel,
    SelfConsistency,
    STaR,
)
from accord.methods.offline import OfflineLearner, OfflineMethod
from accord.records import Demonstration, Preference, Prompt
from accord.train.loop import StepResult
from accord.train.options import SamplingOptions
from tests.data.conftest import word_tokenizer
from tests.engine.tiny import CONFIGS, END, SIZES, VOCABULARY, policy_of, random_model

STEPS = 3
ARCHITECTURES: dict[str, Callable[[], Any]] = {
    **CONFIGS,
    "mixtral": lambda: MixtralConfig(
        **SIZES, vocab_size=VOCABULARY, num_local_experts=4, num_experts_per_tok=2, bos_token_id=None,
        eos_token_id=END, pad_token_id=None, router_aux_loss_coef=0.1, attn_implementation="eager",
        experts_implementation="eager",  # as float64 has no other
    ),
}  # fmt: skip


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
    balanced: bool = False
    """With the balancing loss of experts, which is of a pass: each tree has its own."""

    @property
    def name(self) -> str:
        kind = "tied" if self.tied else "untied"
        bits = str(self.dtype).removeprefix("torch.") + "-again" * self.checkpointing + "-balanced" * self.balanced
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
    Case(SFT, 1, "mixtral"),
    Case(SFT, 1, "mixtral", balanced=True),
]
"""Of a vocabulary of 13, which neither 2 nor 3 ranks can share evenly."""


def trees_of(case: Case) -> list[Tree]:
    """Rows for the steps; of the second, alone in its pass, nothing is trained on but where a loss needs it."""
    rng = random.Random(7)

    def tokens(most: int) -> tuple[int, ...]:
        return tuple(rng.randrange(1, VOCABULARY) for _ in range(rng.randint(2, most)))

    trees = []
    for row in range(STEPS * case.batch_size):
        branches = tuple(Branch(tokens(6)) for _ in range(case.branches))
        ranks = tuple(range(case.branches)) if case.branches > 1 else (row % 2,)
        trees.append(Tree(tokens(6), branches, ranks, row))
    if case.method is SFT and case.batch_size > 1:
        [branch] = trees[1].branches
        trees[1] = replace(trees[1], branches=(replace(branch, trained=(False,) * len(branch.tokens)),))
    return trees


def learner_of(case: Case) -> OfflineLearner:
    """The method at work, from the same weights every time."""
    method = case.method(
        batch_size=case.batch_size, max_steps=STEPS, learning_rate=1e-3, tokens_per_pass=1 if case.balanced else 12,
        dtype="float32", weight_decay=0.1, max_grad_norm=0.5, activation_checkpointing=case.checkpointing,
        router_aux_loss_coefficient=None if case.balanced else 0.0,
    )  # fmt: skip
    config = ARCHITECTURES[case.architecture]()
    config.tie_word_embeddings = case.tied
    policy = policy_of(random_model(config, dtype=case.dtype))
    model: Model = policy
    if case.method is RewardModel:
        model = Scorer.on(policy)
    if case.method is PreferenceModel:
        model = PreferenceNetwork.on(policy, 2)
    if case.checkpointing:
        checkpoint_activations(model.network)
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


def asked_once() -> None:
    """Raise where a rank that does not lead asks what need not answer twice alike."""
    if not Team.here().leads:
        raise RuntimeError("only the rank that leads asks")


def vowels(completions: Sequence[str]) -> list[float]:
    """A reward."""
    asked_once()
    return [sum(text.count(letter) for letter in "aeo") - 0.1 * len(text) for text in completions]


def right(completions: Sequence[str]) -> list[float]:
    """A verifier, which is seldom content."""
    asked_once()
    return [float("good" in text or "day" in text) for text in completions]


def verdicts(firsts: Sequence[str], seconds: Sequence[str]) -> list[float | None]:
    """A judge that has ties, doubts, and no verdict on what is the same; and favors what stands first."""
    asked_once()
    gaps = [len(first) - 2 * first.count("d") - len(second) for first, second in zip(firsts, seconds, strict=True)]
    return [
        None if first == second else 0.5 if not gap else 1 / (1 + 2.0**-gap)
        for first, second, gap in zip(firsts, seconds, gaps, strict=True)
    ]


WORDS = ("hi", "bye", "good day", "hi")
ANSWERS = ("good", "day", "bad", "bye")
PROMPTS = tuple(Prompt(text, {"answer": answer}) for text, answer in zip(WORDS, ANSWERS, strict=True))
TEXTS = [Demonstration("", "hi hello good day bye hello " * (i % 3 + 1)) for i in range(9)]
CHOICES = [
    Preference(asked, *(("good", "bad") if user % 2 else ("bad day", "good")), user=f"u{user}")
    for user in range(5)
    for asked in ("hi", "bye", "hello")
]
SETTINGS: dict[str, Any] = {
    "batch_size": 4, "max_steps": 3, "learning_rate": 1e-3, "dtype": "float32", "tokens_per_pass": 32,
}  # fmt: skip
SAMPLED: dict[str, Any] = {**SETTINGS, "group_size": 3, "max_new_tokens": 4}
PAIRED: dict[str, Any] = {**SAMPLED, "group_size": 4}
REWARD, JUDGE, VERIFIER = {"reward": vowels}, {"judge": verdicts}, {"verifier": right}


@dataclass(frozen=True)
class Whole:
    """A whole run of a method, with what `fit` is given besides; after `stop` steps it is stopped, and gone on with."""

    method: Any
    given: Mapping[str, Any]
    rows: Sequence[Any] = PROMPTS
    label: str = ""
    architecture: str = "llama"
    dtype: torch.dtype = torch.float64
    stop: int = 0

    @property
    def name(self) -> str:
        return "-".join(filter(None, (self.method.command, self.label, str(self.dtype).removeprefix("torch."))))


RUNS = [
    Whole(Pretrain(**SETTINGS, max_length=8), {}, TEXTS),
    Whole(PersonalReward(**SETTINGS, comparisons=3, reader_layers=1), {}, CHOICES, stop=2),
    Whole(PersonalReward(**SETTINGS, comparisons=3, reader_layers=1, planes=2), {}, CHOICES, "planes"),
    Whole(FSPO(**SETTINGS, given=2), {}, CHOICES, stop=2),
    Whole(REINFORCE(**SAMPLED), REWARD),
    Whole(GRPO(**SAMPLED, kl_coefficient=0.1), REWARD),
    Whole(RLOO(**{**SAMPLED, "tokens_per_pass": 1}), REWARD, label="mixtral", architecture="mixtral"),
    Whole(PPO(**SAMPLED, minibatches=2, inner_epochs=2), REWARD, stop=2),
    Whole(RAFT(**SAMPLED, keep_truncated=True), REWARD),
    Whole(OnlineDPO(**PAIRED), JUDGE, stop=2),
    Whole(NashMD(**PAIRED, opponents=2, mixture=0.3), JUDGE),
    Whole(NashMD(**PAIRED, past=2, snapshot_every=1, mirror=0.1), JUDGE, label="past", stop=2),
    Whole(IPOMD(**PAIRED, mixture=0.3), JUDGE, stop=2),
    Whole(STaR(**{**PAIRED, "max_steps": 2}, rounds=2), VERIFIER, stop=3),
    Whole(SelfConsistency(**{**PAIRED, "max_steps": 2}, rounds=2, from_base=False), {"verifier": "exact"}, stop=3),
    Whole(Distill(**SAMPLED, gamma=0.5), {"teacher": "qwen3"}, stop=2),
]
"""A prompt stands twice among those that are sampled for."""
NEAR = (PersonalReward, FSPO, OnlineDPO, NashMD, IPOMD, STaR, SelfConsistency, Distill)
RUNS += [
    replace(whole, dtype=torch.float32, stop=0) for whole in RUNS if isinstance(whole.method, NEAR) and not whole.label
]


def policy_for(architecture: str, dtype: torch.dtype, seed: int = 1) -> Policy:
    """A random policy that reads a few words."""
    policy = policy_of(random_model(ARCHITECTURES[architecture](), seed, dtype))
    policy.tokenizer = word_tokenizer()
    return policy


def run(whole: Whole, out: Path, *, stopped: bool = False) -> dict[str, Tensor]:
    """The whole run in its folder, stopped on its way or not; the gradients of its first update, as AdamW has them."""
    gradients: dict[str, Tensor] = {}
    given = dict(whole.given)
    if "teacher" in given:
        given["teacher"] = policy_for(given["teacher"], whole.dtype, seed=2)

    def note(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        if not gradients:
            weights = [p for group in optimizer.param_groups for p in group["params"]]
            gradients.update({str(i): gathered(p.grad).clone() for i, p in enumerate(weights) if p.grad is not None})

    def stop(step: int, _: StepResult) -> None:
        if step == whole.stop:
            raise StopIteration

    hook = register_optimizer_step_pre_hook(note)
    given |= {"out": out, "track": "none"}
    if issubclass(whole.method.options, SamplingOptions):
        given["sample_every"] = 1
    with patch("accord.report.refresh_report", lambda folder: folder / "report.html"):  # pictures take most of the time
        if stopped and whole.stop:
            given["save_every"] = 1
            with suppress(StopIteration):
                whole.method.fit(policy_for(whole.architecture, whole.dtype), whole.rows, **given, on_step=stop)
            given["resume"] = True
        whole.method.fit(policy_for(whole.architecture, whole.dtype), whole.rows, **given)
    hook.remove()
    return gradients


def held() -> dict[str, Tensor]:
    """What share of networks that are only read this rank holds, and of the weights that rounds begin with."""
    nash = NashMD(**SETTINGS, past=2).learner(policy_for("llama", torch.float64), verdicts)
    taught = Distill(**SETTINGS).learner(policy_for("llama", torch.float64), policy_for("qwen3", torch.float64))
    rounds = STaR(**SETTINGS).learner(policy_for("llama", torch.float64), right).learn_from(PROMPTS, None)
    networks = {"reference": nash.reference, "teacher": taught.teacher, **dict(zip("ab", nash.past.kept, strict=True))}
    weights = {name: list(model.network.parameters()) for name, model in networks.items()}
    weights["base"] = list(rounds.base.values())
    shares = {
        name: sum(local(p).numel() for p in each) / sum(p.numel() for p in each) for name, each in weights.items()
    }
    return {name: torch.tensor(share) for name, share in shares.items()}


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    with joined() as team:
        for whole in RUNS:
            gradients = run(whole, folder / whole.name, stopped=True)
            if team.leads:
                save_file(gradients, folder / f"{whole.name}-gradients.safetensors")
        for case in CASES:
            found = outcome(case, folder)
            if team.leads:
                save_file(found, folder / f"{case.name}.safetensors")
        again, shares = gone_on(CASES[0], folder.parent), held()  # the first from what one process saved
        if team.leads:
            save_file(again, folder / "again.safetensors")
            save_file(shares, folder / "held.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
