"""Ranks that compute in bfloat16 gather linear layers in it: half of what is sent, and the steps of one process."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.distributed.fsdp._fully_shard._fsdp_collectives import DefaultAllGather, DefaultReduceScatter
from transformers import MixtralConfig

from accord.engine.fit import Optimizer
from accord.engine.forward import log_probabilities
from accord.engine.gpus import Machine
from accord.engine.groups import ReduceScatter
from accord.engine.memory import prepare_training
from accord.engine.passes import one_pass
from accord.engine.precision import autocast, linear_weights
from accord.engine.shard import gathered
from accord.engine.shares import Groups
from accord.engine.team import Team
from accord.engine.trees import Branch, Tree, Trees
from accord.methods import DPO, SFT
from accord.methods.offline import OfflineLearner
from tests.engine.tiny import CONFIGS, END, SIZES, VOCABULARY, policy_of, random_model
from tests.trust.forked import in_team

CASES: list[Any] = [
    ("llama", 0, {}),
    ("llama", 1, {}),
    ("qwen3", 1, {"activation_checkpointing": True}),
    ("mamba", 0, {}),
]
CASES += [("gpt2", 1, {}), ("llama", 0, {"lora_rank": 2})]
NAMES = ["-".join(map(str, (*case[:2], *case[2]))) for case in CASES]
TREES = [Tree((1, 2 + row), tuple(Branch((3, 4 + row, 5 + i, 6)) for i in range(2)), (0, 1), row) for row in range(4)]


MIXTRAL = MixtralConfig(**SIZES, vocab_size=VOCABULARY, num_local_experts=3, num_experts_per_tok=2, eos_token_id=END)
MIXTURES = {name: copy.deepcopy(MIXTRAL) for name in ("mixtral", "one expert")}
MIXTURES["one expert"].num_local_experts = MIXTURES["one expert"].num_experts_per_tok = 1
"""Of the second two ranks share the rows of an expert."""
PLANNED: list[Any] = [
    ("llama", 0, {}),
    ("llama", 1, {"lora_rank": 2}),
    ("mixtral", 0, {}),
    ("mixtral", 0, {"lora_rank": 2}),
]
PLANNED += [(name, 0, {"weight_dtype": "bfloat16"}) for name in ("llama", "mixtral", "one expert")]
PLANNED += [("one expert", 0, {}), ("llama", 1, {"lora_rank": 2, "quantize": "int8"})]
"""Of what a plan's bytes are held against those that are sent."""


def learner_of(architecture: str, tied: int, more: dict[str, Any], method: Any = DPO) -> OfflineLearner:
    """A method at work in bfloat16, each row in a pass of its own: then ranks make the passes that one process does."""
    config: Any = copy.deepcopy(MIXTURES.get(architecture)) or CONFIGS[architecture]()
    config.tie_word_embeddings = bool(tied)
    made = method(batch_size=4, max_steps=2, learning_rate=1e-3, tokens_per_pass=1, dtype="bfloat16", **more)
    policy = policy_of(random_model(config, dtype=torch.float32)).in_dtype("bfloat16")
    prepare_training(policy, made)
    return OfflineLearner(made, policy, TREES).learn_from(TREES, None)


def steps(case: tuple[str, int, dict[str, Any]]) -> dict[str, Tensor]:
    """Two steps' losses and gradient norms, and the weights after them."""
    learner = learner_of(*case)
    optimizer = Optimizer(learner.networks, learner.method, 2)
    logged = [learner.step(step, learner.batch(step), optimizer).numbers for step in range(2)]
    numbers = [numbers[name] for numbers in logged for name in ("loss", "gradient_norm")]
    weights = {name: gathered(p.detach()).contiguous() for name, p in optimizer.named_parameters().items()}
    return weights | {"numbers": torch.tensor(numbers, dtype=torch.float64)}


