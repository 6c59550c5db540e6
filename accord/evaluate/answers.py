"""Answers of models or from files, and log-probabilities of answers: everything in evaluations that runs a network.

Divergence is the mean over a model's own samples of log pi(y|x) - log ref(y|x), in nats per completion.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TypeAlias

import torch

from accord.console import progress_bar, status
from accord.data.encoding import encode_prompts
from accord.data.load import load_samples
from accord.engine import Branch, Policy, Sampling, Tree, pack
from accord.engine.config import SamplerConfig
from accord.engine.load import load_model
from accord.errors import InputError
from accord.evaluate.options import AnswerOptions, ScoredOptions
from accord.feedback.reward import Reward, excerpt, listen, unsampled
from accord.objectives.segments import segment_sum
from accord.objectives.selection import best_of_n_kl_bound
from accord.prompting.sampler import drawn_by
from accord.records import Completion, EncodedPrompt, Prompt, Sample, Text, show

TOKENS_PER_PASS = 4096
"""Tokens computed in one pass."""

Traced: TypeAlias = list[tuple[str, float]]
"""An answer's tokens as text, each with its log pi - log ref."""


@dataclass(frozen=True)
class Answers:
    """A model's answers to the prompts, their scores by name, and its divergence (per prompt, or one bound).

    `traced` holds the first answers token by token, if there is a reference. Samples without tokens come from files.
    """

    name: str
    samples: list[Sample]
    scores: dict[str, torch.Tensor] = field(default_factory=dict)
    kl: torch.Tensor | float | None = None
    traced: list[Traced] = field(default_factory=list)

    @property
    def characters(self) -> list[int]:
        """The length of every answer in characters."""
        return [len(s.text) for s in self.samples]

    @property
    def length(self) -> float | None:
        """The mean length in tokens; None for answers not sampled here."""
        return sum(len(s.completion.tokens) for s in self.samples) / len(self.samples) if self._has_tokens else None

    @property
    def ended(self) -> float | None:
        """The share that ended by themselves; None for answers not sampled here."""
        return sum(s.completion.stop == "end" for s in self.samples) / len(self.samples) if self._has_tokens else None

    @property
    def _has_tokens(self) -> bool:
        return all(s.completion.tokens for s in self.samples)


@dataclass(frozen=True)
class Answering:
    """How models answer, the reference of their divergence, and the judges and rewards that read the answers."""

    options: ScoredOptions
    reference: Policy | None = None
    readers: Sequence[object] = ()
    """Judges and rewards."""
    traces: int = 0
    """Number of answers kept token by token."""

    def __post_init__(self) -> None:
        if self.reference is not None and self.options.temperature == 0:
            raise InputError(
                "divergence from a reference needs sampled answers, and --temperature 0 does not sample: raise it, or "
                "leave the reference out."
            )

    def load(self, name: str) -> Policy:
        """Load a model and register it with the judges and rewards that read its answers."""
        policy = self.options.templated(load_model(name, dtype=self.options.dtype))
        require_same_vocabulary(policy, self.reference)
        for reader in self.readers:
            listen(reader, policy)  # with one other vocabulary, all samples are read as text
        return policy

    def answers(self, name: str, policy: Policy, prompts: Sequence[EncodedPrompt], n: int = 1) -> Answers:
        """n answers to each prompt."""
        return Answers(name, sampled(policy, prompts, n, self.options.sampling(), title=name, by=self.options))

    def best(self, answers: Answers, n: int, reward: Reward, policy: Policy) -> Answers:
        """The best of every n answers, whose divergence is bounded."""
        best = best_of(answers, n, reward(answers.samples))
        return replace(best, traced=self._traced(best, policy, self._ratios(best, policy, self.traces)))

    def measured(self, answers: Answers, policy: Policy) -> Answers:
        """The answers with their divergence from the reference, if any."""
        if self.reference is None:
            return answers
        ratios = self._ratios(answers, policy, len(answers.samples))
        kl = torch.stack([ratio.sum() for ratio in ratios])
        return replace(answers, kl=kl, traced=self._traced(answers, policy, ratios[: self.traces]))

    def _ratios(self, answers: Answers, policy: Policy, most: int) -> list[torch.Tensor]:
        samples = answers.samples[:most]
        if self.reference is None:
            return []
        if policy.name == self.reference.name:  # exactly 0 for the reference itself
            return [torch.zeros(len(s.completion.tokens), dtype=torch.float64) for s in samples]
        return token_divergences(samples, policy, self.reference, self.options.temperature)

    def _traced(self, answers: Answers, policy: Policy, ratios: Sequence[torch.Tensor]) -> list[Traced]:
        pairs = zip(answers.samples, ratios, strict=False)
        return [traced(policy, s.completion.tokens, r.tolist()) for s, r in pairs]


def encoded(
    policy: Policy,
    rows: Sequence[Prompt],
    options: AnswerOptions,
    longest: int | None = None,
    *,
    reads: Sequence[Text] | None = None,
) -> list[EncodedPrompt]:
    """The rows as encoded prompts; a warning names those that leave no room for an answer within `longest` tokens.

    `reads` replaces each row's prompt as the model's input; rewards and judges still see the row's own prompt.
    """
    read = rows if reads is None else [Prompt(text) for text in reads]
    room = options.max_new_tokens
    prompts, left_out = encode_prompts(policy.tokenizer, read, room=room, context=policy.context, longest=longest)
    for line in left_out:
        status(line)
    return prompts if reads is None else [replace(p, prompt=rows[p.row]) for p in prompts]


