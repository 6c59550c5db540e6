"""Models with their tokenizers, and `Policy`, the one interface for samples and log-probabilities."""

from __future__ import annotations

import copy
import importlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from accord.engine.adapters import adapted, own_state, save_adapters
from accord.engine.fast_paths import enable_fast_paths
from accord.engine.forward import context_of, log_probabilities
from accord.engine.offload import frozen_copy
from accord.engine.precision import autocast, compute_dtype, in_dtype
from accord.engine.samplers import Sampler, local
from accord.engine.sampling import Sampling
from accord.engine.saving import write_network
from accord.engine.shard import gather_on_leader, is_sharded
from accord.engine.spaces import decoded
from accord.engine.team import Team
from accord.engine.templates import FOLD, written_date
from accord.engine.trees import Trees
from accord.engine.turns import stops_at, turn_end
from accord.engine.unread import device_of
from accord.errors import InputError
from accord.files import replacing_folder, write_sums
from accord.objectives.segments import segment_sum
from accord.records import EncodedPrompt, Sample

AnyModel = TypeVar("AnyModel", bound="Model")

SHARD = "5GB"
"""Largest size of a weights file; a larger model is split into several with an index."""

MOVED = {"load_model": "load_model", "load_scorer": "load_reward_model", "load_comparer": "load_preference_model"}
"""Functions that moved to `accord.engine.load`, with their names there; scripts still import them from here."""


def __getattr__(name: str) -> Any:
    if name not in MOVED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn(f"{__name__}.{name} is now accord.engine.load.{MOVED[name]}", DeprecationWarning, stacklevel=2)
    return getattr(importlib.import_module("accord.engine.load"), MOVED[name])


def prepare_network(network: PreTrainedModel, name: str = "") -> PreTrainedModel:
    """Prepare a network of transformers for accord, in place, and return it; preparing it again changes nothing.

    Turns dropout off, so that a run is a function of its data and seed. Enables tree attention, fused norms and the
    decode cache where a trial shows equal results (`accord.engine.fast_paths`). Removes padding_idx, so that the
    padding token's embedding is trained: accord has no padding, and the token may be the end of turn.
    """
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(module, nn.Embedding) and "Position" not in type(module).__name__:  # ProphetNet counts from it
            module.padding_idx = None
    network.config.get_text_config().attention_dropout = 0.0
    if network.base_model is network and isinstance(getattr(network, "model", None), PreTrainedModel):
        network.base_model_prefix = "model"  # Llama 4's prefix is that of its multimodal model
    if not getattr(network, "_prepared_by_accord", False):
        enable_fast_paths(network, name)
    network._prepared_by_accord = True  # type: ignore[assignment]
    return network


def vocabulary_of(tokenizer: PreTrainedTokenizerBase) -> int:
    """The number of tokens of a tokenizer, with added ones: one more than its largest token id."""
    return max(len(tokenizer), *(index + 1 for index in tokenizer.added_tokens_decoder), 0)


