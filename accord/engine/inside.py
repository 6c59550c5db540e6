"""What a model computes as it reads a text: attention, predictions after every layer, neighboring embeddings.

`accord.engine.stream` computes what each of its parts contributes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from accord.engine.generate import evaluating
from accord.engine.readout import Readout


@dataclass(frozen=True)
class Inside:
    """What a model computes over T tokens, with L layers of H heads; everything is on the CPU.

    Attributes:
        tokens: (T,) token ids.
        logp: (T, V) log-probabilities of the token after each position.
        attention: for every layer (H, T, T): how much query i attends to key j, rows that sum to 1; empty where the
            model has no attention. With W_Q, W_K a head's projections, RoPE included: softmax(Q K^T / sqrt(d)) over
            keys j <= i (Vaswani et al. 2017, arXiv:1706.03762, eq. 1).
        scores: for every layer (H, T, T): the input of that softmax, Q K^T / sqrt(d) as the architecture computes it
            (including a soft cap or a distance bias), -inf where the mask hides the key; empty where it was not
            observed.
        lens: (L + 1, T) the likeliest next token if the model stopped after each layer, embeddings first, and
        lens_logp: (L + 1, T) its log-probability: the last norm and the output layer applied to the hidden states there
            (the logit lens, nostalgebraist 2020). The last row is the model's own prediction.
    """

    tokens: Tensor
    logp: Tensor
    attention: tuple[Tensor, ...]
    scores: tuple[Tensor, ...]
    lens: Tensor
    lens_logp: Tensor

    def token_logp(self) -> Tensor:
        """(T - 1,) the log-probability of each token but the first, given those before it."""
        return self.logp[:-1].gather(1, self.tokens[1:, None]).squeeze(1)

    def ranks(self) -> Tensor:
        """(T - 1,) the rank of each token but the first among the predictions: 1 plus the number of likelier tokens."""
        return (self.logp[:-1] > self.token_logp()[:, None]).sum(1) + 1

    def entropies(self) -> Tensor:
        """(T,) the entropy of the prediction at each position, in nats."""
        return torch.special.entr(self.logp.exp()).sum(1)


@torch.no_grad()
def look(network: nn.Module, tokens: Sequence[int]) -> Inside:
    """Read the tokens once, with plain attention whose weights are observable; the model is left unchanged.

    Raises ValueError where there are no tokens.
    """
    if not tokens:
        raise ValueError("there are no tokens to read")
    model: Any = network
    ids = torch.tensor([tuple(tokens)], device=model.device)
    with (
        evaluating(model),
        plain_attention(model) as attends,
        norm_after(model) as norm_of,
        AttentionRecorder() as seen,
    ):
        out = model.base_model(input_ids=ids, use_cache=False, output_hidden_states=True, output_attentions=attends)
        readout, norm = Readout.of(model), norm_of(out.last_hidden_state)
        logp = readout.logits(out.last_hidden_state[0]).log_softmax(-1)
        likeliest = [readout.logits(norm(state[0])).log_softmax(-1).max(-1) for state in out.hidden_states[:-1]]
        likeliest.append(logp.max(-1))
    attention = tuple(layer[0].cpu() for layer in getattr(out, "attentions", None) or ())
    scores = tuple(layer.cpu() for layer in seen.scores)
    return Inside(
        tokens=ids[0].cpu(),
        logp=logp.cpu(),
        attention=attention,
        scores=scores if len(scores) == len(attention) else (),
        lens=torch.stack([best.indices for best in likeliest]).cpu(),
        lens_logp=torch.stack([best.values for best in likeliest]).cpu(),
    )


def elsewhere(attention: Sequence[Tensor]) -> Tensor:
    """(L, H) the share of each head's attention that goes to tokens other than the first and the query itself.

    The first token is an attention sink (Xiao et al. 2023, arXiv:2309.17453), and attention to the query's own position
    does not distinguish heads.
    """
    weights = torch.stack(list(attention))
    kept = torch.ones(weights.shape[-2:]).tril(-1)
    kept[:, 0] = 0
    return (weights * kept).sum((2, 3)) / weights.shape[-1]


def nearest(embeddings: Tensor, tokens: Sequence[int], k: int) -> tuple[Tensor, Tensor]:
    """For each token the k others whose rows of `embeddings` (V, d) are nearest: ids and cosines, both (tokens, k)."""
    unit = nn.functional.normalize(embeddings.detach().float().cpu(), dim=-1)
    own = torch.tensor(list(tokens))
    cosines = unit[own] @ unit.T
    cosines.scatter_(1, own[:, None], -torch.inf)
    neighbors = cosines.topk(min(k, len(unit) - 1), dim=-1)
    return neighbors.indices, neighbors.values


def plane(vectors: Tensor) -> tuple[Tensor, float]:
    """Vectors (n, d), normalized, on the plane of their two principal components: (n, 2), and the share of variance
    kept.

    Each component's sign makes its largest coordinate positive, so that the picture does not depend on the solver.
    """
    unit = nn.functional.normalize(vectors.detach().float().cpu(), dim=-1)
    centered = unit - unit.mean(0)
    u, s, _ = torch.linalg.svd(centered, full_matrices=False)
    spots = nn.functional.pad(u[:, :2] * s[:2], (0, max(0, 2 - len(s))))
    largest = spots.gather(0, spots.abs().argmax(0, keepdim=True)).squeeze(0)
    spots = spots * torch.where(largest < 0, -1.0, 1.0)
    total = float(s.square().sum())
    return spots, float(s[:2].square().sum()) / total if total else 0.0


SOFTMAX = (nn.functional.softmax, torch.softmax, Tensor.softmax)
PRODUCT = (torch.matmul, Tensor.matmul, Tensor.__matmul__)


class AttentionRecorder(TorchFunctionMode):
    """Records, while entered, intermediate results of plain attention that transformers does not return.

    A softmax over (1, H, T, T) is a layer's attention, and the first product with such a matrix after it weighs the
    values.

    Attributes:
        scores: for every layer (H, T, T), as in `Inside`.
        weighed: for every layer whose values were observed, the weights (H, T, T) and the values (H, T, E).
    """

    def __init__(self) -> None:
        super().__init__()
        self.scores: list[Tensor] = []
        self.weighed: list[tuple[Tensor, Tensor]] = []
        self._weights_are_due = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        first = args[0] if args and isinstance(args[0], Tensor) else None
        if first is None or first.ndim != 4 or len(first) != 1 or first.shape[2] != first.shape[3]:
            return out
        if func in SOFTMAX:
            masked = first[0] <= torch.finfo(first.dtype).min / 2
            self.scores.append(first[0].masked_fill(masked, -torch.inf))
            self._weights_are_due = True
        elif func in PRODUCT and self._weights_are_due and first.shape == (1, *self.scores[-1].shape):
            self.weighed.append((first[0], args[1][0]))
            self._weights_are_due = False
        return out


@contextmanager
def plain_attention(model: Any) -> Iterator[bool]:
    """Within the context attention computes its weights as a matrix; yields whether the model has attention at all."""
    config = model.config.get_text_config()
    attends, before = hasattr(config, "num_attention_heads"), config._attn_implementation
    if attends:
        model.set_attn_implementation("eager")
    try:
        yield attends
    finally:
        if attends:
            model.set_attn_implementation(before)


@contextmanager
def norm_after(model: Any) -> Iterator[Callable[[Tensor], Callable[[Tensor], Tensor]]]:
    """Yields a function that, after a forward, finds the module between the last layer and the output layer.

    It is the module outside the layers whose output the trunk returned.
    """
    trunk = model.base_model
    inner = {id(part) for parts in trunk.modules() if isinstance(parts, nn.ModuleList) for part in parts.modules()}
    outer = [m for m in trunk.modules() if m is not trunk and id(m) not in inner]
    seen: list[tuple[nn.Module, Tensor]] = []

    def note(module: nn.Module, inputs: object, output: object) -> None:
        if isinstance(output, Tensor):
            seen.append((module, output))

    hooks = [module.register_forward_hook(note) for module in outer]
    try:
        yield lambda last: next((m for m, out in seen if out.data_ptr() == last.data_ptr()), nn.Identity())
    finally:
        for hook in hooks:
            hook.remove()