def sampled(
    policy: Policy,
    prompts: Sequence[EncodedPrompt],
    n: int,
    sampling: Sampling,
    *,
    title: str = "sample",
    by: SamplerConfig | None = None,
) -> list[Sample]:
    """n samples of every prompt, in order, with a progress bar; `by` selects the sampler."""
    with (
        drawn_by(by or SamplerConfig(), policy, prompts, sampling) as speaker,
        progress_bar(title, len(prompts) * n) as done,
    ):
        return speaker.sample(prompts, n, sampling, progress=done)


def best_of(answers: Answers, n: int, proxy: torch.Tensor) -> Answers:
    """The sample with the highest proxy reward of every n; its divergence is at most log n - (n - 1) / n."""
    best = proxy.view(-1, n).argmax(1) + torch.arange(len(proxy) // n) * n
    return Answers(
        f"{answers.name} best of {n}", [answers.samples[i] for i in best.tolist()], {}, best_of_n_kl_bound(n)
    )


@torch.no_grad()
def token_divergences(
    samples: Sequence[Sample], policy: Policy, reference: Policy, temperature: float = 1.0
) -> list[torch.Tensor]:
    """log pi - log ref of every token of every sample, (n,) float64 each, at the sampling temperature."""
    gaps: dict[int, torch.Tensor] = {}
    trees = [Tree(s.prompt_tokens, (Branch(s.completion.tokens),), row=i) for i, s in enumerate(samples)]
    for batch in pack(trees, TOKENS_PER_PASS, policy.device):
        gap = policy.log_probs(batch, temperature) - reference.log_probs(batch, temperature)
        counts = torch.bincount(batch.owner, minlength=batch.branches).tolist()
        gaps |= zip((t.row for t in batch.trees), gap.double().cpu().split(counts), strict=True)
    return [gaps[i] for i in range(len(samples))]


@torch.no_grad()
def branch_log_probs(
    policy: Policy, trees: Sequence[Tree], tokens_per_pass: int = TOKENS_PER_PASS
) -> list[list[float]]:
    """log pi(completion | prompt) of every branch of every tree, summed in float64, with a progress bar."""
    sums: dict[int, list[float]] = {}
    indices = {id(tree): i for i, tree in enumerate(trees)}
    with progress_bar("score", len(trees)) as done:
        for batch in pack(trees, tokens_per_pass, policy.device):
            logp = segment_sum(policy.log_probs(batch).double(), batch.owner, batch.branches)
            of_trees = logp.cpu().split([len(tree.branches) for tree in batch.trees])
            sums |= {indices[id(tree)]: some.tolist() for tree, some in zip(batch.trees, of_trees, strict=True)}
            done(len(batch.trees))
    return [sums[i] for i in range(len(trees))]


def traced(policy: Policy, tokens: Sequence[int], ratios: Sequence[float]) -> Traced:
    """An answer's tokens as text, including the end token, each with its log pi - log ref.

    Each token is decoded after the one before it, as some tokenizers show the space between words only then; a token
    that is not a whole character is shown as the tokenizer decodes it alone.
    """

    def read(*ids: int) -> str:
        return str(policy.tokenizer.decode(list(ids)))

    texts = [*map(read, tokens[:1]), *(read(a, b)[len(read(a)) :] or read(b) for a, b in pairwise(tokens))]
    return list(zip(texts, ratios, strict=True))


def require_same_vocabulary(policy: Policy, reference: Policy | None) -> None:
    """Raise InputError where the two models' log-probabilities cannot be compared."""
    if reference is not None and not policy.same_vocabulary(reference):
        raise InputError(f"{policy.name} and --reference {reference.name} have different vocabularies; choose another.")


class AnswerFile:
    """Answers from a file: the first completion of every prompt, in any order.

    An answer counts as complete unless its row says `"stop": "length"`, as `accord sample` writes for cut samples.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self._first: dict[Text, tuple[Prompt, Text]] = {}
        for prompt, completion in load_samples(path):
            self._first.setdefault(prompt.prompt, (prompt, completion))
        if not self._first:
            raise InputError(f"{self.path} holds no rows.")

    @property
    def prompts(self) -> list[Prompt]:
        """The distinct prompts, each with its first row's other columns."""
        return [prompt for prompt, _ in self._first.values()]

    def require(self, prompts: Iterable[Text], whence: str) -> None:
        """Raise InputError naming the first prompt without a completion here; `whence` names the prompts' source."""
        for prompt in prompts:
            if prompt not in self._first:
                raise InputError(
                    f"the prompt {excerpt(show(prompt))!r} is in {whence} but not in {self.path}; give files of "
                    "answers to the same prompts."
                )

    def answers(self, name: str, prompts: Sequence[Prompt]) -> Answers:
        """The file's answers to the prompts, under the given name."""
        return Answers(name, [self._sample(prompt, i) for i, prompt in enumerate(prompts)])

    def _sample(self, prompt: Prompt, row: int) -> Sample:
        own, completion = self._first[prompt.prompt]
        was_cut = own.columns.get("stop") == "length"
        text = unsampled(prompt.prompt, completion).text
        return Sample(prompt, text, (), Completion((), (), "length" if was_cut else "end"), row)


def require_same_prompts(files: Sequence[AnswerFile]) -> None:
    """Raise InputError naming the first prompt that is in one file and missing in another."""
    for other in files[1:]:
        for one, two in ((files[0], other), (other, files[0])):
            two.require((p.prompt for p in one.prompts), one.path)
