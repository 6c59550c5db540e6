"""What transformers leaves out of GGUF files: the scaling of rotary positions, and tensors that it has no name for."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import nn

from accord.errors import InputError

ELSEWHERE = "give the folder of safetensors that it was made from"

LLAMA_3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
"""The scaling of Llama 3.1 to 3.3, whose files hold only what it comes to, as `rope_freqs.weight`."""


def add_scaling(config: Any, file: Path) -> None:
    """Set in a configuration, which transformers read from a GGUF file, the scaling of rotary positions in that file.

    Raises InputError where there is a scaling that is not known here.
    """
    import gguf

    reader = gguf.GGUFReader(file)
    scaling = {key.partition(".rope.scaling.")[2]: field.contents() for key, field in reader.fields.items()}
    scaling = {key: value for key, value in scaling.items() if key and key != "finetuned"}
    kind, factor = scaling.pop("type", "linear" if scaling else "none"), scaling.pop("factor", 1.0)
    original = scaling.pop("original_context_length", None)
    rope = dict(getattr(config, "rope_parameters", None) or {})
    parts = [rope["full_attention"]] if "full_attention" in rope else [rope]  # Gemma 3 scales those layers alone
    factors = {t.name: torch.from_numpy(t.data.copy()) for t in reader.tensors if t.name.startswith("rope_f")}
    freqs = factors.pop("rope_freqs.weight", None)
    if factors or scaling or kind not in ("none", "linear", "yarn") or not rope:
        if factors or kind != "none":
            raise InputError(f"{file} scales its positions in a way that is not read from GGUF files: {ELSEWHERE}.")
    elif freqs is not None and not bool((freqs == 1).all()):
        scaled = {**rope, "rope_type": "llama3", "factor": float(freqs.max()), **LLAMA_3}
        if kind != "none" or not torch.allclose(freqs, llama3_factors(scaled, 2 * len(freqs)), rtol=1e-4):
            raise InputError(f"{file} has other rope_freqs than Llama 3's, which are not read: {ELSEWHERE}.")
        rope |= scaled
    elif kind != "none" and factor != 1:
        for part in parts:
            part |= {"rope_type": kind, "factor": float(factor)}
            if kind == "yarn" and original:
                part["original_max_position_embeddings"] = int(original)
    if rope:
        config.rope_parameters = rope


def llama3_factors(rope: dict[str, Any], width: int) -> torch.Tensor:
    """By what Llama 3 divides the frequencies of a head of so many dimensions, (width / 2,).

    Wavelengths up to L / high are kept, those beyond L / low divided by the factor, and between them 1 / divisor goes
    linearly in L / wavelength from 1 / factor to 1 (L the original context).
    """
    lengths = 2 * math.pi * rope["rope_theta"] ** (torch.arange(0, width, 2) / width)
    low, high, factor = rope["low_freq_factor"], rope["high_freq_factor"], rope["factor"]
    share = ((rope["original_max_position_embeddings"] / lengths - low) / (high - low)).clamp(0, 1)
    return 1 / ((1 - share) / factor + share)


def require_read(network: nn.Module, file: Path) -> None:
    """Raise InputError where a GGUF file holds more numbers than the network that transformers read from it."""
    import gguf

    weights = {id(weight): weight for weight in network.state_dict(keep_vars=True).values()}
    embedding, head = network.get_input_embeddings(), network.get_output_embeddings()  # type: ignore[operator]
    own = {"output.weight"} if head is not None and head.weight is embedding.weight else set()
    tensors = [t for t in gguf.GGUFReader(file).tensors if not t.name.startswith("rope_f") and t.name not in own]
    held, read = sum(int(t.n_elements) for t in tensors), sum(weight.numel() for weight in weights.values())
    if held > read:
        raise InputError(
            f"{file} holds {held:,} weights, and transformers reads only {read:,} of them, as a "
            f"{type(network).__name__}: {ELSEWHERE}."
        )
