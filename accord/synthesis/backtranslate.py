"""Instruction backtranslation (Li et al. 2023, arXiv:2308.06259): instructions for human-written answers.

The answers are given, such as passages of a corpus; the model writes the instruction that each would answer (section
2.2). With a minimum score the model then rates how well each answers its instruction, from 1 to 5, and pairs below it
are left out (self-curation, section 2.3).

Departures: the model is not fine-tuned on reversed seeds first, but shown four of them in its prompt; curation is done
once, by the same model.
"""

from __future__ import annotations

from collections.abc import Sequence

from accord.errors import InputError
from accord.synthesis import parsing
from accord.synthesis.filters import Pool
from accord.synthesis.parsing import on_one_line
from accord.synthesis.questions import Asker, Question, is_short
from accord.synthesis.tasks import Candidate, Instance, Task

EXAMPLES = 4
"""Seeds per prompt."""

_INSTRUCTION = "For each answer, write the instruction to which it is the best answer, on one line."
_RATE = (
    "How good an answer to its instruction is the text below, as one that a helpful assistant could have written? 1: "
    "it does not answer the instruction. 2: it answers a part of it. 3: it answers, but not as an assistant would. 4: "
    "it answers fully, and could be clearer. 5: it could not be better. Write the score alone."
)
_CUE, _SCORE = "Instruction:", "Score:"


class Backtranslate:
    """The generator. Raises InputError where too few seeds have an output to show."""

    name = "backtranslate"

    def __init__(
        self, ask: Asker, seeds: Sequence[Task], answers: Sequence[str], requests: int = 8, least: int | None = None
    ) -> None:
        self.examples = [
            s for s in seeds if s.instances and not s.instances[0].input and is_short(s.instances[0].output)
        ]
        if len(self.examples) < EXAMPLES:
            raise InputError(
                f"a prompt shows {EXAMPLES} seed tasks that have an output and need no input, and here are "
                f"{len(self.examples)} that are short enough."
            )
        self.ask, self.answers, self.requests, self.least = ask, list(answers), requests, least

    def propose(self, pool: Pool, number: int) -> list[Candidate]:
        """An instruction for each of the next answers; empty after the last."""
        answers = self.answers[number * self.requests : (number + 1) * self.requests]
        draws = self.ask.draws(f"{number} backtranslate")
        questions = []
        for text in answers:
            shown = draws.sample(self.examples, EXAMPLES)
            lines = [f"Answer: {t.instances[0].output}\n{_CUE} {on_one_line(t.instruction)}" for t in shown]
            asked = "\n\n".join([*lines, f"Answer: {text}"])
            ask = "Write the instruction for the last answer alone."
            questions.append(Question(_INSTRUCTION, asked, _CUE, ask, () if self.ask.is_chat else ("\n",), 96))
        candidates = []
        for text, answer in zip(answers, self.ask(questions, f"{number} backtranslate"), strict=True):
            instruction = (answer.text or "").strip().removeprefix(_CUE).strip()
            candidate = Candidate(on_one_line(instruction), instances=[Instance("", text)])
            if answer.text is None:
                candidate.rejected, candidate.origin = "no reply", answer.reason
            elif answer.is_cut or not instruction or "\n" in instruction:
                candidate.rejected = "unreadable"
            candidates.append(candidate)
        return candidates

    def complete(self, candidates: Sequence[Candidate], number: int) -> None:
        """Rate the pairs, if there is a minimum score, and drop those below it."""
        if self.least is None:
            return
        questions = [
            Question(
                _RATE,
                f"{_CUE} {c.instruction}\nAnswer: {c.instances[0].output}",
                _SCORE,
                "",
                ("\n",),
                8,
                is_greedy=True,
            )
            for c in candidates
        ]
        for candidate, answer in zip(candidates, self.ask(questions, f"{number} scores"), strict=True):
            rated = parsing.score(answer.text or "")
            if answer.text is None:
                candidate.rejected = "no reply"
            elif rated is None or rated < self.least:
                candidate.dropped = [("low score", one) for one in candidate.instances]
                candidate.instances = []
