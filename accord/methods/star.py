"""STaR: a policy learns from its own rationales whose answers are right (Zelikman et al. 2022, arXiv:2203.14465).

    K = {(x, y): y ~ pi_r(.|x), answer(y) right} + {(x, y): y ~ pi_r(.|hint(x)), answer(y) right; no sample of x was}
    pi_(r+1) = the base model, fine-tuned by maximum likelihood on K, in steps that grow from round to round

The second part is rationalization: a prompt without a right sample is sampled again with the answer as a hint, and
right samples are learned as if without the hint. Without it (`--hint ""`) a round is expert iteration: from the base
model as in ReST^EM (Singh et al. 2023, arXiv:2312.06585), or from the last policy with `--from-base false`.

Departures: every right sample is learned, with repetitions (the paper takes one, the most likely), which makes the
exact round an improvement; a truncated sample is never right; the loss is at the temperature of sampling.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from string import Formatter
from typing import TYPE_CHECKING, Any, ClassVar

from accord import data, feedback
from accord.errors import InputError
from accord.methods.rounds import Round, RoundsMethod, Selection
from accord.records import EncodedPrompt, Message, Prompt, Sample, Text

if TYPE_CHECKING:
    from accord.feedback.reward import Reward


@dataclass(kw_only=True)
class STaR(RoundsMethod):
    """Self-taught reasoner: fine-tune a policy, in rounds, on its own rationales whose answers a verifier accepts."""

    command: ClassVar[str] = "star"
    on_ranks: ClassVar[bool] = True
    nothing: ClassVar[str] = "no sample is right and ended by itself"

    growth: float = 1.2
    hint: str = "{prompt}\n\n(Hint: the answer is {answer}.)"
    """The prompt for a second attempt where no sample was right, with the answer as a hint; empty turns rationalization
    off."""

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            named = {name for _, name, _, _ in Formatter().parse(self.hint) if name is not None}
        except ValueError as error:
            raise InputError(f"hint {self.hint!r} is not a template: {error}.") from None
        if self.hint and named != {"prompt", "answer"}:
            only = "{prompt} and {answer} and no other name in braces"
            raise InputError(f"hint must hold {only}, not {self.hint!r}.")

    def check(self, verifier: Reward, prompts: Sequence[EncodedPrompt]) -> None:
        super().check(verifier, prompts)
        if self.hint and not any(right_answer(verifier, p.prompt.columns) for p in prompts):
            raise InputError(
                "no row has an answer to hint at, in the verifier's column or in 'answer'; "
                "add one, or do without rationalization by --hint ''."
            )

    def select(self, at: Round, prompts: Sequence[EncodedPrompt], samples: Sequence[Sample]) -> Selection:
        scores = at.score(samples).tolist()
        right = right_of(samples, scores)
        solved = {s.row for s in right}
        shown = self.rationalize(at, [p for p in prompts if p.row not in solved]) if self.hint else []
        numbers = {
            "reward": sum(scores) / len(scores),
            "right": len(right) / len(samples),
            "solved": len(solved) / len(prompts),
            "rationalized": len({s.row for s in shown}) / len(prompts),
        }
        return sorted([*right, *shown], key=lambda s: s.row), numbers

    def rationalize(self, at: Round, prompts: Sequence[EncodedPrompt]) -> list[Sample]:
        """Right samples of the prompts with a hint, as samples of the prompts without it."""
        plain = {p.row: p for p in prompts}
        hinted = at.once(lambda: [h for p in prompts if (h := self.hinted(at, p))])
        if not hinted:
            return []
        answers = at.sample(hinted)
        right = right_of(answers, at.score(answers).tolist())
        return [replace(s, prompt=plain[s.row].prompt, prompt_tokens=plain[s.row].tokens) for s in right]

    def hinted(self, at: Round, prompt: EncodedPrompt) -> EncodedPrompt | None:
        """The prompt with its answer as a hint in the user's last message; None where it has no answer or no room."""
        answer = right_answer(at.verifier, prompt.prompt.columns)
        if not answer:
            return None
        text = with_hint(prompt.prompt.prompt, self.hint, answer)
        tokens = data.chat.encode_prompt(at.policy.tokenizer, text)
        room = min(self.max_length, at.policy.context or self.max_length) - self.max_new_tokens
        return EncodedPrompt(Prompt(text, prompt.prompt.columns), tokens, prompt.row) if len(tokens) <= room else None


def right_of(samples: Sequence[Sample], scores: Sequence[float]) -> list[Sample]:
    """The samples that score 1 or more and were not cut."""
    return [s for s, score in zip(samples, scores, strict=True) if score >= 1 and s.completion.stop == "end"]


def right_answer(verifier: Reward, columns: Mapping[str, Any]) -> str | None:
    """A row's final answer, as the verifier reads it if it can; None where the row has none."""
    usual = feedback.verifiers.ANSWER
    values = (columns.get(name) for name in (getattr(verifier, "column", usual), usual))
    text = next((str(v) for v in values if isinstance(v, str | int | float)), None)
    read = getattr(verifier, "answer", None)
    return (read(text) or text) if text is not None and read is not None else text


def with_hint(prompt: Text, hint: str, answer: str) -> Text:
    """The text, or the user's last message in a chat, put into the template."""
    if isinstance(prompt, str):
        return hint.format(prompt=prompt, answer=answer)
    last = max((i for i, m in enumerate(prompt) if m.role == "user"), default=len(prompt) - 1)
    turn = Message(prompt[last].role, hint.format(prompt=prompt[last].content, answer=answer))
    return (*prompt[:last], turn, *prompt[last + 1 :])
