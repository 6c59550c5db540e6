"""Memory of activations kept for the backward pass, measured on a trial model with few layers and narrower widths.

The bytes that autograd saves in a pass are summed for two numbers of tokens; the slope is what each token takes. It is
proportional to tokens, layers and, in the architectures listed here, widths.
"""

from __future__ import annotations

import copy

import torch
import transformers
from torch import Tensor

from accord.engine.forward import log_probabilities
from accord.engine.gpus import available
from accord.engine.models import Policy
from accord.engine.routers import COUNTS, has_experts
from accord.engine.trees import Branch, Tree, Trees
from accord.errors import InputError

LAYERS, TOKENS = 2, (16, 32)
"""Layers and numbers of tokens of the trial."""
NARROW = 4096
"""Hidden size from which on a narrower model is tried."""
PLAIN, MIXTURES = ("llama", "mistral", "qwen2", "qwen3"), ("mixtral", "olmoe", "qwen2_moe", "qwen3_moe")
"""Architectures for which a narrower trial is known to measure the same, without experts and with."""
WIDTHS = (
    "hidden_size", "intermediate_size", "moe_intermediate_size", "shared_expert_intermediate_size",
    "num_attention_heads", "num_key_value_heads",
)  # fmt: skip
"""The settings that are divided."""
TURNED = 8
"""Bytes that a token keeps once for each unit of a head's width: its rotary cosine and sine, in float32."""


def narrowed(config: transformers.PreTrainedConfig) -> tuple[int, transformers.PreTrainedConfig]:
    """The factor by which all widths of an architecture are divided for the trial, and the narrower architecture.

    What a layer of these keeps per token is proportional to its widths together, except the rotary cosines and sines,
    which all layers share. Of a mixture's experts only as many are built as a token is sent through.
    """
    config = _of_fewer_experts(config)
    text = config.get_text_config()
    if text.model_type not in (*PLAIN, *MIXTURES) or text.hidden_size < NARROW:
        return 1, config
    names = [name for name in WIDTHS if getattr(text, name, None)]
    widths = [int(getattr(text, name)) for name in names]
    times = next(k for k in (8, 4, 2, 1) if all(width % k == 0 for width in widths) and text.hidden_size // k >= 512)
    small = copy.deepcopy(config)
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    for name, width in zip(names, widths, strict=True):
        setattr(small.get_text_config(), name, width // times)
    small.get_text_config().head_dim = head
    return times, small


def _of_fewer_experts(config: transformers.PreTrainedConfig) -> transformers.PreTrainedConfig:
    if config.get_text_config().model_type not in MIXTURES or not has_experts(config):
        return config
    few = copy.deepcopy(config)
    text = few.get_text_config()
    for name in COUNTS:
        if getattr(text, name, None):
            setattr(text, name, text.num_experts_per_tok)
    return few


def make_small(config: transformers.PreTrainedConfig) -> None:
    """Reduce an architecture to `LAYERS` layers and a vocabulary of 64 tokens, in place."""
    text = config.get_text_config()
    text.num_hidden_layers, text.vocab_size = LAYERS, 64
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        setattr(text, name, None)
    if vars(text).get("layer_types"):
        text.layer_types = text.layer_types[:LAYERS]
    if getattr(text, "first_k_dense_replace", None):
        text.first_k_dense_replace = 0  # some mixtures start with dense layers; most are not


def require_room(config: transformers.PreTrainedConfig) -> None:
    """Raise InputError where the weights of an architecture's trial exceed this machine's memory."""
    with torch.device("meta"):
        network = transformers.AutoModelForCausalLM.from_config(config)
    needed, there = 4 * sum(p.numel() for p in network.parameters()), available(torch.device("cpu"))
    if needed > there:
        raise InputError(
            f"the activations of a {config.model_type} are measured on {LAYERS} of its layers, which take "
            f"{needed / 1e9:.3g} GB, and this machine has {there / 1e9:.3g}: ask on a machine with more memory."
        )


def kept_by(model: Policy) -> tuple[float, float]:
    """Bytes that a model with 64 tokens of vocabulary keeps per token for the backward pass, and bytes independent of
    tokens."""
    few, many = (_kept(model, tokens) for tokens in TOKENS)
    slope = (many - few) / (TOKENS[1] - TOKENS[0])
    return slope, few - slope * TOKENS[0]


def _kept(model: Policy, tokens: int) -> float:
    """Bytes that autograd saves in a pass over this many tokens, besides the weights."""
    half = tuple(i % 64 for i in range(tokens // 2))
    trees = Trees.of([Tree(half, (Branch(half),))], model.device)
    tensors = (*model.network.parameters(), *model.network.buffers())
    own = {tensor.untyped_storage().data_ptr() for tensor in tensors}
    seen: dict[int, Tensor] = {}

    def see(tensor: Tensor) -> Tensor:
        address = tensor.untyped_storage().data_ptr()
        if address not in own:
            seen[address] = tensor  # kept alive, so that its address is not reused
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(see, lambda tensor: tensor), model.autocast():
        log_probabilities(model.network, trees)
    return float(sum(tensor.untyped_storage().nbytes() for tensor in seen.values()))
