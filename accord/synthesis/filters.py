"""Filters of proposed instructions and instances, and the pool that new instructions must differ from.

The filters are those of Self-Instruct (Wang et al. 2022, arXiv:2212.10560, section 2.2 and its code); rejections are
counted by their names.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from accord.synthesis.parsing import NOTHING
from accord.synthesis.similarity import ComparedText, words
from accord.synthesis.tasks import Candidate, Instance, Task

SIMILAR = 0.7
"""The ROUGE-L with an instruction in the pool at which a new one is rejected."""

FEWEST, MOST = 4, 150
"""Minimum and maximum words of an instruction."""

KEYWORDS = (
    "image", "images", "picture", "pictures", "photo", "photos", "graph", "graphs", "file", "files", "map", "maps",
    "draw", "plot", "plots", "go to", "video", "videos", "audio", "music", "diagram", "diagrams", "flowchart",
)  # fmt: skip
"""Words of tasks that a language model cannot do."""

_KEYWORD = re.compile(rf"\b(?:{'|'.join(KEYWORDS)})\b", re.IGNORECASE)

_APOLOGY = re.compile(r"(?:I(?:'| a)m )?sorry\b|(?:I(?:'| a)m|as) an? (?:AI|language model)\b", re.IGNORECASE)

OF_INSTRUCTIONS = {
    "no reply": "the model gave no reply",
    "unreadable": "the reply is not in the form that was asked for",
    "length": f"the instruction has fewer than {FEWEST} words, or more than {MOST}",
    "keyword": "it asks for what a language model cannot do: images, graphs, files, going somewhere ...",
    "beginning": "it begins with punctuation, a digit, or a letter other than a to z",
    "duplicate": "its words are those of an instruction in the pool",
    "similar": "its ROUGE-L to an instruction in the pool is too high",
    "copied": "it has words of the prompt that asked for it",
    "unclear kind": "the model does not say whether it is classification",
}
"""Filters of instructions, in the order in which they are applied, and what each rejects."""

OF_INSTANCES = {
    "no instance": "no input and output could be read, or the output was cut off",
    "empty": "the output is empty, or says that there is none",
    "unfinished": "input or output ends with a colon",
    "echo": "input and output, or instruction and output, are equal",
    "refusal": "the output is a short apology, or nothing but punctuation",
    "contradictory": "one input has different outputs",
    "repeated": "the instance was there already",
    "low score": "the model's score of the answer, from 1 to 5, is too low, or is none",
}
"""Filters of instances; an instruction left without any is rejected by the filter that removed the first."""


class Pool:
    """All instructions: the seeds, and those accepted since."""

    def __init__(self, seeds: Sequence[Task], similar: float = SIMILAR) -> None:
        self.seeds, self.similar = list(seeds), similar
        self.accepted: list[Task] = []
        self._words = [words(seed.instruction) for seed in seeds]

    def add(self, task: Task) -> None:
        """Add an accepted task."""
        self.accepted.append(task)
        self._words.append(words(task.instruction))

    def screen(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """The candidates that pass every filter of instructions; the others are marked with the first filter they fail.

        Each is compared with the pool and with those that passed before it. Candidates already marked are skipped.
        """
        known, passed = list(self._words), []
        for candidate in candidates:
            candidate.rejected = candidate.rejected or fault_of_instruction(candidate.instruction)
            if candidate.rejected:
                continue
            compared = ComparedText(candidate.instruction)
            candidate.nearest = compared.nearest(known)
            if candidate.nearest >= self.similar or not compared.words:
                candidate.rejected = "duplicate" if compared.words in known else "similar"
                continue
            known.append(compared.words)
            passed.append(candidate)
        return passed


def fault_of_instruction(instruction: str) -> str:
    """The filter that rejects the instruction, of those that need no pool; empty for none."""
    if not FEWEST <= len(instruction.split()) <= MOST:
        return "length"
    if _KEYWORD.search(instruction):
        return "keyword"
    return "" if re.match(r"[A-Za-z]", instruction) else "beginning"


def settle(candidate: Candidate) -> None:
    """Keep the candidate's instances that pass every filter, and reject the candidate if none does."""
    outputs: dict[str, set[str]] = {}
    for one in candidate.instances:
        outputs.setdefault(one.input, set()).add(one.output)
    kept: list[Instance] = []
    for one in candidate.instances:
        fault = fault_of_instance(candidate.instruction, one)
        if not fault and len(outputs[one.input]) > 1:
            fault = "contradictory"
        if not fault and one in kept:
            fault = "repeated"
        if fault:
            candidate.dropped.append((fault, one))
        else:
            kept.append(one)
    candidate.instances = kept
    if not kept and not candidate.rejected:
        candidate.rejected = candidate.dropped[0][0] if candidate.dropped else "no instance"


def fault_of_instance(instruction: str, instance: Instance) -> str:
    """The filter that rejects the single instance; empty for none."""
    output = instance.output.strip()
    if not output or NOTHING.fullmatch(output):
        return "empty"
    if output.endswith(":") or instance.input.strip().endswith(":"):
        return "unfinished"
    if words(output) and words(output) in (words(instance.input), words(instruction)):
        return "echo"
    is_apology = _APOLOGY.match(output) and len(output.split()) < 80
    return "refusal" if is_apology or not re.search(r"\w", output) else ""
