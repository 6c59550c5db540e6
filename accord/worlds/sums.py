"""A small world with known truth: addition on a scratchpad, column by column from the right.

    27+58=7+8+0=15, 2+5+1=08 #### 85

Each column has two digits and the carry into it, and their total in two digits, the first of which is the carry out:
each step can be checked by itself, and can be wrong in a digit or in a carry. The answer follows the mark that GSM8K
uses (Cobbe et al. 2021, arXiv:2110.14168). A hint puts the answer before the problem.

A 0.4 M parameter model trained on few demonstrations is right now and then, less often for longer sums: a start for
learning from one's own correct answers (STaR, GRPO). Whether every step of a rationale is right, not only the answer,
is known (`sound`). A sum of d digits adds two numbers of d digits each; one sum in five is held out, in either order of
its numbers.
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
"""The separators between columns, and before the answer."""

HINT = "({answer}){prompt}"
"""A problem with its answer in front, which leaves the distance from problem to scratchpad unchanged."""


@dataclass(frozen=True, slots=True)
class Sum:
    """Two non-negative numbers to add."""

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
        """The number of columns."""
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
    """Whether every column of a completion is right, not only the answer, which a hint may have given.

    Raises InputError where the prompt is no sum, with or without a hint.
    """
    problem = re.fullmatch(r"(?:\(\d+\))?(\d+)\+(\d+)=", prompt)
    if problem is None:
        raise InputError(f"{prompt!r} is no sum: the world sums knows what is true of prompts such as 27+58=")
    return completion == Sum(int(problem[1]), int(problem[2])).scratchpad


def gold(prompt: Text, completion: Text) -> float:
    """1 where a completion is `sound`, else 0; in a chat the user's last and the assistant's messages count.

    Raises InputError where the prompt is no sum.
    """
    if not isinstance(prompt, str):
        prompt = next((message.content for message in reversed(prompt) if message.role == "user"), "")
    if not isinstance(completion, str):
        completion = " ".join(message.content for message in completion if message.role == "assistant")
    return float(sound(prompt, completion))


DEMONSTRATION_DIGITS = {1: 0.25, 2: 0.55, 3: 0.15, 4: 0.05}
"""The share of demonstrations by number of digits."""

PRACTICE_DIGITS = {1: 0.03, 2: 0.32, 3: 0.35, 4: 0.30}
"""The share of training problems by number of digits; there are only 77 of 1 digit."""

HINT_SHARE = 0.5
"""The share of demonstrations that have the answer as a hint, at every length."""


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
    """`n` different training problems of 1 to 4 digits, in random order, disjoint from `heldout`."""
    rng = random.Random(f"problems {seed}")
    drawn: list[Sum] = []
    for digits, share in PRACTICE_DIGITS.items():
        drawn += _different(rng, digits, round(n * share), held_out=False)
    rng.shuffle(drawn)
    return [_prompt_of(problem) for problem in drawn]


def heldout(seed: int, digits: int, n: int) -> list[Prompt]:
    """`n` different evaluation problems of this many digits, disjoint from all other rows."""
    rng = random.Random(f"held out {seed}")
    return [_prompt_of(problem) for problem in _different(rng, digits, n, held_out=True)]


def draw(rng: random.Random, digits: int, *, held_out: bool) -> Sum:
    """A sum of two numbers of this many digits, from the held-out ones or from the others."""
    smallest = 10 ** (digits - 1) if digits > 1 else 0
    while True:
        problem = Sum(rng.randrange(smallest, 10**digits), rng.randrange(smallest, 10**digits))
        if is_held_out(problem) == held_out:
            return problem


def is_held_out(problem: Sum) -> bool:
    """Whether a sum is in the held-out fifth; 58+27 is where 27+58 is."""
    return in_held_out_fifth("{}+{}".format(*sorted((problem.first, problem.second))))


def _different(rng: random.Random, digits: int, n: int, *, held_out: bool) -> list[Sum]:
    drawn: dict[Sum, None] = {}
    for _ in range(100 * n):
        drawn[draw(rng, digits, held_out=held_out)] = None
        if len(drawn) == n:
            return list(drawn)
    raise ValueError(f"there are only {len(drawn)} different sums of {digits} digits to draw, not {n}")


def _prompt_of(problem: Sum) -> Prompt:
    return Prompt(problem.prompt, {"answer": problem.answer, "digits": problem.digits})


SIGNS = (*"0123456789+=()", STEP, ANSWER)
VOCABULARY = (PAD, END, UNKNOWN, *SIGNS)
CONTEXT = 96
"""Context length: a hinted problem of 4 digits with its scratchpad takes 59 tokens, the scratchpad with its end 42."""


def tokenizer() -> PreTrainedTokenizerFast:
    """One token for each of `SIGNS`, and one for any other character; decoding inverts encoding exactly."""
    signs = word_level(VOCABULARY)
    signs.pre_tokenizer = Split(Regex("|".join([*map(re.escape, SIGNS), "."])), "isolated")
    signs.decoder = Fuse()
    return fast_tokenizer(signs, CONTEXT)


def new_model(seed: int) -> LlamaForCausalLM:
    """An untrained float32 Llama of 0.4 M parameters; the seed decides its weights."""
    return untrained(seed, VOCABULARY, CONTEXT, width=128, inner_width=320, layers=2, heads=4, key_value_heads=4)


def write(folder: str | Path, seed: int = 0) -> None:
    """Write the world as files for pipelines.

    `demonstrations.jsonl`, `train.jsonl` (problems and their answers), `heldout-2.jsonl` to `heldout-4.jsonl` (to
    evaluate on, by digits), and `init/`, an untrained model with its tokenizer as a Hugging Face folder.
    """
    asked = {f"heldout-{digits}": heldout(seed, digits, 300) for digits in (2, 3, 4)}
    taught: dict[str, Any] = {"demonstrations": demonstrations(seed, 2_000), "train": problems(seed, 2_000)}
    write_world(Path(folder), {**taught, **asked}, new_model(seed), tokenizer())
