"""Write a network's weights in Hugging Face's layout, one file at a time.

The content of each file is planned from names, shapes and precisions alone, as in transformers: a tied weight is stored
once, a mixture's experts separately if they were read so, and files are filled in the order of names. Then the weights
of one file are gathered, rounded, written and released. So rank 0 never holds more than its share, one file and one
weight, and the files equal those of `save_pretrained` byte for byte.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_state_dict_into_shards_factory
from safetensors.torch import save_file
from torch import Tensor
from transformers.core_model_loading import revert_weight_conversion
from transformers.modeling_utils import remove_tied_weights_from_state_dict

from accord.engine.precision import require_reach, weights_to_round
from accord.engine.shard import gathered, local
from accord.engine.team import Team

INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class Layout:
    """Which file has which tensors, by name, and from which of the network's own weights each is made.

    `held` is the precision of each of the network's weights in the files, `index` the JSON index if there are several
    files.
    """

    files: Mapping[str, Sequence[str]]
    made_of: Mapping[str, tuple[str, ...]]
    held: Mapping[str, torch.dtype]
    index: Mapping[str, Any] | None

    @staticmethod
    def of(network: Any, most: int | str, dtype: torch.dtype | None = None) -> Layout:
        """The layout of a network of transformers, in files of at most `most` bytes, weights as they are or in
        `dtype`."""
        state = network.state_dict(keep_vars=True)
        rounded = {id(weight) for weight in weights_to_round(network, state).values()} if dtype else ()
        empty = {
            id(t): torch.empty(t.shape, dtype=dtype if id(t) in rounded else t.dtype, device="meta")
            for t in state.values()
        }
        own = {name: empty[id(t)] for name, t in state.items() if name not in (network._keys_to_ignore_on_save or ())}
        held = {name: tensor.dtype for name, tensor in own.items()}
        own = remove_tied_weights_from_state_dict(own, network)
        whole = revert_weight_conversion(network, dict(own))
        split = split_state_dict_into_shards_factory(  # parts of one weight, such as experts, stay together
            whole,
            get_storage_size=lambda tensor: tensor.untyped_storage().nbytes(),
            get_storage_id=lambda tensor: tensor.untyped_storage()._cdata,
            filename_pattern="model{suffix}.safetensors",
            max_shard_size=most,
        )
        total = {"total_parameters": network.num_parameters(), **split.metadata}
        index = {"metadata": total, "weight_map": split.tensor_to_filename} if split.is_sharded else None
        return Layout(split.filename_to_tensors, _made_of(network, own, whole), held, index)


def _made_of(network: Any, own: Mapping[str, Tensor], whole: Mapping[str, Tensor]) -> dict[str, tuple[str, ...]]:
    """For each stored tensor the network's weights it is made from: one, or where that is not determined, all remaining
    ones."""
    parts: dict[str, tuple[str, ...]] = {}
    rest = []
    for name, tensor in own.items():
        try:
            stored = revert_weight_conversion(network, {name: tensor})
        except Exception:  # a conversion that needs other weights too may raise anything
            stored = {}
        matching = [key for key, part in stored.items() if key in whole and whole[key].shape == part.shape]
        if stored and len(matching) == len(stored) and not any(key in parts for key in stored):
            parts |= {key: (name,) for key in stored}
        else:
            rest.append(name)
    return {key: parts.get(key, tuple(rest)) for key in whole}


def write_network(network: Any, folder: Path, most: int | str, dtype: torch.dtype | None = None, *, team: Team) -> None:
    """Write a network's configuration and weights into a folder, in files of at most `most` bytes.

    Weights are written as the network holds them, or in `dtype` as in `precision.held_in`. All ranks call this; rank 0
    writes. Raises InputError, on every rank and before any weights are written, where a number is out of `dtype`'s
    range.
    """
    _correct_ties(network)
    layout = Layout.of(network, most, dtype)
    if dtype:
        weights = weights_to_round(network, network.state_dict())
        team.on_all(lambda: require_reach(dtype, {name: local(weight) for name, weight in weights.items()}))
    team.lead(lambda: _describe(network, folder, layout))
    for file, names in layout.files.items():
        tensors = dict(_of_file(network, layout, names, team))
        team.lead(functools.partial(save_file, tensors, folder / file, {"format": "pt"}))
        del tensors  # before the next are gathered


def _describe(network: Any, folder: Path, layout: Layout) -> None:
    """Write everything but the weights: configurations, code that came with the model, and the index."""
    network.save_pretrained(folder, state_dict={})
    precision = next((layout.held[n] for n, p in network.named_parameters() if p.is_floating_point()), torch.float32)
    network.config.dtype = str(precision).removeprefix("torch.")
    network.config.save_pretrained(folder)
    if layout.index:
        (folder / INDEX).write_text(json.dumps(layout.index, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _of_file(network: Any, layout: Layout, names: Sequence[str], team: Team) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a file, on rank 0, in main memory; the other ranks only take part in gathering, one weight at a
    time."""
    state, wanted = network.state_dict(), set(names)
    for sources in dict.fromkeys(layout.made_of[name] for name in names):
        own = {}
        for source in sources:
            whole = gathered(state[source])
            if team.leads:
                own[source] = whole.to("cpu", layout.held[source])
            del whole
        if team.leads:
            stored = revert_weight_conversion(network, own)
            yield from ((name, stored[name].contiguous()) for name in stored.keys() & wanted)
            del own, stored


def _correct_ties(network: Any) -> None:
    """Untie the output layer from the embedding in the configuration where the network has another weight for each.

    transformers keeps both of a file whose configuration ties them; other software goes by the configuration.
    """
    weights = [getattr(e, "weight", None) for e in (network.get_input_embeddings(), network.get_output_embeddings())]
    if not any(weight is None for weight in weights) and weights[0] is not weights[1]:
        for config in (network.config, network.config.get_text_config()):
            config.tie_word_embeddings = False
