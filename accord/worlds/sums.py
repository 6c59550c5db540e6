"""A small world with known truth: addition on a scratchpad, column by column from the right.

    27+58=7+8+0=15, 2+5+1=08 #### 85

Each column is two digits and the carry into it, and their total in two digits, of which the first is the carry out: so
a step stands by itself, can be checked by itself, and can go wrong in a digit or in a carry. The answer follows the
mark that GSM8K puts before its own (Cobbe et al. 2021, arXiv:2110.14168). A hint gives the answer away before the
problem.

A 0.4 M parameter model that has seen few demonstrations is right now and then, the less often the longer the sums. That
is where learning from one's own right answers (STaR, GRPO) begins, and whether every step of a rationale is right, and
not only its end, is known (`sound`). A sum of d digits adds two numbers of d digits each; one sum in five is held out,
whichever of its numbers comes first.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from tokenizers import Regex
from tokenizers.decoders import Fuse
from tokenizers.pre_tokenizers import Split
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from accord.errors import InputError
from accord.records import Prompt, Text
from accord.worlds import END, PAD, UNKNOWN, fast_tokenizer, in_held_out_fifth, untrained, word_level, write_world

STEP, ANSWER = ", ", " #### "
"""What stands between two columns, and before the answer."""

HINT = "({answer}){prompt}"
"""A problem with its answer in front, where a small model's scratchpad stays as far from the problem as ever."""


@dataclass(frozen=True, slots=True)
class Sum:
    """Two numbers to be added, neither of them negative."""

    first: int
    second: int

    @property
    def prompt(self) -> str:
        """The problem: `27+58=`."""
        return f"{self.first}+{self.second}="

    @property
    def answer(self) -> str:
        """The true answer: `85`."""
        return str(self.first + self.second)

    @property
    def digits(self) -> int:
        """How many columns there are to add."""
        return len(str(max(self.first, self.second)))

    @property
    def scratchpad(self) -> str:
        """The columns from the right, then the answer: `7+8+0=15, 2+5+1=08 #### 85`."""
        columns, carry = [], 0
        for a, b in zip_longest(reversed(str(self.first)), reversed(str(self.second)), fillvalue="0"):
            total = int(a) + int(b) + carry
            columns.append(f"{a}+{b}+{carry}={total:02}")
            carry = total // 10
        return STEP.join(columns) + ANSWER + self.answer


def hinted(prompt: str, answer: str) -> str:
    """The problem with its answer as a hint, for rationalization: `(85)27+58=`."""
    return HINT.format(prompt=prompt, answer=answer)


def sound(prompt: str, completion: str) -> bool:
    """Whether every column of a completion is right, and not only the answer, which a hint may have given away.

    Raises InputError where the prompt is no sum, with or without a hint.
    """
    problem = re.fullmatch(r"(?:\(\d+\))?(\d+)\+(\d+)=", prompt)
    if problem is None:
        raise InputError(f"{prompt!r} is no sum: the world sums knows what is true of prompts such as 27+58=")
    return completion == Sum(int(problem[1]), int(problem[2])).scratchpad


def gold(prompt: Text, completion: Text) -> float:
    """1 where a completion is `sound`, and 0 otherwise; of a chat the user's last and the assistant's messages count.

    Raises InputError where the prompt is no sum.
    """
    if not isinstance(prompt, str):
        prompt = next((message.content for message in reversed(prompt) if message.role == "user"), "")
    if not isinstance(completion, str):
        completion = " ".join(message.content for message in completion if message.role == "assistant")
    return float(sound(prompt, completion))


DEMONSTRATION_DIGITS = {1: 0.25, 2: 0.55, 3: 0.15, 4: 0.05}
"""The share of the demonstrations that have so many digits."""

PRACTICE_DIGITS = {1: 0.03, 2: 0.32, 3: 0.35, 4: 0.30}
"""The share of the problems to train on that have so many digits; of 1 digit there are only 77."""

HINT_SHARE = 0.5
"""The share of the demonstrations that come with the answer as a hint, at every length."""


