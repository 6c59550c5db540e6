"""Mixtures of experts: the balancing loss and its gradient are transformers' own, of each token once, and no others."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    GPT2Config,
    GraniteMoeConfig,
    JambaConfig,
    MixtralConfig,
    MixtralForSequenceClassification,
    OlmoeConfig,
    Qwen3MoeConfig,
)

from accord.engine import LossTerm, Optimizer, Scorer, Tree, Trees
from accord.engine.config import TrainingConfig
from accord.engine.forward import hidden_states
from accord.engine.models import prepare_network
from accord.engine.routers import Balance, balance, routers_of
from accord.engine.trees import Branch
from accord.errors import InputError
from tests.engine.tiny import END, SIZES, VOCABULARY, policy_of
from tests.engine.tiny import random_model as random_model64

SMALL: dict[str, Any] = {
    **SIZES,
    "vocab_size": VOCABULARY,
    "bos_token_id": None,
    "eos_token_id": END,
    "pad_token_id": None,
}
CONFIGS: dict[str, Callable[..., Any]] = {
    "mixtral": lambda **more: MixtralConfig(**SMALL, num_local_experts=4, num_experts_per_tok=2, **more),
    "qwen3_moe": lambda **more: Qwen3MoeConfig(
        **SMALL, head_dim=8, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=8, **more
    ),
    "olmoe": lambda **more: OlmoeConfig(**SMALL, num_experts=4, num_experts_per_tok=2, **more),
    "granite_moe": lambda **more: GraniteMoeConfig(**SMALL, num_local_experts=4, num_experts_per_tok=2, **more),
    "jamba": lambda **more: JambaConfig(
        **SMALL, num_experts=4, num_experts_per_tok=2, expert_layer_period=1, expert_layer_offset=0,
        attn_layer_period=2, attn_layer_offset=1, use_mamba_kernels=False, mamba_d_state=4, **more
    ),
}  # fmt: skip
random_model = partial(random_model64, dtype=torch.float32)  # in which alone experts are multiplied in groups
SEQUENCE = (1, 2, 3, 4, 5, 6, 7, 8, 2, 2)


def step(network: nn.Module, objective: Any, trees: Trees, **settings: Any) -> dict[str, float]:
    """One step whose gradients stay to be looked at: the learning rate is too small to matter."""
    config = TrainingConfig(dtype="float32", max_grad_norm=1e9, **settings)
    optimizer = Optimizer({"model": network}, config, 1)
    optimizer.rule.zero_grad = lambda set_to_none=True: None  # type: ignore[method-assign]
    return optimizer.update(0, LossTerm(objective, [trees], "token"))


@pytest.mark.parametrize("name", CONFIGS)
def test_value_and_gradient_are_those_of_transformers(name: str) -> None:
    # transformers' loss of a sequence is the mean over all tokens but the first of - log p, plus .3 * its balance.
    config = CONFIGS[name](router_aux_loss_coef=0.3)
    plain = random_model(config)
    row = torch.tensor([SEQUENCE])
    said = plain(input_ids=row, labels=row, output_router_logits=True, use_cache=False)
    said.loss.backward()
    policy = policy_of(random_model(config))
    tree = Tree(SEQUENCE[:1], (Branch(SEQUENCE[1:]),))
    numbers = step(policy.network, lambda trees: (-policy.log_probs(trees), {}), Trees.of([tree]))
    assert numbers["balance_loss"] == pytest.approx(said.aux_loss.item(), rel=1e-6)
    assert numbers["loss"] == pytest.approx(said.loss.item(), rel=1e-6)
    theirs = {name: p.grad for name, p in plain.named_parameters()}
    for key, parameter in policy.network.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, theirs[key], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["mixtral", "jamba"])
def test_a_prompt_is_counted_once_and_padding_never(name: str) -> None:
    # Mixtral reads trees; Jamba a padded row a branch, in which the prompt stands twice.
    network = prepare_network(random_model(CONFIGS[name](router_aux_loss_coef=1.0)))
    prompt, first, second = (1, 2, 3), (4, 5, 6, 7), (8,)
    trees = Trees.of([Tree(prompt, (Branch(first), Branch(second)))])
    with Balance({"model": network}).recording() as losses:
        hidden_states(network, trees)
    [(loss, coefficient)] = losses
    kept: list[list[Tensor]] = []
    for tokens, begin in ((prompt + first, 0), (prompt + second, len(prompt))):
        said = network.base_model(input_ids=torch.tensor([tokens]), output_router_logits=True, use_cache=False)
        kept.append([logits[begin:] for logits in said.router_logits])
    expected = balance([torch.cat(layers) for layers in zip(*kept, strict=True)], 2)
    assert coefficient == 1.0
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_loss_by_hand() -> None:
    # Two tokens, two experts, one each: logits (0, ln 3) and (ln 3, 0) give p = (1/4, 3/4), (3/4, 1/4), so f = P =
    # (1/2, 1/2) and the loss 2 * (1/4 + 1/4) = 1 = k. Both to the second: f = (0, 1), P_2 = 3/4, the loss 2 * 3/4.
    three = torch.tensor(3.0, dtype=torch.float64).log()
    apart = torch.stack([torch.stack([0 * three, three]), torch.stack([three, 0 * three])])
    assert float(balance([apart], 1)) == pytest.approx(1.0)
    assert float(balance([apart[:1].expand(2, 2)], 1)) == pytest.approx(1.5)
    # Two layers are one sample of four: f = (1/4, 3/4), P = (3/8, 5/8), the loss 2 * (3/32 + 15/32).
    assert float(balance([apart, apart[:1].expand(2, 2)], 1)) == pytest.approx(2 * 18 / 32)


def test_a_reward_model_of_experts_is_balanced_too() -> None:
    config = CONFIGS["mixtral"](router_aux_loss_coef=0.5, num_labels=1)
    torch.manual_seed(0)
    network = prepare_network(MixtralForSequenceClassification(config).eval())
    scorer = Scorer(network, policy_of(random_model(config)).tokenizer)
    trees = Trees.of([Tree((1, 2), (Branch((3, 4)), Branch((5,))))])
    with Balance({"model": network}).recording() as losses:
        scorer.rewards(trees)
    assert [coefficient for _, coefficient in losses] == [0.5]
    with torch.no_grad():
        said = network.base_model(input_ids=torch.tensor([[1, 2, 3, 4]]), output_router_logits=True)
    assert len(said.router_logits) == len(routers_of(network)) == 2


def test_the_coefficient_can_be_changed_and_passes_without_gradients_are_not_heard() -> None:
    network = prepare_network(random_model(CONFIGS["mixtral"](router_aux_loss_coef=0.3)))
    trees = Trees.of([Tree((1, 2), (Branch((3, 4)),))])
    with Balance({"model": network}, 0.7).recording() as losses:
        hidden_states(network, trees)
        with torch.no_grad():
            hidden_states(network, Trees.of([Tree((9,), (Branch((9,)),))]))
    with Balance({"model": network}).recording() as once:
        hidden_states(network, trees)
    assert (losses[0][0], losses[0][1]) == (once[0][0], 0.7)
    assert Balance({"model": network}, 0.0).networks == []
    assert not any(module._forward_hooks for module in routers_of(network))


def test_a_dense_model_has_no_balance() -> None:
    network = prepare_network(random_model(GPT2Config(vocab_size=13, n_embd=16, n_layer=2, n_head=4, n_positions=32)))
    assert Balance({"model": network}).networks == []
    with pytest.raises(InputError, match="the model has no routers"):
        Balance({"model": network}, 0.1)


def test_packs_share_the_loss_by_their_tokens() -> None:
    network = prepare_network(random_model(CONFIGS["mixtral"](router_aux_loss_coef=2.0)))
    packs = [Trees.of([Tree((1,), (Branch(tokens),))]) for tokens in ((2, 3), (4, 5, 6, 7, 8))]
    each = []
    for trees in packs:
        with Balance({"model": network}).recording() as losses:
            hidden_states(network, trees)
        each.append(losses[0][0].item())
    optimizer = Optimizer({"model": network}, TrainingConfig(dtype="float32"), 1)
    term = LossTerm(
        lambda trees: (0 * hidden_states(network, trees).sum(-1)[trees.source], {}), packs, "token", weight=0.5
    )
    numbers = optimizer.update(0, term)
    assert numbers["balance_loss"] == pytest.approx((3 * each[0] + 6 * each[1]) / 9)
    assert numbers["loss"] == pytest.approx(0.5 * 2.0 * numbers["balance_loss"])
