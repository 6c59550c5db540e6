"""Checks that a model is of a usable kind: by its configuration, and after loading by its weights."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
import transformers
from torch import Tensor, nn
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.quantizers import AutoHfQuantizer

from accord.engine.wrappers import senses, text_config
from accord.errors import InputError, located

if TYPE_CHECKING:
    from accord.engine.config import TrainingConfig

HEADS = ("lm_head.", "score.", "v_head.", "classifier.", "reader.")
"""Prefixes of other heads on the same trunk, which a folder may hold; ignored, or read by `accord.engine.personal`."""


class WritesNoText(InputError):
    """The model to be used as a language model is a reward or preference model."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"{name} is a reward or preference model, not a language model: it scores texts and writes none."
        )


def quantization(config: Any) -> str | None:
    """The quantization method of a configuration's weights; None where they are not quantized."""
    settings = getattr(config, "quantization_config", None)
    if not settings:
        return None
    values = settings if isinstance(settings, dict) else getattr(settings, "__dict__", {})
    method = values.get("quant_method", "an unnamed method")
    return str(getattr(method, "value", method))


def check_trainable(name: str, config: Any, lora_rank: int) -> None:
    """Raise InputError where weights are quantized, unless in 4 bits by bitsandbytes and with adapters to be
    trained."""
    method = quantization(config)
    if method is None or (lora_rank and in_4_bits(config)):
        return
    raise InputError(
        f"{name} is quantized ({method}): such a model can be a reference, a reward or a judge, but cannot be trained; "
        "train the model that it was made from"
        + (", or adapters on this one (--lora-rank)." if in_4_bits(config) else " (--quantize holds it in few bits).")
    )


def check_quantized(name: str, config: Any, method: str, trained: TrainingConfig | None) -> None:
    """Raise InputError where weights quantized by this method cannot be read, or cannot be trained as asked."""
    if trained:
        check_trainable(name, config, trained.lora_rank)
    if not AutoHfQuantizer.supports_quant_method(config.to_dict()["quantization_config"]):
        raise InputError(f"{name} is quantized ({method}), in a way that transformers does not read.")


def require_few_bits(name: str, network: nn.Module) -> None:
    """Raise InputError where no weight is in few bits, though the configuration says so of bitsandbytes."""
    if not {p.dtype for p in network.parameters()} & {torch.uint8, torch.int8}:
        raise InputError(
            f"{name} is quantized (bitsandbytes) by its config.json, and its weights are not: take quantization_config "
            "out of that file, or copy the folder anew."
        )


def in_4_bits(config: Any) -> bool:
    """Whether weights are quantized by bitsandbytes in 4 bits, on which adapters can be trained."""
    settings = getattr(config, "quantization_config", None)
    values = settings if isinstance(settings, dict) else getattr(settings, "__dict__", {})
    four = values.get("load_in_4bit", values.get("_load_in_4bit", False))
    return quantization(config) == "bitsandbytes" and bool(four)


def check_kind(name: str, kind: Any, config: transformers.PreTrainedConfig, remote: bool = False) -> None:
    """Raise InputError where a configuration does not suit the transformers class `kind`.

    Also raised for an architecture that only code in the model's folder defines, unless `remote`: a known model_type
    may be under a head of another kind, as ArmoRM's is.
    """
    known = [a for a in config.architectures or () if hasattr(transformers, a)]
    if config.architectures and not known and getattr(config, "auto_map", None) and not remote:
        raise InputError(
            f"{name} is a {', '.join(config.architectures)}, which needs code that comes with it, and commands "
            "do not run it; load_model or load_reward_model(..., trust_remote_code=True) in Python does, for models "
            "you trust."
        )
    scores = any("SequenceClassification" in architecture for architecture in known)
    if kind is transformers.AutoModelForSequenceClassification and known and not scores:
        raise no_classifier(name, config)
    if kind is not transformers.AutoModelForCausalLM:
        return
    if scores:
        raise WritesNoText(name)
    is_a = f"{name} is a {', '.join(known) or config.model_type}"
    if config.model_type == "reformer":
        raise InputError(f"{is_a}, whose attention hashes at random, so that a text has no certain probability.")
    if config.is_encoder_decoder:
        raise InputError(f"{is_a}, an encoder-decoder model, and accord reads only decoder-only ones.")
    if senses(config):
        with located(f"{is_a}, which "):
            text_config(config)
        if quantization(config):
            raise InputError(
                f"{is_a}, which reads {senses(config)} too and is quantized ({quantization(config)}), and its language "
                "model cannot be taken out of that: give the one in full."
            )
        return
    writers = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()
    if known and not any(architecture in writers for architecture in known):
        raise InputError(f"{is_a}, which is not a causal language model.")


