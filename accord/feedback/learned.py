"""Reward models as rewards and as judges, and preference models as judges."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import cached_property
from math import isnan

import torch
from torch import Tensor

from accord.arrays import Tokens
from accord.data.chat import closing, encode_completion, encode_prompt, encoder_text
from accord.engine.classifiers import PreferenceNetwork, Scorer
from accord.engine.encoders import Encoder
from accord.engine.generate import evaluating
from accord.engine.models import Model
from accord.engine.trees import Branch, Tree, pack
from accord.errors import InputError, located
from accord.feedback.judge import invalid_gap
from accord.objectives.preference import general_preference
from accord.records import Comparison, Sample, Text, Verdict


class Learned:
    """The outputs (L labels) of a reward or preference model for completions, each computed once per call.

    Samples of policies with the same vocabulary are read by their tokens; others are tokenized again, without an
    end-of-turn token where they were cut. An encoder reads all by their texts. The model is not changed: where it
    computes in less than float32, a copy with rounded weights is used, made at the first call.
    """

    def __init__(
        self, model: Scorer | PreferenceNetwork | Encoder, policy: Model | None = None, *, tokens_per_pass: int = 2048
    ) -> None:
        self.model, self.tokens_per_pass = model, tokens_per_pass
        self.shares_tokens = not isinstance(model, Encoder)
        if policy is not None:
            self.listen(policy)

    def listen(self, policy: Model) -> None:
        """Expect samples of one more policy; if it tokenizes otherwise, all samples are read by their texts."""
        self.shares_tokens = self.shares_tokens and self.model.same_tokens(policy)

    @cached_property
    def _reader(self) -> Scorer | PreferenceNetwork:
        assert not isinstance(self.model, Encoder)
        return self.model if self.model.dtype == torch.float32 else self.model.frozen_copy()

    @torch.no_grad()
    def of_trees(self, trees: Sequence[Tree]) -> Tensor:
        """The labels of every branch, in order, (C, L) float32."""
        starts = torch.tensor([0, *(len(t.branches) for t in trees)]).cumsum(0)
        labels = torch.empty(int(starts[-1]), len(self.model.network.config.id2label or ()))
        numbered = [Tree(t.prompt, t.branches, row=i) for i, t in enumerate(trees)]
        with evaluating(self._reader.network):
            for batch in pack(numbered, self.tokens_per_pass, self._reader.device):
                rows = torch.cat([torch.arange(int(starts[t.row]), int(starts[t.row + 1])) for t in batch.trees])
                labels[rows] = self._reader.outputs(batch).float().cpu()
        return labels

    def of_tokens(self, pairs: Sequence[tuple[Tokens, Tokens]]) -> Tensor:
        """The labels of every (prompt, completion) in tokens, (P, L) float32."""
        trees, index = grow(pairs, self.tokens_per_pass)
        return self.of_trees(trees)[index]

    def of_texts(self, pairs: Sequence[tuple[Text, Text]]) -> Tensor:
        """The labels of every (prompt, completion), (P, L) float32; every completion ends with the end of turn."""
        if isinstance(self.model, Encoder):
            index = {pair: i for i, pair in enumerate(dict.fromkeys(pairs))}
            texts = [encoder_text(self.model.tokenizer, *pair) for pair in index]
            return self.model.outputs(texts, self.tokens_per_pass)[[index[pair] for pair in pairs]]
        return self.of_tokens(self._encoded([(*pair, False) for pair in pairs]))

    def of_samples(self, samples: Sequence[Sample]) -> Tensor:
        """The labels of every sample, (C, L) float32; a sample without tokens is read by its text."""
        if isinstance(self.model, Encoder):
            return self.of_texts([(s.prompt.prompt, s.text) for s in samples])
        by_tokens = [self.shares_tokens and bool(s.completion.tokens) for s in samples]
        rest = [s for s, known in zip(samples, by_tokens, strict=True) if not known]
        texts = iter(self._encoded([(s.prompt.prompt, s.text, s.completion.stop == "length") for s in rest]))
        return self.of_tokens(
            [
                (s.prompt_tokens, self._tokens_of(s)) if known else next(texts)
                for s, known in zip(samples, by_tokens, strict=True)
            ]
        )

    def _tokens_of(self, sample: Sample) -> Tokens:
        """A sample's tokens, with those that the template adds after the end of a turn."""
        tokens = sample.completion.tokens
        if sample.completion.stop == "length" or isinstance(sample.prompt.prompt, str):
            return tokens
        return (*tokens[:-1], *self._closing) or tokens

    @cached_property
    def _closing(self) -> Tokens:
        return closing(self.model.tokenizer)

    def _encoded(self, texts: Sequence[tuple[Text, Text, bool]]) -> list[tuple[Tokens, Tokens]]:
        """The tokens of prompts and completions, with the end of turn unless the completion was cut."""
        asked = dict.fromkeys(text[0] for text in texts)
        if self.model.tokenizer.chat_template is None and not all(isinstance(prompt, str) for prompt in asked):
            raise InputError(
                f"the reward model {self.model.name} has no chat template, and a prompt is a chat: write one into its "
                "folder, as chat_template.jinja"
            )
        with located(f"the reward model {self.model.name} cannot read a prompt: "):
            prompts = {prompt: encode_prompt(self.model.tokenizer, prompt) for prompt in asked}
        completions = {text: self._completion(*text) for text in dict.fromkeys(texts)}
        return [(prompts[text[0]], completions[text]) for text in texts]

    def _completion(self, prompt: Text, completion: Text, was_cut: bool) -> Tokens:
        tokens = encode_completion(self.model.tokenizer, prompt, completion, whole=not was_cut).tokens
        return tokens[:-1] or tokens if was_cut else tokens


