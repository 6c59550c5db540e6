"""Evol-Instruct (Xu et al. 2023, arXiv:2304.12244): instructions made harder, or others of the same kind, and answered.

A step takes an instruction of the pool and rewrites it by one of six operations drawn by lot: five in depth (more
constraints, deeper, more concrete, more steps of reasoning, a more complicated input) and one in breadth (a rarer one
of the same domain). The model then answers what passes the filters (sections 3.1 and 3.2).

Departures: prompts are worded anew; the model is not asked whether an evolved instruction adds anything: ROUGE-L to the
pool, of which its parent is a part, rejects what adds too little.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from accord.errors import InputError
from accord.synthesis.filters import Pool
from accord.synthesis.parsing import on_one_line
from accord.synthesis.questions import Asker, Question, is_short
from accord.synthesis.tasks import Candidate, Instance, Task

OPERATIONS = {
    "constraints": "adding one more requirement that its answer must meet",
    "deepen": "asking about what it is about in more depth and in more breadth",
    "concretize": "putting something specific in place of what it says in general",
    "reasoning": "asking for what takes several steps of reasoning, where it can be done in one",
    "input": "giving it an input that is harder to work with, such as a table, a list or code",
    "breadth": "",
}
"""The operations, and how those in depth change an instruction."""

_DEPTH = (
    "Make the instruction below harder for a language model, but so that people still understand and can answer it, by "
    "{how}. Add ten to twenty words, keep what it is about, and write the new instruction alone, on one line."
)
_BREADTH = (
    "Write an instruction for a language model that is of the same domain as the one below and about as long and hard, "
    "but about something rarer. People must understand it and can answer it. Write the new one alone, on one line."
)
_ANSWER = "Do what the instruction says. Write the answer alone."
_OLD, _NEW, _SAID = "Old instruction:", "New instruction:", "Answer:"
LEAKED = (_OLD.lower(), _NEW.lower(), "old instruction", "new instruction", "language model", "ten to twenty words")
"""Words of the prompt that show that the model repeats it."""


class Evolve:
    """The generator."""

    name = "evolve"

    def __init__(self, ask: Asker, seeds: Sequence[Task], requests: int = 8) -> None:
        if not any(is_short(seed.instruction) for seed in seeds):
            raise InputError("no seed task is short enough to be shown in a prompt.")
        self.ask, self.requests = ask, requests

    def propose(self, pool: Pool, number: int) -> list[Candidate]:
        """New instructions, one per request."""
        draws = self.ask.draws(f"{number} evolve")
        parents = [task for task in (*pool.seeds, *pool.accepted) if is_short(task.instruction)]
        drawn = [(draws.choice(parents), draws.choice(list(OPERATIONS))) for _ in range(self.requests)]
        questions = [self._evolved(with_input(parent, draws), how) for parent, how in drawn]
        candidates = []
        for (parent, how), answer in zip(drawn, self.ask(questions, f"{number} evolve"), strict=True):
            origin = f"{how}: {on_one_line(parent.instruction)}"
            text = (answer.text or "").strip().removeprefix(_NEW).strip()
            candidate = Candidate(on_one_line(text), origin)
            if answer.text is None:
                candidate.rejected, candidate.origin = "no reply", answer.reason
            elif answer.is_cut or not text or "\n" in text:
                candidate.rejected = "unreadable"
            elif any(words in text.lower() for words in LEAKED):
                candidate.rejected = "copied"
            candidates.append(candidate)
        return candidates

    def complete(self, candidates: Sequence[Candidate], number: int) -> None:
        """Generate an answer for each candidate; cut answers are discarded."""
        questions = [
            Question(_ANSWER, f"Instruction: {c.instruction}", _SAID, stop=("\nInstruction:",)) for c in candidates
        ]
        for candidate, answer in zip(candidates, self.ask(questions, f"{number} answers"), strict=True):
            candidate.rejected = "no reply" if answer.text is None else ""
            if answer.text is not None and not answer.is_cut:
                candidate.instances = [Instance("", answer.text.strip().removeprefix(_SAID).strip())]

    def _evolved(self, instruction: str, how: str) -> Question:
        task = _BREADTH if how == "breadth" else _DEPTH.format(how=OPERATIONS[how])
        return Question(task, f"{_OLD} {instruction}", _NEW, stop=("\n",) if not self.ask.is_chat else ())


def with_input(task: Task, draws: random.Random) -> str:
    """An instruction with the input of one of its instances, on one line."""
    input_text = draws.choice(task.instances).input if task.instances else ""
    return on_one_line(f"{task.instruction} {input_text}") if is_short(input_text) else on_one_line(task.instruction)