def no_classifier(name: str, config: transformers.PreTrainedConfig) -> InputError:
    """The error for a model of this configuration that is neither a reward model nor a preference model."""
    kind, labels = ", ".join(config.architectures or ["model"]), len(config.id2label or ())
    instead = "or a preference model with `accord preference`"
    if kind.endswith("ForCausalLM"):
        instead = f"or let the language model judge, as ai:{name}"
    return InputError(
        f"{name} is not a reward model: it must be a sequence classifier with one label, and is a {kind} with "
        f"{labels}; train one with `accord reward`, {instead}."
    )


def check_loaded(
    name: str,
    network: transformers.PreTrainedModel,
    tokenizer: transformers.PreTrainedTokenizerBase,
    info: dict[str, Any],
    bad: Sequence[str],
) -> None:
    """Raise InputError where weights are missing, left over, of the wrong shape or not finite (those named in `bad`),
    or where tokens lack an embedding row."""
    for missing in sorted(info["missing_keys"])[:1]:
        for key in (key for key in info["unexpected_keys"] if key.endswith(f".{missing}")):
            prefix = key.removesuffix(missing)
            raise InputError(
                f"the model {name} has {key} in place of {missing}: it was saved inside a wrapper, as by torch.compile "
                f"or peft; remove {prefix} from the names of its weights."
            )
    for fault, keys, remedy in (
        ("lacks the weight", info["missing_keys"], "copy it anew"),
        ("has another shape than its config.json says for", info["mismatched_keys"], "restore the file that is wrong"),
        (
            "has no place for the weight",
            _left_over(network, info["unexpected_keys"]),
            "restore the config.json it was saved with",
        ),
        ("has numbers that are not finite in", bad, "copy it anew, or take an earlier checkpoint"),
    ):
        names = sorted(key if isinstance(key, str) else key[0] for key in keys)
        if names:
            more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
            raise InputError(f"the model {name} {fault} {names[0]}{more}: {remedy}.")
    ends = getattr(getattr(network, "generation_config", None), "eos_token_id", None)
    for end in ends if isinstance(ends, list) else [ends]:
        if not (end is None or type(end) is int):
            raise InputError(
                f"{name}/generation_config.json: eos_token_id must be the number of a token, or a list of such, not "
                f"{end!r}: restore it."
            )
    require_rows(name, network, tokenizer)


def require_rows(
    name: str, network: transformers.PreTrainedModel, tokenizer: transformers.PreTrainedTokenizerBase
) -> None:
    """Raise InputError where a tokenizer has more tokens than the model's embedding has rows."""
    rows = network.get_input_embeddings().weight.shape[0]  # type: ignore[index, union-attr]
    if len(tokenizer) > rows:
        raise InputError(
            f"the tokenizer of {name} has {len(tokenizer)} tokens and the model's embedding {rows}: grow it "
            "(resize_token_embeddings of transformers) and save it, or give the tokenizer it was trained with."
        )


def other_heads(network: nn.Module) -> tuple[str, ...]:
    """The prefixes of `HEADS` that the network has no module for."""
    return tuple(head for head in HEADS if not hasattr(network, head.removesuffix(".")))


def _left_over(network: nn.Module, keys: Iterable[str]) -> list[str]:
    return [key for key in keys if not key.startswith(other_heads(network))]


def not_finite(network: nn.Module) -> list[str]:
    """The names of floating-point weights that hold NaN or infinity."""
    plain = (torch.float32, torch.bfloat16, torch.float16)
    named = [(n, p.data) for n, p in network.named_parameters() if type(p.data) is Tensor and p.dtype in plain]
    # A finite sum proves finite values at low cost; only others, which may also have overflowed, are checked in full.
    suspects = [(n, p) for n, p in named if not bool(p.sum(dtype=torch.float32).isfinite())]
    return [n for n, p in suspects if not bool(p.isfinite().all())]
