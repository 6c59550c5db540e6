"""Load models by folder, file, Hub name or short name: safetensors and GGUF; a model's own code only if allowed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import transformers

from accord.engine.adapters import adapted, load_own_state, own_state, read_adapters
from accord.engine.classifiers import PreferenceNetwork, Scorer, preference_labels
from accord.engine.encoders import Encoder, reads_last_token
from accord.engine.folders import has_tokenizer, require_as_written, require_files
from accord.engine.kinds import no_classifier
from accord.engine.models import AnyModel, Model, Policy
from accord.engine.networks import read_network, read_tokenizer, source_of
from accord.engine.personal import PersonalPreference, PersonalScorer
from accord.engine.precision import compute_dtype
from accord.engine.reading import readable
from accord.engine.shard import shard, unsharded_class
from accord.engine.team import Team
from accord.engine.unread import device_of, read_whole, unread
from accord.errors import InputError

if TYPE_CHECKING:
    from accord.engine.config import TrainingConfig


def load_model(
    name: str,
    *,
    device: str | None = None,
    dtype: str = "float32",
    trust_remote_code: bool = False,
    trained: TrainingConfig | None = None,
    in_shares: bool = False,
) -> Policy:
    """A causal language model and its tokenizer, with float32 weights, or as they were quantized.

    Args:
        name: a folder, a GGUF file, a Hugging Face Hub name, or `smollm2` for SmolLM2-135M-Instruct.
        device: "cpu", "cuda", "cuda:1", ...; by default CUDA where available.
        dtype: the precision it computes in: float32, bfloat16, or auto for bfloat16 where the processor has it.
        trust_remote_code: run code that comes with the model; only for models you trust.
        trained: the settings that it will be trained with, if any, which may call for weights in few bits.
        in_shares: with several ranks, which must all set it, leave the weights in their files until the network is
            sharded (`accord.engine.unread`); no effect in a single process.

    Raises:
        InputError: there is no such model, or it is a reward or preference model.
    """
    kind = transformers.AutoModelForCausalLM
    network, tokenizer = read_network(kind, name, device, trust_remote_code, trained, in_shares=in_shares)
    return Policy(network, tokenizer, name, compute_dtype(dtype, device_of(network)))


def load_reward_model(
    name: str,
    *,
    device: str | None = None,
    dtype: str = "float32",
    trust_remote_code: bool = False,
    in_shares: bool = False,
) -> Scorer | Encoder:
    """A reward model: a sequence classifier with one label; an `Encoder` where it reads more than the last token.

    Raises InputError where there is no such model, or it is not a classifier with one label.
    """
    model = load_classifier(name, device=device, dtype=dtype, trust_remote_code=trust_remote_code, in_shares=in_shares)
    if isinstance(model, PreferenceNetwork):
        raise InputError(
            f"{name} is a preference model, which compares two completions and gives neither a reward of its own; "
            "give the folder of a reward model, or use this one as a judge."
        )
    return model


def load_preference_model(
    name: str,
    *,
    device: str | None = None,
    dtype: str = "float32",
    trust_remote_code: bool = False,
    in_shares: bool = False,
) -> PreferenceNetwork:
    """A preference model: a sequence classifier with the labels that `accord preference` gives it.

    Raises InputError where there is no such model, or it is not a preference model.
    """
    model = load_classifier(name, device=device, dtype=dtype, trust_remote_code=trust_remote_code, in_shares=in_shares)
    if not isinstance(model, PreferenceNetwork):
        raise InputError(f"{name} is a reward model, not a preference model; train one with `accord preference`.")
    return model


def load_classifier(
    name: str,
    *,
    device: str | None = None,
    dtype: str = "float32",
    trust_remote_code: bool = False,
    in_shares: bool = False,
) -> Scorer | PreferenceNetwork | Encoder:
    """A reward model or a preference model, by the labels that its configuration names.

    Raises InputError where there is no such model, or it is neither.
    """
    kind = transformers.AutoModelForSequenceClassification
    network, tokenizer = read_network(kind, name, device, trust_remote_code, in_shares=in_shares)
    labels = sorted((network.config.id2label or {}).values())
    precision = compute_dtype(dtype, device_of(network))
    if not reads_last_token(network) and len(labels) == 1:
        return Encoder(network, tokenizer, name, precision)
    if len(labels) == 1:
        scorer = PersonalScorer if hasattr(network, "reader") else Scorer
        return scorer(network, tokenizer, name, precision)
    if labels == sorted(preference_labels(len(labels) // 2)):
        comparer = PersonalPreference if hasattr(network, "reader") else PreferenceNetwork
        return comparer(network, tokenizer, name, precision)
    raise no_classifier(name, network.config)


def for_leader(load: Callable[..., AnyModel], name: str, **options: Any) -> AnyModel:
    """The model that one of the functions above loads, with weights only on rank 0, which alone will use it.

    All ranks must call this together. Raises as that function does.
    """
    model = load(name, **options, in_shares=True)
    if Team.here().leads:
        read_whole(model.network)
    return model


def load_tokenizer(name: str) -> transformers.PreTrainedTokenizerBase:
    """The tokenizer of a folder, or of a model by name. Raises InputError where there is none."""
    where = source_of(name)
    folder = Path(where).expanduser()
    if folder.exists():
        if not (folder.is_dir() and has_tokenizer(folder)):
            raise InputError(f"{name} holds no tokenizer (tokenizer.json and others): name a folder that does.")
        require_files(name, folder)
        require_as_written(name, folder)
    elif where.startswith((".", "/", "~")) or where.count("/") != 1 or Path(where.split("/")[0]).is_dir():
        raise InputError(f"there is no folder {name} to read the tokenizer from.")
    with readable(name, "the tokenizer", where):
        return read_tokenizer(str(folder) if folder.exists() else where)


def reload(model: AnyModel, folder: str | Path) -> AnyModel:
    """The model in a folder, of the same kind, device and precision as `model`; sharded if there are several ranks."""
    network, tokenizer = read_network(unsharded_class(model.network), str(folder), str(model.device), in_shares=True)
    return type(model)(shard(network) if unread(network) else network, tokenizer, str(folder), model.dtype)


def read_weights(model: Model, folder: str | Path) -> None:
    """Load into a model, in place, the weights or adapters that `Model.save` wrote."""
    if adapted(model.network):
        require_as_written(str(folder), Path(folder))
        read_adapters(model.network, Path(folder))
    else:
        load_own_state(model.network, own_state(reload(model, folder).network))
