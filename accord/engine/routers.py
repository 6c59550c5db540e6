"""The load-balancing loss of mixtures of experts, which keeps a router from sending every token to the same few
experts.

Of the T tokens of a pass, each of L layers sends every token to k of its E experts, by a softmax over E logits:

    balance = E * sum over experts of f_e P_e,    f_e = tokens sent to e / (L T),    P_e = mean over L T of p_e

(Fedus et al. 2021, arXiv:2101.03961, equations 4 to 6, over all layers together, as in transformers.) It is k where all
experts are chosen equally often, and its gradient comes through P only. The tokens are those that a pass computes: in
packed trees each prompt counts once, so for several branches the mean differs from a padded batch's; for one sequence
they are equal. The passes of a step are weighted by their tokens; as a mean of products, the loss depends a little on
how trees are packed, unlike everything else in a step.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from accord.errors import InputError


class Balance:
    """The balancing losses of the trained networks that have routers, each with its coefficient.

    The coefficient is the `router_aux_loss_coef` of a network's configuration, if any, unless `coefficient` is given.
    Raises InputError where that is above 0 and no network has routers.
    """

    def __init__(self, networks: Mapping[str, nn.Module], coefficient: float | None = None) -> None:
        routed = [network for network in networks.values() if routers_of(network)]
        if coefficient and not routed:
            raise InputError("router_aux_loss_coefficient is for mixtures of experts, and the model has no routers.")
        self.networks: list[tuple[nn.Module, float]] = []
        for network in routed:
            own = getattr(_config(network), "router_aux_loss_coef", None) if coefficient is None else coefficient
            if own:
                self.networks.append((network, float(own)))

    @contextmanager
    def recording(self) -> Iterator[list[tuple[Tensor, float]]]:
        """Yields a list that, at the end of the context, holds the balancing loss and coefficient of each network that
        a pass with gradients went through within it."""
        losses: list[tuple[Tensor, float]] = []
        with ExitStack() as stack:
            recorded = [stack.enter_context(_recorded_logits(network)) for network, _ in self.networks]
            yield losses
        for (network, coefficient), logits in zip(self.networks, recorded, strict=True):
            if logits:
                losses.append((balance(logits, _chosen(network)), coefficient))


def balance(logits: list[Tensor], chosen: int) -> Tensor:
    """E * sum over experts of f_e P_e, from each layer's router logits (T, E); each token has `chosen` = k experts."""
    experts = logits[0].shape[-1]
    probability = torch.cat([layer.to(torch.promote_types(layer.dtype, torch.float32)).softmax(-1) for layer in logits])
    sent = torch.bincount(probability.topk(chosen, -1).indices.flatten(), minlength=experts) / len(probability)  # (E,)
    return experts * (sent.to(probability.dtype) @ probability.mean(0))


def routers_of(network: nn.Module) -> dict[nn.Module, int]:
    """The router modules of a network, each with the index of the logits among its outputs."""
    routers: dict[nn.Module, int] = {}
    for part in network.modules():
        recorded = (
            (part._can_record_outputs or {}).get("router_logits", []) if isinstance(part, PreTrainedModel) else []
        )
        for recorder in recorded if isinstance(recorded, list) else [recorded]:
            kind: Any = getattr(recorder, "target_class", recorder)
            index = getattr(recorder, "index", 1)
            within = f".{getattr(recorder, 'layer_name', None) or ''}".rstrip(".")
            routers |= {m: index for name, m in part.named_modules() if isinstance(m, kind) and within in f".{name}"}
    return routers


COUNTS = ("num_experts", "num_local_experts", "n_routed_experts")
"""Names of the number of experts per layer in configurations."""


def experts_of(network: Any) -> tuple[list[nn.Parameter], float]:
    """A network's experts, one parameter (E, ., .) per layer, and k / E, the share of them that a token is sent
    through."""
    config = _config(network)
    count = next((int(n) for name in COUNTS if (n := getattr(config, name, None))), 0)
    chosen = getattr(config, "num_experts_per_tok", None)
    blocks = [p for p in network.parameters() if p.dim() == 3 and len(p) == count]
    return (blocks, int(chosen) / count) if blocks and chosen else ([], 1.0)


def has_experts(config: Any) -> bool:
    """Whether an architecture is a mixture of experts."""
    return any(getattr(config.get_text_config(), name, None) for name in COUNTS)


@contextmanager
def _recorded_logits(network: Any) -> Iterator[list[Tensor]]:
    """Yields a list that collects the logits (T, E) of every router in passes with gradients within the context;
    `hidden_states` removes those of padding."""
    network._router_logits = recorded = []

    def attach(router: nn.Module, index: int) -> Any:
        def record(_module: nn.Module, _args: Any, output: Any) -> None:
            logits = output[index] if isinstance(output, tuple) else output
            if logits.requires_grad:
                recorded.append(logits)

        return router.register_forward_hook(record)

    handles = [attach(router, index) for router, index in routers_of(network).items()]
    try:
        yield recorded
    finally:
        del network._router_logits
        for handle in handles:
            handle.remove()


def _chosen(network: nn.Module) -> int:
    """How many experts each token is sent to."""
    chosen = getattr(_config(network), "num_experts_per_tok", None)
    if chosen is None or "Doge" in type(network).__name__:  # its routers are product-key lookups
        raise InputError(
            f"the balancing loss of {type(network).__name__} is not supported: switch it off by "
            "--router-aux-loss-coefficient 0."
        )
    return int(chosen)


def _config(network: Any) -> Any:
    return network.config.get_text_config()
