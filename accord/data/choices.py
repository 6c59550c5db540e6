"""A user's earlier choices written into the prompt, so that a policy is conditioned on the user's preferences.

    These are choices I made between two answers.

    Question: is the soup good tonight?
    I like: The soup is rich and warm.
    I dislike: The soup is salty.

    Answer as I like:

    how is the pie?

The choices precede the user's first words, in the user's voice: at the start of the first user message of a chat, and
at the start of a plain prompt. They thus work with any chat template. Without choices a prompt is unchanged. Training
(`accord fspo`), `accord sample --choices` and `accord evaluate users` share this format.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from accord.arrays import Ints
from accord.data.chat import encode_prompt
from accord.data.conventions import user_of
from accord.data.judgments import to_pairs
from accord.data.load import Source, load_data
from accord.data.mix import called
from accord.engine.trees import Tree
from accord.errors import InputError, LeftOut, located, row_called
from accord.records import Message, Preference, Prompt, Ranking, Row, Text, show

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

OPENING = "These are choices I made between two answers."
CLOSING = "Answer as I like:"

EMPTY = Preference("", "", "")
NO_USER = "does not say whose preference it is: rows need a column user, or one that --columns user=COLUMN names."


def with_choices(prompt: Text, choices: Sequence[Preference]) -> Text:
    """The prompt preceded by a user's choices, in order, in the format of the module's docstring."""
    if not choices:
        return prompt
    before = "\n\n".join((OPENING, *map(_written, choices), CLOSING))
    if isinstance(prompt, str):
        return f"{before}\n\n{prompt}"
    first = next((i for i, turn in enumerate(prompt) if turn.role == "user"), None)
    if first is None:
        return (*prompt, Message("user", before))
    turn = replace(prompt[first], content=f"{before}\n\n{prompt[first].content}")
    return (*prompt[:first], turn, *prompt[first + 1 :])


def _written(choice: Preference) -> str:
    asked = choice.prompt
    if not isinstance(asked, str) and len(asked) == 1:
        asked = asked[0].words
    answers = f"I like: {_answer_text(choice.chosen)}\nI dislike: {_answer_text(choice.rejected)}"
    return f"Question: {show(asked)}\n{answers}" if asked else answers


def _answer_text(completion: Text) -> str:
    """The assistant's text if the completion is one message; else the whole dialogue."""
    if not isinstance(completion, str) and len(completion) == 1:
        return completion[0].words
    return show(completion)


def encode_with_choices(
    tokenizer: PreTrainedTokenizerBase, prompt: Text, choices: Sequence[Preference], longest: int
) -> tuple[Ints, int]:
    """Encode a prompt with as many of the first choices as fit into `longest` tokens.

    Returns:
        the tokens, and the number of choices included; a prompt longer than `longest` is encoded alone.
    """
    for k in range(len(choices), 0, -1):
        tokens = encode_prompt(tokenizer, with_choices(prompt, choices[:k]))
        if len(tokens) <= longest:
            return tokens, k
    return encode_prompt(tokenizer, prompt), 0


@dataclass(frozen=True, slots=True)
class UserTree(Tree):
    """A user's comparison as a tree; its prompt includes `given` of the user's other choices, none at first.

    `of_user` holds all comparisons of the user, each with the index of its data row.
    """

    comparison: Preference = EMPTY
    of_user: Sequence[tuple[int, Preference]] = ()
    given: int = 0

    def others(self) -> list[Preference]:
        """The choices that may precede this comparison: those of the user's other rows and other prompts.

        Comparisons of one prompt, or of no prompt, may share an answer, which would reveal the preference.
        """
        own = self.comparison
        answers = {own.chosen, own.rejected}
        return [
            choice
            for row, choice in self.of_user
            if row != self.row
            and (choice.prompt != own.prompt if own.prompt else answers.isdisjoint((choice.chosen, choice.rejected)))
        ]


def draw(asked: UserTree, most: int, rng: random.Random) -> list[Preference]:
    """Draw k choices to precede a comparison, with k uniform in 0..`most`; all of them if there are fewer."""
    others = asked.others()
    return rng.sample(others, min(rng.randint(0, most), len(others)))


def user_pairs(rows: Sequence[Row], left_out: LeftOut) -> tuple[list[Preference], list[int]]:
    """The preferences, and the strict pairs of rankings, each with the index of its row.

    Raises InputError, naming the row, if a row has no user.
    """
    pairs: list[Preference] = []
    origin: list[int] = []
    for i, row in enumerate(rows):
        if not isinstance(row, Preference | Ranking) or not row.user:
            raise InputError(f"{row_called(left_out.index(i))} {NO_USER}")
        of_row = [row] if isinstance(row, Preference) else to_pairs(row)
        pairs += of_row
        origin += [i] * len(of_row)
    return pairs, origin


@dataclass(frozen=True)
class Choices:
    """Choices by user, in row order; `name` is their source's name in messages."""

    name: str
    by_user: Mapping[str, Sequence[Preference]]

    @staticmethod
    def read(source: Source) -> Choices:
        """Read a file of preferences or rankings. Raises InputError for rows of another kind, or without a user."""
        by_user: dict[str, list[Preference]] = defaultdict(list)
        name, left_out = called(source), LeftOut(strict=True)
        rows = load_data(source, left_out=left_out)
        if not isinstance(rows[0], Preference | Ranking):
            raise InputError(
                f"{name} holds {type(rows[0]).__name__.lower()}s, and choices are preferences or rankings."
            )
        with located(f"{name}, "):
            pairs, _ = user_pairs(rows, left_out)
        for pair in pairs:
            by_user[pair.user].append(pair)
        return Choices(name, dict(by_user))

    def before(self, prompt: Prompt, k: int, row: int) -> list[Preference]:
        """The first k choices of the prompt's user, without choices of this same prompt.

        Raises InputError, naming the row, if the prompt has no user, or its user has fewer choices.
        """
        user = user_of(prompt.columns)
        if not user:
            raise InputError(f"{row_called(row)} does not say who asks: with --choices, rows need a column user.")
        others = [choice for choice in self.by_user.get(user, ()) if choice.prompt != prompt.prompt]
        if len(others) < k:
            raise InputError(
                f"{row_called(row)}: {self.name} has {len(others)} choices of other prompts by the user {user}, but "
                f"--given asks for {k}: lower it, or leave the row out."
            )
        return others[:k]
