"""Small random models of several architectures, random trees, and what plain transformers makes of their branches."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import (
    BloomConfig,
    CohereConfig,
    DeepseekV3Config,
    Gemma2Config,
    GPT2Config,
    GraniteConfig,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    OPTConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen3Config,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from accord.engine.models import Policy, prepare_network
from accord.engine.tiles import BLOCK
from accord.engine.trees import Branch, Tree
from tests import on_device

VOCABULARY = 13
END = 0

SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
GEMMA: dict[str, Any] = {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0, "query_pre_attn_scalar": 4}
LATENT: dict[str, Any] = {
    **SIZES,
    "num_key_value_heads": 4,
    "q_lora_rank": 8,
    "kv_lora_rank": 8,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4,
    "v_head_dim": 6,
    "first_k_dense_replace": 2,
}


def random_model(config: PreTrainedConfig, seed: int = 1, dtype: torch.dtype = torch.float64) -> PreTrainedModel:
    """A causal language model whose every weight is drawn from N(0, .2^2), with transformers' own plain attention."""
    network: PreTrainedModel = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)](config)
    return randomize(network, seed).to(on_device.DEVICE, dtype).eval()


def randomize(network: nn.Module, seed: int) -> Any:
    """The network, with new weights."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return network


def _config(kind: Callable[..., PreTrainedConfig], **sizes: Any) -> Callable[[], PreTrainedConfig]:
    common = {"vocab_size": VOCABULARY, "bos_token_id": None, "eos_token_id": END, "pad_token_id": None}
    lengths = {"n_positions": 512} if kind is GPT2Config else {"max_position_embeddings": 512}
    return lambda: kind(**common, **lengths, **sizes, attn_implementation="eager")


CONFIGS: dict[str, Callable[[], PreTrainedConfig]] = {
    "llama": _config(LlamaConfig, **SIZES),
    "qwen3": _config(Qwen3Config, **SIZES, head_dim=8),
    "mistral": _config(MistralConfig, **SIZES, sliding_window=4),
    "gemma2": _config(Gemma2Config, **SIZES, **GEMMA, sliding_window=4, head_dim=4),
    "gpt2": _config(GPT2Config, n_embd=16, n_layer=2, n_head=4),
    "cohere": _config(CohereConfig, **SIZES, logit_scale=0.5),
    "granite": _config(GraniteConfig, **SIZES, logits_scaling=2.0),
    "deepseek_v3": _config(DeepseekV3Config, **LATENT),
    "opt": _config(
        OPTConfig, hidden_size=16, ffn_dim=24, num_hidden_layers=2, num_attention_heads=4, word_embed_proj_dim=16
    ),
    "mamba": _config(MambaConfig, hidden_size=16, state_size=4, num_hidden_layers=2),
    "bloom": _config(BloomConfig, hidden_size=16, n_layer=2, n_head=4),
}
"""Grouped queries; normed queries; sliding windows; soft caps; learned positions in float64 throughout; scaled logits;
values narrower than keys; and two that cannot take trees, a state-space model and attention biased by distance."""


def policy_of(network: PreTrainedModel) -> Policy:
    """A policy for what never reads text: of a tokenizer it has the special tokens alone."""
    tokenizer: Any = SimpleNamespace(
        eos_token_id=END, eos_token="end", pad_token_id=None, pad_token=None, unk_token=None
    )
    return Policy(prepare_network(network), tokenizer, "random")


def plain_log_probabilities(network: nn.Module, trees: Sequence[Tree]) -> Tensor:
    """log p of every trained token, (N,): every branch after its prompt in a forward of its own."""
    logps = []
    for tree in trees:
        for branch in tree.branches:
            tokens = torch.tensor([tree.prompt + branch.tokens])
            logits = network(input_ids=tokens, use_cache=False).logits[0]
            for j, token in enumerate(branch.tokens):
                place = len(tree.prompt) + j
                if place > 0 and (branch.trained is None or branch.trained[j]):
                    logps.append(logits[place - 1].log_softmax(-1)[token])
    return torch.stack(logps)


def token_lists(least: int, most: int) -> st.SearchStrategy[tuple[int, ...]]:
    return st.lists(st.integers(0, VOCABULARY - 1), min_size=least, max_size=most).map(tuple)


@st.composite
def tree_lists(draw: st.DrawFn, least: int = 1, most: int = 4, branches: int | None = None) -> list[Tree]:
    """Ragged trees of 1 to 3 branches (or so many) of 1 to 6 tokens; prompts may be empty, and tokens untrained."""
    trees = []
    for row in range(draw(st.integers(least, most))):
        grown = []
        for _ in range(branches or draw(st.integers(1, 3))):
            tokens = draw(token_lists(1, 6))
            flags = draw(st.none() | st.lists(st.booleans(), min_size=len(tokens), max_size=len(tokens)).map(tuple))
            grown.append(Branch(tokens, flags))
        trees.append(Tree(draw(token_lists(0, 6)), tuple(grown), tuple(range(len(grown))), row))
    return trees


EXACT = {"gpt2": 1e-10}  # the other architectures compute norms or softmax in float32, whatever their weights


def ragged_trees() -> list[Tree]:
    """Prompts and branches short and longer than a block, an empty prompt, a branch twice, untrained tokens."""
    rng = random.Random(0)

    def tokens(length: int) -> tuple[int, ...]:
        return tuple(rng.randrange(VOCABULARY) for _ in range(length))

    twice = Branch(tokens(4))
    alternating = Branch(tokens(9), (True, False, True, False, True, False, True, False, True))
    return [
        Tree(tokens(5), (Branch(tokens(7)), Branch(tokens(3)))),
        Tree((), (Branch(tokens(6)),)),
        Tree(tokens(1), (twice, Branch(tokens(BLOCK + 20)), twice)),
        Tree(tokens(BLOCK + 10), (Branch(tokens(1)), alternating)),
    ]
