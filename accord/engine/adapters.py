"""The state, copies and files of networks with adapters, in peft's format.

All copies of a network (reference, best checkpoint, snapshots) share its own weights, which stay frozen; each copy has
its own adapters. `accord.engine.lora` adds the adapters.
"""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from accord.engine.quantize import few_bits
from accord.engine.shard import local, shard_like
from accord.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


PREFIX, OWN = "base_model.model.", ".default"
"""What peft prepends to the names of weights in a file, and inserts into those of a network."""
WEIGHTS, CONFIG, LABELS = "adapter_model.safetensors", "adapter_config.json", "labels.json"


def peft() -> Any:
    """The peft package. Raises InputError where it is not installed."""
    try:
        import peft
    except ImportError:
        raise InputError("adapters (LoRA) need the lora extra: pip install 'peft<0.22'.") from None
    return peft


def adapted(network: nn.Module) -> bool:
    """Whether the network has adapters, so that only they are trained."""
    return getattr(network, "_adapter", None) is not None


def own_state(network: nn.Module) -> dict[str, Tensor]:
    """The tensors in which the network differs from its base: adapters and head, or without adapters all of its state.

    Tied weights occur once. For a sharded network the tensors are this rank's shares.
    """
    tensors = network.state_dict(keep_vars=True)
    if adapted(network):
        own = {name for name in tensors if "lora_" in name or name.startswith("score.")}
    else:  # ties are found by identity, not by address: an empty share has none
        own = set({id(tensor): name for name, tensor in reversed(tensors.items())}.values())
    return {name: tensor.detach() for name, tensor in tensors.items() if name in own}


