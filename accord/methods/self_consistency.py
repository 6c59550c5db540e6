"""Self-consistency: the majority answer among a prompt's samples is its label (LMSI, Huang et al. 2022,
arXiv:2210.11610).

    a(x) = the answer that most of y_1 ... y_m ~ pi_r(.|x) give;   K = {(x, y_i): answer(y_i) = a(x)}
    pi_(r+1) = maximum likelihood on K, from the base model or from pi_r

No true answer is needed. Where the policy's most frequent answer is the right one, enough samples find it; where it is
not, the policy learns its mistakes, more firmly in every round.

Departures: a tie gives no label; a truncated sample has no answer, and counts as disagreeing; every round uses the
prompts as they are, without the paper's mixture of formats; the loss is at the temperature of sampling.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from accord import feedback
from accord.errors import InputError
from accord.methods.rounds import Round, RoundsMethod, Selection
from accord.records import EncodedPrompt, Sample

if TYPE_CHECKING:
    from accord.feedback.reward import Reward
    from accord.feedback.verifiers import Verifier


@dataclass(kw_only=True)
class SelfConsistency(RoundsMethod):
    """Self-training on the majority: fine-tune a policy on its samples that give the most frequent answer."""

    command: ClassVar[str] = "self-consistency"
    on_ranks: ClassVar[bool] = True
    nothing: ClassVar[str] = "no prompt's samples agree on an answer"
    least_group: ClassVar[int] = 2

    rounds: int = 1
    group_size: int = 16
    temperature: float = 0.7
    confidence: float = 0.0
    """The least share of a prompt's samples that must agree on an answer to learn from them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.confidence <= 1:
            raise InputError(f"confidence is a share of the samples in [0, 1], not {self.confidence}.")

    def check(self, verifier: Reward, prompts: Sequence[EncodedPrompt]) -> None:
        if not isinstance(verifier, feedback.verifiers.Verifier):
            raise InputError(
                "self-consistency needs a verifier that can read answers (exact, number, math, regex:PATTERN, "
                "reasoning-gym), and the one given only scores."
            )
        if knows_answers(verifier, prompts):
            super().check(verifier, prompts)

    def select(self, at: Round, prompts: Sequence[EncodedPrompt], samples: Sequence[Sample]) -> Selection:
        verifier, m = at.verifier, self.group_size
        assert isinstance(verifier, feedback.verifiers.Verifier)
        agreeing: list[list[Sample]] = []
        shares: list[float] = []
        read = at.once(lambda: [verifier.answer(s.text) if s.completion.stop == "end" else None for s in samples])
        for i in range(0, len(samples), m):
            answers = read[i : i + m]
            label, share = feedback.verifiers.majority(answers)
            shares.append(share)
            if label is not None and share >= self.confidence:
                agreeing.append([s for s, a in zip(samples[i : i + m], answers, strict=True) if a == label])
        numbers = {"labeled": len(agreeing) / len(prompts), "agreement": sum(shares) / len(shares)}
        if agreeing and knows_answers(verifier, prompts):
            labels = at.score([group[0] for group in agreeing])
            numbers["labels_right"] = float((labels >= 1).double().mean())
        return [s for group in agreeing for s in group], numbers


def knows_answers(verifier: Verifier, prompts: Sequence[EncodedPrompt]) -> bool:
    """Whether every row has the column with its true answer, so that labels can be checked."""
    return all(p.prompt.columns.get(verifier.column) is not None for p in prompts)