def demonstrations(seed: int, n: int) -> list[dict[str, Any]]:
    """`n` rows of prompt, completion, answer and digits: mostly short sums, half of them with a hint."""
    rng = random.Random(f"demonstrations {seed}")
    rows = []
    for digits in rng.choices(*zip(*DEMONSTRATION_DIGITS.items(), strict=True), k=n):
        problem = draw(rng, digits, held_out=False)
        prompt = hinted(problem.prompt, problem.answer) if rng.random() < HINT_SHARE else problem.prompt
        rows.append({"prompt": prompt, "completion": problem.scratchpad, "answer": problem.answer, "digits": digits})
    return rows


def problems(seed: int, n: int) -> list[Prompt]:
    """`n` different problems of 1 to 4 digits to train on, in random order, none of which is ever in `heldout`."""
    rng = random.Random(f"problems {seed}")
    drawn: list[Sum] = []
    for digits, share in PRACTICE_DIGITS.items():
        drawn += _different(rng, digits, round(n * share), held_out=False)
    rng.shuffle(drawn)
    return [_asked(problem) for problem in drawn]


def heldout(seed: int, digits: int, n: int) -> list[Prompt]:
    """`n` different problems of so many digits to evaluate on, which no other rows hold."""
    rng = random.Random(f"held out {seed}")
    return [_asked(problem) for problem in _different(rng, digits, n, held_out=True)]


def draw(rng: random.Random, digits: int, *, held_out: bool) -> Sum:
    """A sum of two numbers of so many digits, of those held out or of the others."""
    smallest = 10 ** (digits - 1) if digits > 1 else 0
    while True:
        problem = Sum(rng.randrange(smallest, 10**digits), rng.randrange(smallest, 10**digits))
        if is_held_out(problem) == held_out:
            return problem


def is_held_out(problem: Sum) -> bool:
    """Whether a sum is of the one in five held out; 58+27 goes where 27+58 does."""
    return in_held_out_fifth("{}+{}".format(*sorted((problem.first, problem.second))))


def _different(rng: random.Random, digits: int, n: int, *, held_out: bool) -> list[Sum]:
    drawn: dict[Sum, None] = {}
    for _ in range(100 * n):
        drawn[draw(rng, digits, held_out=held_out)] = None
        if len(drawn) == n:
            return list(drawn)
    raise ValueError(f"there are only {len(drawn)} different sums of {digits} digits to draw, not {n}")


def _asked(problem: Sum) -> Prompt:
    return Prompt(problem.prompt, {"answer": problem.answer, "digits": problem.digits})


SIGNS = (*"0123456789+=()", STEP, ANSWER)
VOCABULARY = (PAD, END, UNKNOWN, *SIGNS)
CONTEXT = 96
"""A hinted problem of 4 digits and its scratchpad take 59 tokens; the scratchpad alone, with its end, takes 42."""


def tokenizer() -> PreTrainedTokenizerFast:
    """One token for each of `SIGNS`, another for any other character; it decodes to exactly what it was given."""
    signs = word_level(VOCABULARY)
    signs.pre_tokenizer = Split(Regex("|".join([*map(re.escape, SIGNS), "."])), "isolated")
    signs.decoder = Fuse()
    return fast_tokenizer(signs, CONTEXT)


def new_model(seed: int) -> LlamaForCausalLM:
    """An untrained Llama of 0.4 M parameters in float32, whose weights the seed decides."""
    return untrained(seed, VOCABULARY, CONTEXT, width=128, inner_width=320, layers=2, heads=4, key_value_heads=4)


def write(folder: str | Path, seed: int = 0) -> None:
    """Write the world as files, so that a pipeline needs nothing but files.

    `demonstrations.jsonl`, `train.jsonl` (problems and their answers), `heldout-2.jsonl` to `heldout-4.jsonl` (to
    evaluate on, by digits), and `init/`, an untrained model with its tokenizer as a Hugging Face folder.
    """
    asked = {f"heldout-{digits}": heldout(seed, digits, 300) for digits in (2, 3, 4)}
    taught: dict[str, Any] = {"demonstrations": demonstrations(seed, 2_000), "train": problems(seed, 2_000)}
    write_world(Path(folder), {**taught, **asked}, new_model(seed), tokenizer())
