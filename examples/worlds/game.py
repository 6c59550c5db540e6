"""A game with a known equilibrium: a model says one word, and the preferences between words are cyclic.

Of 10 people 9 prefer rock to scissors, 8 scissors to paper, and 8 paper to rock. No reward explains that: under
Bradley-Terry, odds(a over b) odds(b over c) odds(c over a) = 1, and here the product is 9 * 4 * 4. Instead there is an
equilibrium, a policy to which no other is preferred, and everything about it is a finite sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from accord.engine.forward import log_probabilities
from accord.engine.models import Policy, prepare_network
from accord.engine.trees import Branch, Tree, Trees
from accord.records import Comparison, Prompt, Sample, Verdict


@dataclass(frozen=True)
class Game:
    """Words, preferences between them, and the reference policy.

    Attributes:
        words: K of them.
        preferences: P, K rows of K; P[i][j] is the probability that word i is preferred to word j.
        reference: (K,) probabilities.
    """

    words: tuple[str, ...] = ("rock", "scissors", "paper")
    preferences: tuple[tuple[float, ...], ...] = ((0.5, 0.9, 0.2), (0.1, 0.5, 0.8), (0.8, 0.2, 0.5))
    reference: tuple[float, ...] = (0.5, 0.3, 0.2)

    @property
    def prompt(self) -> Prompt:
        """The only prompt: all words."""
        return Prompt(" ".join(self.words))

    @property
    def tree(self) -> Tree:
        """The prompt with every word as a branch, in tokens."""
        k = len(self.words)
        return Tree(tuple(range(k)), tuple(Branch((word,)) for word in range(k)))

    def wins(self, opponent: Tensor) -> Tensor:
        """P(word is preferred to the opponent's), (K,), from the opponent's probabilities of words, (K,)."""
        return _vector(self.preferences) @ opponent

    def mixed(self, policy: Tensor, mixture: float) -> Tensor:
        """The geometric mixture policy^(1 - m) ref^m / Z, (K,)."""
        return ((1 - mixture) * policy.log() + mixture * _vector(self.reference).log()).softmax(0)

    def best_response(self, opponent: Tensor, tau: float) -> Tensor:
        """ref exp(P(word beats opponent) / tau) / Z, (K,): the best response with KL penalty tau."""
        return (_vector(self.reference).log() + self.wins(opponent) / tau).softmax(0)

    def equilibrium(self, tau: float, mixture: float = 0.0) -> Tensor:
        """The policy that is the best response to its mixture with the reference, (K,).

        Without mixture it is the Nash equilibrium of the game with KL penalty tau (Munos et al. 2023,
        arXiv:2312.00886). Found by damped iteration toward the best response, in logarithms; a smaller tau makes the
        best response more sensitive, and needs smaller steps.
        """
        policy, share = _vector(self.reference), tau**2 / (tau**2 + 1 / 16)
        for _ in range(round(40 / share)):
            response = self.best_response(self.mixed(policy, mixture), tau)
            policy = ((1 - share) * policy.log() + share * response.log()).softmax(0)
        return policy

    def exploitability(self, policy: Tensor, tau: float) -> float:
        """What a best response gains over the policy, both with KL penalty tau: 0 at the equilibrium only.

        max over pi' of P(pi' beats pi) - tau KL(pi', ref) is tau log sum ref exp(P(word beats pi) / tau); pi's
        value against itself is 1/2 - tau KL(pi, ref).
        """
        reference = _vector(self.reference)
        best = tau * (reference.log() + self.wins(policy) / tau).logsumexp(0)
        return float(best - 0.5 + tau * (policy * (policy / reference).log()).sum())

    def judge(self) -> GameJudge:
        """The exact preferences."""
        return GameJudge(self)

    def policy(self, seed: int = 0, dtype: torch.dtype = torch.float32) -> Policy:
        """A model with the reference's probabilities: a random GPT-2 of one layer, fully trainable.

        Its vocabulary is the words, and the first word is also the end-of-turn token, so that completions of one token
        are all there is. The caller's random state is kept.
        """
        config = GPT2Config(
            vocab_size=len(self.words),
            n_positions=8,
            n_embd=16,
            n_layer=1,
            n_head=2,
            bos_token_id=None,
            eos_token_id=0,
            tie_word_embeddings=False,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = GPT2LMHeadModel(config).to(dtype).eval()  # type: ignore[arg-type]
        with torch.no_grad():  # the smallest change of the output layer that gives the reference
            state = network.transformer(torch.tensor([self.tree.prompt])).last_hidden_state[0, -1]
            missing = _vector(self.reference).log().to(dtype) - network.lm_head(state)
            network.lm_head.weight += torch.outer(missing, state) / (state @ state)
        return Policy(prepare_network(network), self._tokenizer(), "game")

    def distribution(self, network: nn.Module) -> Tensor:
        """The model's probability of each word, (K,), differentiable."""
        trees = Trees.of([self.tree])
        return log_probabilities(network, trees)[0].exp()

    def _tokenizer(self) -> PreTrainedTokenizerFast:
        words = Tokenizer(WordLevel({word: i for i, word in enumerate(self.words)}, unk_token=self.words[0]))
        words.pre_tokenizer = WhitespaceSplit()
        return PreTrainedTokenizerFast(tokenizer_object=words, eos_token=self.words[0])  # type: ignore[no-untyped-call]


class GameJudge:
    """P(first word is preferred to the second), from the game's table."""

    def __init__(self, game: Game) -> None:
        self.game = game

    def __call__(self, comparisons: Sequence[Comparison]) -> list[Verdict]:
        """Verdicts on texts, which lack the end-of-turn token: an empty text is the first word."""
        number = {word: i for i, word in enumerate(self.game.words)} | {"": 0}
        return [self._verdict(number[str(c.first)], number[str(c.second)]) for c in comparisons]

    def samples(self, first: Sequence[Sample], second: Sequence[Sample]) -> list[Verdict]:
        """Verdicts on samples, by their tokens."""
        return [
            self._verdict(a.completion.tokens[0], b.completion.tokens[0]) for a, b in zip(first, second, strict=True)
        ]

    def _verdict(self, first: int, second: int) -> Verdict:
        return Verdict(self.game.preferences[first][second])


def _vector(numbers: Sequence[float] | Sequence[Sequence[float]]) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)
