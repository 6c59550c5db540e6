"""Self-Instruct (Wang et al. 2022, arXiv:2212.10560): instructions modeled on others, then instances of them.

Each prompt shows eight instructions, six seeds and two generated ones (eight seeds at first), and asks for more. For
each that passes the filters the model is asked whether it is classification: if so, outputs come first and an input for
each, since inputs first would favor one label; else inputs come first (section 2.2, steps 1 to 3).

Departures: prompts are worded anew, and have a form for chat models; classification is not asked about where seeds do
not say what they are; examples in prompts are drawn at random, not fixed.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from accord.errors import InputError
from accord.synthesis import parsing
from accord.synthesis.filters import Pool
from accord.synthesis.parsing import on_one_line
from accord.synthesis.questions import Asker, Question, block, is_short, listed
from accord.synthesis.tasks import Candidate, Task

OF_SEEDS, OF_MADE = 6, 2
"""Instructions in a prompt."""
SHOWN = OF_SEEDS + OF_MADE
EXAMPLES = 4
"""Tasks with instances in a prompt, and tasks of each kind."""
ORDERS = {False: ("Input", "Output"), True: ("Output", "Input")}
"""Which block comes first, by whether a task is classification."""

_LIST = "Below is a list of tasks that people give to a language model. They differ in kind, topic and wording."
_MORE = (
    "Continue the list with eight new tasks, numbered {first} to {last}, one a line. Each must differ in kind from all "
    "others, and must need nothing but text. Write the numbered tasks and nothing else."
)
_KIND = (
    "A task is classification if every right output is one of a few labels. For each task, say Yes if it is "
    "classification, and No if it is not."
)
_INPUT_FIRST = (
    "For each task, write an input that it can be done with, and the right output. Where the task needs no input, the "
    "input is None."
)
_OUTPUT_FIRST = (
    "Each task sorts inputs into labels. For each task, go through the labels: write a label as the output, and then "
    "an input that has this label."
)
_CUE = "Classification:"
_BLOCKS = "Write the blocks {blocks} for the last task, and nothing else."


class SelfInstruct:
    """The generator. Raises InputError where there are too few seeds, or too few of them show instances."""

    name = "self-instruct"

    def __init__(self, ask: Asker, seeds: Sequence[Task], requests: int = 8) -> None:
        short = [seed for seed in seeds if is_short(seed.instruction)]
        if len(short) < SHOWN:
            raise InputError(f"a prompt shows {SHOWN} seed tasks, and here are {len(short)} that are short enough.")
        self.ask, self.seeds, self.requests = ask, short, requests
        shown = [s for s in short if s.instances and is_short(s.instances[0].input, s.instances[0].output)]
        self.examples = {kind: [s for s in shown if bool(s.is_classification) == kind] for kind in ORDERS}
        if len(self.examples[False]) < EXAMPLES:
            raise InputError(
                f"prompts show {EXAMPLES} seed tasks that have an output and are not classification, and here are "
                f"{len(self.examples[False])} that are short enough."
            )
        self.tells_kinds = len(self.examples[True]) >= EXAMPLES

    def propose(self, pool: Pool, number: int) -> list[Candidate]:
        """New instructions, up to eight per request."""
        draws = self.ask.draws(f"{number} instructions")
        made = [task for task in pool.accepted if is_short(task.instruction)]
        questions = [self._instructions(made, draws) for _ in range(self.requests)]
        candidates: list[Candidate] = []
        for answer in self.ask(questions, f"{number} instructions"):
            if answer.text is None:
                candidates.append(Candidate("", answer.reason, rejected="no reply"))
                continue
            firsts = (SHOWN + 1, 1) if self.ask.is_chat else (SHOWN + 1,)
            items = parsing.numbered(answer.text, firsts, answer.is_cut)
            made_here = [Candidate(item) for item in items[:SHOWN]]
            candidates += made_here or [Candidate(on_one_line(answer.text), rejected="unreadable")]
        return candidates

    def complete(self, candidates: Sequence[Candidate], number: int) -> None:
        """Generate instances for each candidate; one whose kind stays unclear is rejected."""
        kinds, orders = self.ask.draws(f"{number} kinds"), self.ask.draws(f"{number} instances")
        if self.tells_kinds:
            questions = [self._kind(candidate, kinds) for candidate in candidates]
            for candidate, answer in zip(candidates, self.ask(questions, f"{number} kinds"), strict=True):
                verdict = parsing.yes_or_no((answer.text or "").removeprefix(_CUE))
                candidate.is_classification = verdict
                candidate.rejected = "" if verdict is not None else "unclear kind" if answer.text else "no reply"
        clear = [candidate for candidate in candidates if not candidate.rejected]
        questions = [self._instances(candidate, orders) for candidate in clear]
        for candidate, answer in zip(clear, self.ask(questions, f"{number} instances"), strict=True):
            order = ORDERS[bool(candidate.is_classification)]
            candidate.instances = parsing.instances(answer.text or "", order, answer.is_cut)
            candidate.rejected = "no reply" if answer.text is None else ""

    def _instructions(self, made: Sequence[Task], draws: random.Random) -> Question:
        some = draws.sample(made, min(OF_MADE, len(made)))
        tasks = [*draws.sample(self.seeds, SHOWN - len(some)), *some]
        draws.shuffle(tasks)
        ask = _MORE.format(first=SHOWN + 1, last=2 * SHOWN)
        return Question(_LIST, listed(tasks), f"{SHOWN + 1}.", ask, stop=(f"\n{2 * SHOWN + 1}.",))

    def _kind(self, candidate: Candidate, draws: random.Random) -> Question:
        shown = [(kind, task) for kind in ORDERS for task in draws.sample(self.examples[kind], EXAMPLES)]
        draws.shuffle(shown)
        lines = [f"Task: {on_one_line(task.instruction)}\n{_CUE} {'Yes' if kind else 'No'}" for kind, task in shown]
        asked = "\n\n".join([*lines, f"Task: {candidate.instruction}"])
        return Question(_KIND, asked, _CUE, "Answer for the last task, Yes or No.", ("\n",), 4, is_greedy=True)

    def _instances(self, candidate: Candidate, draws: random.Random) -> Question:
        kind = bool(candidate.is_classification)
        order, shown = ORDERS[kind], draws.sample(self.examples[kind], EXAMPLES)
        examples = [
            "\n".join([f"Task: {on_one_line(task.instruction)}", *(block(one, order) for one in task.instances)])
            for task in shown
        ]
        asked = "\n\n".join([*examples, f"Task: {candidate.instruction}"])
        ask = _BLOCKS.format(blocks=" and ".join(f"{label}:" for label in order))
        return Question(_OUTPUT_FIRST if kind else _INPUT_FIRST, asked, f"{order[0]}:", ask, stop=("\nTask:",))
