"""Who answers in `accord evaluate models`: models that are sampled, and files of answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from accord.console import counting
from accord.data import load_prompts
from accord.data.encoding import encode_prompts
from accord.engine.load import load_model
from accord.engine.models import Policy
from accord.engine.sampling import Sampling
from accord.errors import InputError
from accord.evaluate.compare import Answers, answer, best_of, token_divergences, traced
from accord.evaluate.questions.shared import require_same_vocabulary, tell
from accord.evaluate.written import Written, require_same_prompts
from accord.feedback.reward import Reward, listen
from accord.records import EncodedPrompt, Prompt


@dataclass(frozen=True)
class Competitors:
    """The models and files by name; which of them the others are held against, and which divergence is measured from.

    Raises InputError where a name is missing, or stands for two.
    """

    models: Mapping[str, str]
    files: Mapping[str, Written]
    against: str | None
    reference: str | None
    best_of_n: int = 0

    def __post_init__(self) -> None:
        named = [*self.models, *self.files]
        if not named:
            raise InputError("name who answers: models by --models.NAME, files of answers by --samples.NAME.")
        if twice := set(self.models) & set(self.files):
            raise InputError(f"{min(twice)} names both a model and a file of answers; give each its own name.")
        if self.against is not None and self.against not in named:
            raise InputError(f"--against {self.against} is none of the models and files named: {', '.join(named)}.")
        for option, name in (("reference", self.reference), ("against", self.against if self.best_of_n else None)):
            if name is not None and name not in self.models:
                raise InputError(f"--{option} {name} is none of the models named: {', '.join(self.models) or 'none'}.")

    def prompts(self, data: str | None, split: str, limit: int | None) -> list[Prompt]:
        """The prompts that everybody answers: those of the data, or else those that all the files have.

        Raises:
            InputError: a file lacks one of them, or there is neither data nor a file.
        """
        files = list(self.files.values())
        if data is not None:
            rows = load_prompts(data, split=split, limit=limit)
            for file in files:
                file.require((row.prompt for row in rows), data)
            return rows
        if not files:
            raise InputError("models need prompts to answer: give --data.")
        require_same_prompts(files)
        if limit is not None and limit < 1:
            raise InputError(f"--limit must be at least 1, not {limit}.")
        return files[0].prompts[:limit]


@dataclass(frozen=True)
class Answering:
    """How models answer, what their divergence is measured from, and what will read their answers."""

    sampling: Sampling
    dtype: torch.dtype
    origin: Policy | None
    feedback: Sequence[object]
    traces: int
    """So many answers are kept token by token."""

    def prefill(self, folder: str) -> Policy:
        """A model, known to whatever reads its answers."""
        policy = load_model(folder)
        require_same_vocabulary(policy, self.origin)
        for reader in self.feedback:
            listen(reader, policy)  # one other vocabulary, and all samples are read by their texts
        return policy

    def prompts(self, policy: Policy, rows: Sequence[Prompt], longest: int | None) -> list[EncodedPrompt]:
        """The rows as the model reads them; those that are left out, as longer than `longest`, are told."""
        prompts, left_out = encode_prompts(
            policy.tokenizer, rows, room=self.sampling.max_new_tokens, context=policy.context, longest=longest
        )
        tell(left_out)
        return prompts

    def answers(self, name: str, policy: Policy, prompts: Sequence[EncodedPrompt], n: int = 1) -> Answers:
        """n answers to each prompt."""
        with counting(name, len(prompts) * n) as done:
            return answer(name, policy, prompts, self.sampling, self.dtype, n, done)

    def best(self, answers: Answers, n: int, reward: Reward, policy: Policy) -> Answers:
        """Of every n answers the best, whose divergence is bounded."""
        best = best_of(answers, n, reward(answers.samples))
        return replace(best, traced=self._traced(best, policy, self._ratios(best, policy, self.traces)))

    def measured(self, answers: Answers, policy: Policy) -> Answers:
        """The answers with their divergence from the reference, where there is one."""
        if self.origin is None:
            return answers
        ratios = self._ratios(answers, policy, len(answers.samples))
        kl = torch.stack([ratio.sum() for ratio in ratios])
        return replace(answers, kl=kl, traced=self._traced(answers, policy, ratios[: self.traces]))

    def _ratios(self, answers: Answers, policy: Policy, most: int) -> list[torch.Tensor]:
        samples = answers.samples[:most]
        if self.origin is None:
            return []
        if policy.name == self.origin.name:  # the reference's own answers diverge by exactly nothing
            return [torch.zeros(len(s.completion.tokens), dtype=torch.float64) for s in samples]
        return token_divergences(samples, policy, self.origin, self.sampling, self.dtype)

    def _traced(
        self, answers: Answers, policy: Policy, ratios: Sequence[torch.Tensor]
    ) -> list[list[tuple[str, float]]]:
        shown = zip(answers.samples, ratios, strict=False)
        return [traced(policy, s.completion.tokens, r.tolist()) for s, r in shown]