def load_own_state(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Load into a network, in place, the `own_state` of another with the same base."""
    with torch.no_grad():
        for name, tensor in own_state(network).items():
            tensor.copy_(shard_like(tensors[name], tensor))


@contextmanager
@torch.no_grad()
def exchanged_state(network: nn.Module, tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """Within the context, the network's `own_state` and `tensors` are exchanged, in place.

    Takes extra memory for one tensor only. For a sharded network both are shares.
    """

    def exchange() -> None:
        for name, tensor in own_state(network).items():
            own, other = local(tensor), local(tensors[name])
            before = own.clone()
            own.copy_(other)
            other.copy_(before)

    exchange()
    try:
        yield
    finally:
        exchange()


def copy_sharing_base(network: Any, copied: Mapping[int, nn.Parameter] | None = None) -> Any:
    """A copy of the network, sharing the weights that adapters leave frozen and those in few bits.

    `copied` holds copies of weights that exist already, by the id of the original.
    """
    own = own_state(network) if adapted(network) else {}
    shared: list[Any] = [p for name, p in network.named_parameters() if name not in own] if own else []
    shared += [part for layer in few_bits(network) for part in (layer.qweight, layer.state)]
    return copy.deepcopy(network, {**(copied or {}), **{id(p): p for p in shared}})


def save_adapters(network: nn.Module, folder: Path, whole: Mapping[str, Tensor] | None = None) -> None:
    """Write the adapters as peft does: `adapter_model.safetensors` and `adapter_config.json`.

    Where the network started from a model with an adapter of its own, both are written as one, whose rank is the sum.
    `whole` is the gathered `own_state` of a sharded network.
    """
    lora: Any = network._adapter
    own = own_state(network) if whole is None else whole
    tensors = {_in_file(name): tensor.detach().cpu().contiguous() for name, tensor in own.items()}
    start = getattr(network, "_merged", None)
    if start is not None:
        dtype = next(iter(tensors.values())).dtype
        lora, tensors = joined(network, read_lora(start), (lora, tensors))
        tensors = {name: tensor.to(dtype) for name, tensor in tensors.items()}
    config = {**lora.to_dict(), "inference_mode": True}
    (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True, default=sorted), encoding="utf-8")
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    if hasattr(network, "score"):  # in a separate file: given a config.json, transformers would look for full weights
        names = [network.config.id2label[i] for i in range(len(network.score.weight))]  # type: ignore
        (folder / LABELS).write_text(json.dumps(names), encoding="utf-8")


def joined(network: nn.Module, *parts: tuple[Any, dict[str, Tensor]]) -> tuple[Any, dict[str, Tensor]]:
    """Adapters of one network combined into one whose update is their sum: A = [A_1; A_2], B = [s_1 B_1, s_2 B_2], s =
    1.

    A layer that only one of them has gets zeros for the other; one that none has is excluded by its name.
    """
    stems = sorted({name.rsplit(".lora_", 1)[0] for _, tensors in parts for name in tensors if ".lora_" in name})
    whole = {name: tensor for _, tensors in parts for name, tensor in tensors.items() if ".lora_" not in name}
    for stem in stems:
        down, up = f"{stem}.lora_A.weight", f"{stem}.lora_B.weight"
        [like_a, like_b, *_] = [tensors[name] for _, tensors in parts if down in tensors for name in (down, up)]
        a = [t.get(down, like_a.new_zeros(lora.r, like_a.shape[1])) for lora, t in parts]
        b = [scale(lora) * t.get(up, like_b.new_zeros(like_b.shape[0], lora.r)) for lora, t in parts]
        whole |= {down: torch.cat(a), up: torch.cat(b, 1)}
    rank, last = sum(lora.r for lora, _ in parts), parts[-1][0]
    names = sorted({stem.rsplit(".", 1)[-1] for stem in stems})
    out = {name for name, _ in network.named_modules() if name.rsplit(".", 1)[-1] in names}
    out -= {stem.removeprefix(PREFIX) for stem in stems}
    given = {"target_modules": names, "exclude_modules": sorted(out) or None}
    return replace(last, r=rank, lora_alpha=rank, use_rslora=False, **given), whole


def scale(lora: Any) -> float:
    """The factor s of a LoRA's product: alpha / r, or alpha / sqrt(r) with rsLoRA."""
    return float(lora.lora_alpha / (lora.r**0.5 if lora.use_rslora else lora.r))


def read_lora(folder: Path) -> tuple[Any, dict[str, Tensor]]:
    """The configuration and weights of a plain LoRA. Raises InputError where the folder holds another kind of
    adapter."""
    config, tensors = peft().PeftConfig.from_pretrained(str(folder)), load_file(folder / WEIGHTS)
    is_plain = config.peft_type == "LORA" and not config.use_dora and config.bias == "none"
    is_plain = is_plain and not isinstance(config.exclude_modules, str)  # a regular expression
    is_plain = is_plain and not (config.rank_pattern or config.alpha_pattern or config.target_parameters)
    if not is_plain or any(
        not name.endswith((".lora_A.weight", ".lora_B.weight", ".score.weight")) for name in tensors
    ):
        raise InputError(f"{folder} holds an adapter that cannot be combined with others: merge it (accord merge).")
    return config, tensors


def labels_in(folder: Path) -> dict[int, str]:
    """The labels of a classifier's adapter, by index. Raises InputError where it has no head."""
    if (folder / LABELS).exists():
        return dict(enumerate(json.loads((folder / LABELS).read_text(encoding="utf-8"))))
    heads = [tensor for name, tensor in load_file(folder / WEIGHTS).items() if name.endswith("score.weight")]
    if not heads:
        raise InputError(f"{folder} holds the adapter of a classifier without its head (score.weight).")
    return {i: f"LABEL_{i}" for i in range(len(heads[0]))}


def read_config(folder: Path) -> dict[str, Any]:
    """The `adapter_config.json` of a folder."""
    return dict(json.loads((folder / CONFIG).read_text(encoding="utf-8")))


def _in_file(name: str) -> str:
    name = name.replace(OWN, "")
    return PREFIX + (name.removesuffix(".weight") if "lora_magnitude_vector" in name else name)


def read_adapters(network: nn.Module, folder: Path) -> None:
    """Load into a network with adapters those that `save_adapters` wrote."""
    lora: Any = network._adapter
    tensors = load_file(folder / WEIGHTS)
    state = {name: tensors[_in_file(name)] for name in own_state(network)}
    if getattr(network, "_merged", None) is not None:  # its own part comes after the merged one's
        for name, tensor in state.items():
            if ".lora_A." in name:
                state[name] = tensor[-lora.r :]
            elif ".lora_B." in name:
                state[name] = tensor[:, -lora.r :] / scale(lora)
    load_own_state(network, state)


def _require_all_loaded(both: Any, folder: Path, lacks: bool) -> None:
    """Raise ValueError where peft, which only warns, left out weights of a folder's adapter, as of another network, or
    initialized missing ones. `lacks` is whether the adapter had no weights for some layer."""
    names = set(peft().get_peft_model_state_dict(both))
    stored = load_file(folder / WEIGHTS).keys()
    lost = sorted(stored - names)
    if lost and (lacks or stored & names):  # peft may rename them
        raise ValueError(f"that has no place for {lost[0]}")
    if lacks:
        raise ValueError(f"it lacks {min(names - stored, default='weights of layers that its configuration names')}")


def _loaded_by_own_names(both: Any, folder: Path) -> bool:
    """Load a folder's adapter by the names of the network's own weights, if they are the same; returns whether they
    are. peft renames some of them, as transformers does those in older files, and then misses them (Laguna, Inkling
    2)."""
    tensors = load_file(folder / WEIGHTS)
    own = {_in_file(n.removeprefix(PREFIX)): p.data for n, p in both.named_parameters() if "lora_" in n}
    if {name: p.shape for name, p in own.items()} != {name: tensor.shape for name, tensor in tensors.items()}:
        return False
    for name, p in own.items():
        p.copy_(tensors[name])
    return True


def _require_own_weights(both: Any) -> None:
    """Raise ValueError where layers with adapters of their own share a weight, as in Zamba: merging would add both."""
    layers = [m for m in both.modules() if isinstance(m, peft().tuners.tuners_utils.BaseTunerLayer)]
    layers = [m for m in layers if not getattr(m, "tied_adapter", None)]  # that trains the rows of a tied embedding
    weights = [id(weight) for m in layers if (weight := getattr(m.get_base_layer(), "weight", None)) is not None]
    if len(set(weights)) < len(weights):
        raise ValueError("it has several adapters for one weight that layers share, which merging would add up")


def _untie(network: PreTrainedModel) -> None:
    """Untie the output layer from the embedding where an adapter changes only one of them, or each differently."""
    tuners: Any = peft().tuners
    layers: list[Any] = [network.get_input_embeddings(), network.get_output_embeddings()]
    own = [layer for layer in layers if isinstance(layer, tuners.tuners_utils.BaseTunerLayer)]
    is_of_tokens = isinstance(layers[0], tuners.trainable_tokens.layer.TrainableTokensLayer)  # which peft keeps tied
    if own and not is_of_tokens and None not in layers and layers[0].weight is layers[1].weight:
        head = layers[1].get_base_layer() if layers[1] in own else layers[1]
        head.weight = nn.Parameter(head.weight.detach().clone())
        network.config.tie_word_embeddings = False


def _grow(network: PreTrainedModel, folder: Path) -> None:
    """Resize the embedding and the output layer to the rows of an adapter that holds them whole, because tokens were
    added or padding was cut off before it was trained, or that holds all the rows that were added.

    Raises ValueError where it trains tokens that were added, and lacks some of their rows.
    """
    embedding: Any = network.get_input_embeddings()
    head: Any = network.get_output_embeddings()
    config = read_config(folder)
    is_tied = head is None or head.weight is embedding.weight
    is_one = head is None or (is_tied and config.get("ensure_weight_tying"))
    called = {id(module): name for name, module in network.named_modules()}
    with safe_open(folder / WEIGHTS, "pt") as opened:
        names = set(opened.keys())
        rows = []
        for layer in {id(layer): layer for layer in (embedding, head) if layer is not None}.values():
            stem = f"{PREFIX}{called[id(layer)]}."
            held = sorted(names & {f"{stem}weight", f"{stem}modules_to_save.weight"})
            rows += [opened.get_slice(name).get_shape()[0] for name in held[:1]]
    if len(set(rows)) == 1 and rows[0] != len(embedding.weight) and (is_one or len(rows) == 2):
        network.resize_token_embeddings(rows[0], mean_resizing=False)
        return
    last_parts = [called[id(layer)].rsplit(".", 1)[-1] for layer in ([embedding] if is_tied else [embedding, head])]
    given = config.get("trainable_token_indices") or {}
    given = given if isinstance(given, dict) else {last_parts[0]: given}
    tokens = {name.rsplit(".", 1)[-1]: set(some) for name, some in given.items()}
    added = set(range(len(embedding.weight), max(set().union(*tokens.values()), default=-1) + 1))
    if any(added - tokens.get(name, set()) for name in last_parts):
        raise ValueError(
            f"that has {len(embedding.weight):,} rows of tokens, and the adapter, which trains token {max(added)}, "
            "lacks rows that were added: merge it where it was trained"
        )
    if added:
        network.resize_token_embeddings(max(added) + 1, mean_resizing=False)


def merged(network: PreTrainedModel, folder: Path, name: str) -> PreTrainedModel:
    """The network with a folder's adapters, of any kind that peft can merge, added to its own weights.

    Raises InputError where they do not fit.
    """
    kind, known = read_config(folder).get("peft_type"), peft().PeftType.__members__
    if kind not in known:
        raise InputError(
            f"{name}/adapter_config.json names the peft_type {kind!r}, which peft {peft().__version__} does not know: "
            "restore it, or merge it with the peft that wrote it."
        )
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            _grow(network, folder)
            both = peft().PeftModel.from_pretrained(network, str(folder))
            if not hasattr(both.base_model, "merge_and_unload"):
                raise ValueError(f"it is a {read_config(folder)['peft_type']}, which adds nothing to weights")
            lacks = any("missing adapter keys" in str(each.message) for each in caught)
            _require_all_loaded(both, folder, lacks and not _loaded_by_own_names(both, folder))
            if getattr(both.peft_config["default"], "layer_replication", None):
                raise ValueError("its layers are repeated (layer_replication), which no model folder can hold")
            _untie(network)
            _require_own_weights(both)
            whole = both.merge_and_unload()
        whole._merged = folder
        return whole.requires_grad_(True).eval()  # type: ignore[no-any-return]
    except (ValueError, RuntimeError, KeyError, TypeError) as error:
        first, *rest = (str(error).strip() or type(error).__name__).splitlines()
        message = rest[0].strip() if first.endswith(":") and rest else first  # torch prints a line per weight
        if isinstance(error, TypeError):
            message = f"a setting of its adapter_config.json cannot be used ({message})"
        raise InputError(f"the adapter {name} does not fit its base model: {message}") from error