class LearnedReward(Learned):
    """The score of a reward model as a reward."""

    model: Scorer | Encoder

    def texts(self, pairs: Sequence[tuple[Text, Text]]) -> Tensor:
        """The reward of every (prompt, completion), (C,) float32."""
        return self.of_texts(pairs).squeeze(1)

    def __call__(self, samples: Sequence[Sample]) -> Tensor:
        return self.of_samples(samples).squeeze(1)


class LearnedJudge(Learned):
    """A preference or reward model as a judge: P(first is better) = sigmoid(r(first) - r(second)) for a reward model.

    P(first beats second) and P(second beats first) sum to 1, and a completion against itself is a tie.
    """

    symmetric = True

    def __call__(self, comparisons: Sequence[Comparison]) -> list[Verdict]:
        firsts, seconds = [(c.prompt, c.first) for c in comparisons], [(c.prompt, c.second) for c in comparisons]
        return _verdicts(self.of_texts(firsts + seconds))

    def samples(self, first: Sequence[Sample], second: Sequence[Sample]) -> list[Verdict]:
        return _verdicts(self.of_samples([*first, *second]))


def grow(pairs: Sequence[tuple[Tokens, Tokens]], budget: int) -> tuple[list[Tree], list[int]]:
    """Trees that hold every distinct (prompt, completion) once, and the index of each pair's branch.

    Completions of one prompt share a tree, or several of about `budget` tokens.
    """
    distinct: dict[Tokens, dict[Tokens, None]] = {}
    for prompt, completion in pairs:
        distinct.setdefault(prompt, {})[completion] = None
    trees: list[Tree] = []
    index: dict[tuple[Tokens, Tokens], int] = {}
    for prompt, completions in distinct.items():
        room, length = max(1, budget - len(prompt)), 0
        shares: dict[int, list[Branch]] = defaultdict(list)
        for completion in completions:
            index[prompt, completion] = len(index)
            shares[length // room].append(Branch(completion))
            length += len(completion)
        trees += [Tree(prompt, tuple(branches)) for branches in shares.values()]
    return trees, [index[pair] for pair in pairs]


def _verdicts(labels: Tensor) -> list[Verdict]:
    """Verdicts from the labels (2P, L) of all firsts and then all seconds."""
    odds = general_preference(*labels.double().tensor_split(2))
    chances = zip(odds.tolist(), odds.sigmoid().tolist(), strict=True)
    return [invalid_gap(log_odds) if isnan(log_odds) else Verdict(chance) for log_odds, chance in chances]