@contextmanager
def counted() -> Iterator[dict[str, int]]:
    """Bytes that are gathered, and that are summed and scattered, as a whole."""
    sent = {"gathered": 0, "scattered": 0}
    gather = DefaultAllGather.__call__

    def all_gather(self: Any, output_tensor: Tensor, *args: Any, **named: Any) -> Any:
        sent["gathered"] += output_tensor.nbytes
        return gather(self, output_tensor, *args, **named)

    def counting(scatter: Callable[..., Any]) -> Callable[..., Any]:
        def reduce_scatter(self: Any, output_tensor: Tensor, input_tensor: Tensor, *args: Any, **named: Any) -> Any:
            sent["scattered"] += input_tensor.nbytes
            return scatter(self, output_tensor, input_tensor, *args, **named)

        return reduce_scatter

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DefaultAllGather, "__call__", all_gather)
        for kind in (DefaultReduceScatter, ReduceScatter):  # torch's, and that of ranks on CPUs
            patch.setattr(kind, "__call__", counting(kind.__call__))
        yield sent


def wire() -> Tensor:
    """Of a pass and its gradient, what is gathered and scattered, and what of it is expected."""
    learner = learner_of("llama", 0, {}, SFT)
    network = learner.model.network
    linear = {id(p) for p in linear_weights(network)}
    layers = [p for layer in network.model.layers for p in layer.parameters()]  # type: ignore[union-attr]
    beside = [p for p in network.parameters() if all(p is not other for other in layers)]

    def whole(p: Tensor) -> int:  # what is sent of a weight: its rows are made even
        return 2 * -(-len(p) // 2) * p[0].numel()

    in_layers = sum((2 if id(p) in linear else 4) * whole(p) for p in layers)
    gathers = 2 * in_layers + 4 * sum(map(whole, beside))
    scatters = 4 * sum(map(whole, [*layers, *beside]))
    return torch.tensor([*sent_by(learner), gathers, scatters])


def sent_by(learner: OfflineLearner) -> tuple[int, int]:
    """What a pass gathers, and what it scatters with its gradient."""
    Optimizer(learner.networks, learner.method, 2)
    network, trees = learner.model.network, Trees.of(TREES[:1])
    with autocast(torch.bfloat16):
        log_probabilities(network, trees)[0].sum().backward()  # once, as the first pass makes what is kept
    with counted() as sent, autocast(torch.bfloat16, cached=False):
        log_probabilities(network, trees)[0].sum().backward()
    return sent["gathered"], sent["scattered"]


def planned(architecture: str, tied: int, more: dict[str, Any]) -> Tensor:
    """Bytes that reach a rank in a pass with its gradient, and those of a plan."""
    learner = learner_of(architecture, tied, more, SFT)
    groups = Groups.of(learner.model.network.config, learner.method)
    machine = Machine("m", 1.0, 1.0, 1.0, 1.0, 1.0)
    expected = one_pass(groups, 0.0, machine, 2, trains=True, linear=2).received
    return torch.tensor([sum(sent_by(learner)) / 2, expected], dtype=torch.float64)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("casts")

    def work(team: Team) -> None:
        found = {name: steps(case) for name, case in zip(NAMES, CASES, strict=True)} | {"wire": {"bytes": wire()}}
        found["planned"] = {str(i): planned(*case) for i, case in enumerate(PLANNED)}
        if team.leads:
            for name, tensors in found.items():
                save_file(tensors, folder / f"{name}.safetensors")

    in_team(2, work)
    return folder


@pytest.mark.parametrize(("name", "case"), list(zip(NAMES, CASES, strict=True)), ids=NAMES)
def test_steps_in_bfloat16_are_those_of_one_process(
    name: str, case: tuple[str, int, dict[str, Any]], ranks: Path
) -> None:
    """Every product rounds as there; sums over passes are of float32, in another order."""
    found, expected = load_file(ranks / f"{name}.safetensors"), steps(case)
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        assert float((found[key] - tensor).abs().max()) <= 1e-6 * max(1.0, float(tensor.abs().max())), key


def test_linear_layers_are_gathered_in_halves_and_gradients_summed_whole(ranks: Path) -> None:
    gathered_, scattered, expected, sums = load_file(ranks / "wire.safetensors")["bytes"].tolist()
    assert (gathered_, scattered) == (expected, sums)


@pytest.mark.parametrize("i", range(len(PLANNED)), ids=["-".join(map(str, case)) for case in PLANNED])
def test_plans_count_what_is_sent(i: int, ranks: Path) -> None:
    found, expected = load_file(ranks / "planned.safetensors")[str(i)].tolist()
    assert found == expected
