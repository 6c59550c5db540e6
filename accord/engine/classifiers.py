"""Classifiers on a language model's trunk that read one token's state: reward, value and preference models."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING

from accord.engine.adapters import adapted, copy_sharing_base
from accord.engine.forward import hidden_states, outputs
from accord.engine.models import Model, prepare_network, quiet
from accord.engine.quantize import few_bits
from accord.engine.trees import Trees
from accord.engine.unread import device_of, make, unread, unread_copy
from accord.errors import InputError


class Classifier(Model):
    """A sequence classifier whose labels are computed at a text's last token."""

    def outputs(self, trees: Trees) -> Tensor:
        """The L labels of every branch, (C, L)."""
        with self.autocast(once=True):
            return outputs(self.network, trees, self._read(trees))

    def states(self, trees: Trees) -> Tensor:
        """The hidden state from which the labels of every branch are computed, (C, d), in the precision of the head."""
        with self.autocast(once=True):
            hidden = hidden_states(self.network, trees).index_select(0, self._read(trees))
        weight: Tensor = self.network.score.weight  # type: ignore[assignment, union-attr]
        return hidden.to(weight.dtype)

    def _read(self, trees: Trees) -> Tensor:
        """The index (C,) of the token at which each branch's labels are computed: the last, or, as in transformers, the
        last that is not the configuration's padding token, which in published models often is the end of turn."""
        pad = self.network.config.get_text_config().pad_token_id
        back = [
            next((i for i, token in enumerate(reversed(branch.tokens)) if token != pad), 0)
            for tree in trees.trees
            for branch in tree.branches
        ]
        return trees.last - torch.tensor(back, device=trees.last.device) if any(back) else trees.last


class Scorer(Classifier):
    """A sequence classifier with one label: a reward model, or a value model."""

    def rewards(self, trees: Trees) -> Tensor:
        """The score of every branch, (C,): its only label."""
        return self.outputs(trees).squeeze(-1)

    def values(self, trees: Trees) -> Tensor:
        """The value estimate before every trained token, (N,)."""
        with self.autocast(once=True):
            return outputs(self.network, trees, trees.source).squeeze(-1)

    @staticmethod
    def on(model: Model, seed: int = 0) -> Scorer:
        """A scorer with the trunk of another model and, unless that is a scorer too, a new head.

        The head is drawn from N(0, 1/(d+1)), as in Stiennon et al. 2020, with d the width of the hidden states.
        """
        if isinstance(model, Scorer):
            network: Any = unread_copy(model.network)
            network.to(network.score.weight.dtype).requires_grad_(True)  # it may have been frozen
            return Scorer(network, model.tokenizer, model.name, model.dtype)
        return Scorer(*_classifier(model, ["score"], seed), model.name, model.dtype)


class PreferenceNetwork(Classifier):
    """A preference model: a sequence classifier whose labels are a score and two coordinates for each of k planes.

    Two completions are compared by `accord.objectives.preference.general_preference`.
    """

    @staticmethod
    def on(model: Model, planes: int, seed: int = 0) -> PreferenceNetwork:
        """A preference model with the trunk of another model and a new head.

        The score's weights are drawn as a scorer's, those of the planes from N(0, 1/((d+1) sqrt(k))): a plane adds to
        the log-odds a product of two coordinates, whose gradient vanishes where both are 0, and at this scale the k
        planes together and the score start equally large and learn equally fast.
        """
        network, tokenizer = _classifier(model, preference_labels(planes), seed)
        head: nn.Linear = network.score  # type: ignore[assignment]
        head.weight.data[1:] /= planes**0.25
        return PreferenceNetwork(network, tokenizer, model.name, model.dtype)


def preference_labels(planes: int) -> list[str]:
    """The labels of a preference model, by which its folder is recognized."""
    return ["score", *(f"cycle {plane}{axis}" for plane in range(1, planes + 1) for axis in "ab")]


def _classifier(model: Model, labels: list[str], seed: int) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The trunk of a model under a new head, drawn from N(0, 1/(d+1)), and a tokenizer whose padding is not the end of
    turn."""
    # transformers reads a score at the last token that is not padding: if the end of turn were padding, at the token
    # before it.
    tokenizer = copy.deepcopy(model.tokenizer)
    if tokenizer.pad_token in (None, tokenizer.eos_token):  # without one, trl pads with the end of turn
        others = (tokenizer.unk_token, getattr(tokenizer, "bos_token", None))
        tokenizer.pad_token = next((token for token in others if token not in (None, tokenizer.eos_token)), None)
    if type(model.network.config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        raise _no_head(model)
    shared = copy_sharing_base(model.network) if adapted(model.network) or few_bits(model.network) else None
    config = copy.deepcopy(model.network.config) if shared is None else shared.config
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: i for i, label in enumerate(labels)}
    config.pad_token_id = tokenizer.pad_token_id
    device, waiting = device_of(model.network), unread(model.network)
    wide = torch.promote_types(next(model.network.parameters()).dtype, torch.float32)
    with quiet(), torch.device("cpu" if shared is None else "meta"):
        if shared is None and waiting:
            network = make(AutoModelForSequenceClassification, config, device)
        else:
            network = AutoModelForSequenceClassification.from_config(config)
    if not isinstance(getattr(network, "score", None), nn.Linear):
        raise _no_head(model)
    network._merged = getattr(model.network, "_merged", None)  # type: ignore[assignment]
    width = network.score.in_features
    head = torch.randn(len(labels), width, generator=torch.Generator().manual_seed(seed)) / (width + 1) ** 0.5
    if waiting:
        own = {id(p): name for name, p in model.network.named_parameters()}
        trunk = {name: own[id(p)] for name, p in model.network.base_model.named_parameters() if p.is_meta}
        network._unread = waiting.under({f"{network.base_model_prefix}.{name}": at for name, at in trunk.items()})
    if shared is not None:
        _graft(network, shared, head.to(device, wide))
        return network, tokenizer
    if waiting:
        network.score.weight = nn.Parameter(head.to(device))
        return prepare_network(network.to(dtype=wide)), tokenizer
    network.base_model.load_state_dict(model.network.base_model.state_dict())
    network.score.weight.data.copy_(head)
    return prepare_network(network.to(device=device, dtype=wide).eval()), tokenizer


def _no_head(model: Model) -> InputError:
    return InputError(
        f"{model.name} is a {type(model.network).__name__}, and transformers has no classifier of this architecture "
        "that reads a text's last token, as reward, preference and value models are: train one on a model of another."
    )


def _graft(classifier: PreTrainedModel, network: PreTrainedModel, head: Tensor) -> None:
    """Give a classifier the trunk and adapters of a prepared network, and a head that is trained in full."""
    setattr(classifier, classifier.base_model_prefix, network.base_model)
    classifier.score.weight = nn.Parameter(head)  # type: ignore[union-attr]
    classifier.config = network.config
    for name in ("_prepared_by_accord", "_accord_recomputes"):
        setattr(classifier, name, getattr(network, name))
    if adapted(network):
        classifier._adapter = replace(network._adapter, task_type="SEQ_CLS", modules_to_save=["score"])  # type: ignore
    classifier.eval()
