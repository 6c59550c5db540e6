"""Reward models as rewards and as judges."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import torch

from accord.data.chat import encode_completion, encode_prompt
from accord.engine.forward import rewards
from accord.engine.models import Model, Scorer
from accord.engine.precision import computing, frozen
from accord.engine.trees import Branch, Tree, Trees, pack
from accord.records import Comparison, Sample, Text, Verdict


class LearnedReward:
    """The score a reward model gives a completion: its head on the last token's hidden state.

    Samples of a policy whose tokenizer has the same vocabulary are scored by their tokens; others are tokenised again.
    """

    def __init__(
        self,
        scorer: Scorer,
        policy: Model | None = None,
        *,
        dtype: torch.dtype = torch.float32,
        tokens_per_pass: int = 2048,
    ) -> None:
        self.scorer, self.dtype, self.tokens_per_pass = scorer, dtype, tokens_per_pass
        self.shares_tokens = policy is None or scorer.same_vocabulary(policy)
        self._network: torch.nn.Module | None = None

    def score(self, trees: Sequence[Tree]) -> torch.Tensor:
        """The reward of every branch, in order, (C,) float32."""
        if self._network is None:
            self._network = self.scorer.network = frozen(self.scorer.network, self.dtype)  # type: ignore[assignment]
        starts = torch.tensor([0, *(len(t.branches) for t in trees)]).cumsum(0)
        scores = torch.empty(int(starts[-1]))
        numbered = [Tree(t.prompt, t.branches, row=i) for i, t in enumerate(trees)]
        for batch in pack(numbered, self.tokens_per_pass, self.scorer.device):
            where = torch.cat([torch.arange(int(starts[t.row]), int(starts[t.row + 1])) for t in batch.trees])
            scores[where] = self._forward(batch).float().cpu()
        return scores

    @torch.no_grad()
    def _forward(self, batch: Trees) -> torch.Tensor:
        assert self._network is not None
        with computing(self.dtype, self.scorer.device):
            return rewards(self._network, batch)

    def texts(self, pairs: Sequence[tuple[Text, Text]]) -> torch.Tensor:
        """The reward of every (prompt, completion), (C,) float32."""
        tokenizer = self.scorer.tokenizer
        return self.score([Tree(encode_prompt(tokenizer, p), (encode_completion(tokenizer, p, c),)) for p, c in pairs])

    def __call__(self, samples: Sequence[Sample]) -> torch.Tensor:
        """One score a sample, (C,) float32; samples of one prompt that stand together share its computation."""
        if not self.shares_tokens:
            return self.texts([(s.prompt.prompt, s.text) for s in samples])
        grouped = [list(group) for _, group in groupby(samples, key=lambda s: s.prompt_tokens)]
        return self.score([Tree(g[0].prompt_tokens, tuple(Branch(s.completion.tokens) for s in g)) for g in grouped])


class LearnedJudge:
    """Bradley-Terry's verdict of a reward model: P(first is better) = sigmoid(r(first) - r(second))."""

    def __init__(self, reward: LearnedReward) -> None:
        self.reward = reward

    def __call__(self, comparisons: Sequence[Comparison]) -> list[Verdict]:
        """One probability a comparison."""
        first = self.reward.texts([(c.prompt, c.first) for c in comparisons])
        second = self.reward.texts([(c.prompt, c.second) for c in comparisons])
        return [Verdict(p) for p in torch.sigmoid(first.double() - second.double()).tolist()]