@dataclass
class Model:
    """A network of transformers prepared by `prepare_network`, its tokenizer, and the precision it computes in.

    Raises ValueError where the network is not prepared.
    """

    network: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str = ""
    dtype: torch.dtype = torch.float32
    """The precision of matrix products; weights may have another."""

    def __post_init__(self) -> None:
        if not getattr(self.network, "_prepared_by_accord", False):
            raise ValueError("the network is not prepared: pass it through accord.engine.models.prepare_network first")
        if self.tokenizer is not None:  # a plan's model has none
            stops_at(self.tokenizer, self._configured_ends)

    @property
    def device(self) -> torch.device:
        return device_of(self.network)

    @property
    def is_quantized(self) -> bool:
        """Whether its weights are quantized, and therefore frozen."""
        return getattr(getattr(self.network, "config", None), "quantization_config", None) is not None

    @property
    def context(self) -> int | None:
        """The most tokens that the architecture reads at once, None without a limit."""
        return context_of(self.network.config.get_text_config())

    @property
    def end(self) -> int:
        """The token that ends a turn: the one that the chat template writes after an answer, or the eos_token."""
        token = turn_end(self.tokenizer).token
        if token is None:
            raise InputError(f"the tokenizer of {self.name} has no end-of-turn token (eos_token); set one and save it.")
        return token

    @property
    def ends(self) -> tuple[int, ...]:
        """All tokens at which the model stops: `end`, the eos_token, and those of its generation configuration."""
        known = (self.end, self.tokenizer.eos_token_id, *self._configured_ends)
        return tuple(dict.fromkeys(token for token in known if token is not None and token < self.vocabulary))

    @property
    def _configured_ends(self) -> tuple[int, ...]:
        """The eos tokens of its generation configuration, or of its configuration if there is none, as for a
        classifier."""
        config = getattr(self.network, "generation_config", None) or getattr(self.network, "config", None)
        listed = getattr(config, "eos_token_id", None)
        return tuple(listed) if isinstance(listed, list | tuple) else () if listed is None else (listed,)

    @property
    def limits(self) -> dict[str, Any]:
        """Arguments of `generate` and `stream` about tokens: which end a turn, how many there are, and how to decode
        them."""
        return {"end": self.ends, "vocabulary": self.vocabulary, "to_text": self.text}

    @property
    def vocabulary(self) -> int:
        """The number of tokens; an embedding may have more rows."""
        return vocabulary_of(self.tokenizer)

    def text(self, tokens: Sequence[int], before: Sequence[int] = ()) -> str:
        """The text of a completion's tokens, without special tokens such as the end of turn.

        `before` are the tokens of a plain-text prompt that the completion continues, so that its first space is kept.
        """
        return decoded(self.tokenizer, tokens, before)

    def same_vocabulary(self, other: Model) -> bool:
        """Whether both models have the same token for every id."""
        return bool(self.tokenizer.get_vocab() == other.tokenizer.get_vocab())

    def same_tokens(self, other: Model) -> bool:
        """Whether both models read a chat as the same tokens: equal vocabulary, chat template, apart from folding, and
        date in it."""
        if not self.same_vocabulary(other) or written_date(self.tokenizer) != written_date(other.tokenizer):
            return False
        mine, others = (str(model.tokenizer.chat_template).removeprefix(FOLD) for model in (self, other))
        return mine == others

    def save(self, folder: str | Path, dtype: torch.dtype | None = None) -> Path:
        """Write network, tokenizer and chat template in Hugging Face format, atomically and synced to disk.

        Of a network with adapters only the adapters are written, in peft's format. Weights keep their precision, or are
        converted to `dtype` (`precision.held_in`). SHA256SUMS records the files' digests, so that damage is noticed on
        reading. An existing folder is replaced last. For a sharded network all ranks must call this; rank 0 writes,
        holding the weights of one file at a time.
        """
        network, team = self.network, Team.here() if is_sharded(self.network) else Team()
        if network.can_generate():  # so that other software stops at the same tokens
            network.generation_config.eos_token_id = list(self.ends) if len(self.ends) > 1 else self.end
            _make_writable(network.generation_config)
        with quiet(), ExitStack() as writing:
            partial = team.lead(lambda: writing.enter_context(replacing_folder(folder)))
            if adapted(network):
                own = gather_on_leader(own_state(network), team)
                team.lead(lambda: save_adapters(network, partial, in_dtype(network, dtype, own) if dtype else own))
            else:
                write_network(network, partial, SHARD, dtype, team=team)

            def end() -> None:
                self.tokenizer.save_pretrained(partial)
                write_sums(partial)
                writing.close()

            team.lead(end)
        return Path(folder)

    def autocast(self, *, once: bool = False) -> AbstractContextManager[object]:
        """Context in which matrix products are computed in the model's precision; enter it anew for each pass.

        With `once`, where each weight is used once, casts of a sharded network's weights are not cached, as the cache
        would hold the whole network.
        """
        return autocast(self.dtype, self.device, cached=not (once and is_sharded(self.network)))

    def in_dtype(self: AnyModel, dtype: str) -> AnyModel:
        """The same model computing in another precision: auto, float32 or bfloat16."""
        other = copy.copy(self)
        other.dtype = compute_dtype(dtype, self.device)
        return other

    def with_network(self: AnyModel, network: nn.Module) -> AnyModel:
        """The model with another network of the same vocabulary, such as a `Mixture`."""
        other = copy.copy(self)
        other.network = network  # type: ignore[assignment]
        return other

    def frozen_copy(self: AnyModel) -> AnyModel:
        """A copy for reading only, whose results equal this model's bit for bit: see `offload.frozen_copy`.

        A quantized model, which is never trained, returns itself.
        """
        return self if self.is_quantized else self.with_network(frozen_copy(self.network, self.dtype))


def _make_writable(config: GenerationConfig) -> None:
    """Set do_sample in a generation configuration that has sampling settings such as a temperature.

    Published configurations such as Llama 2's leave it out, which transformers reads but refuses to write.
    """
    try:
        config.validate(strict=True)
    except ValueError:
        config.do_sample = True


class Policy(Model):
    """A causal language model. If set, `sampler` draws its samples in place of this process."""

    sampler: Sampler | None = None

    def sampled_by(self, sampler: Sampler | None) -> Policy:
        """The same model with samples drawn by another sampler."""
        other = copy.copy(self)
        other.sampler = sampler
        return other

    def with_network(self, network: nn.Module) -> Policy:
        other = super().with_network(network)
        other.sampler = None  # it draws from the old network
        return other

    def sample(
        self,
        prompts: Sequence[EncodedPrompt],
        n: int = 1,
        sampling: Sampling | None = None,
        *,
        progress: Callable[[int], None] | None = None,
    ) -> list[Sample]:
        """n samples of every prompt, prompt after prompt, with the log-probabilities they were drawn at.

        `progress` is called with the number of samples finished since its last call. Ranks that share the network also
        share the prompts, and each gets all samples. Raises as the sampler does, or `generate`.
        """
        groups = (self.sampler or local)(self, [p.tokens for p in prompts], n, sampling, progress)
        return [
            Sample(
                p.prompt, self.text(c.tokens, p.tokens if isinstance(p.prompt.prompt, str) else ()), p.tokens, c, p.row
            )
            for p, group in zip(prompts, groups, strict=True)
            for c in group
        ]

    def log_probs(self, trees: Trees, temperature: float = 1.0) -> Tensor:
        """log pi(token | preceding tokens) of every trained token, (N,), float32 or better."""
        with self.autocast(once=True):
            return log_probabilities(self.network, trees, temperature)[0]

    def branch_log_probs(self, trees: Trees, temperature: float = 1.0, *, average: bool = False) -> Tensor:
        """log pi(completion | prompt) of every branch, (C,): the sum, or the mean, over its trained tokens."""
        total = segment_sum(self.log_probs(trees, temperature), trees.owner, trees.branches)
        return total / torch.bincount(trees.owner, minlength=trees.branches) if average else total


@contextmanager
def quiet() -> Iterator[None]:
    """Silences transformers' progress bars and advice within the context."""
    bars, level = transformers_logging.is_progress_bar_enabled(), transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()
