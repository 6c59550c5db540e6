"""What a user chose before, as text in a prompt: so a policy is told whom it answers.

    These are choices I made between two answers.

    Question: is the soup good tonight?
    I like: The soup is rich and warm.
    I dislike: The soup is salty.

    Answer as I like:

    how is the pie?

The choices stand before the first words of the user, in their own voice: in a chat at the beginning of the user's first
message, after a system message, and in a plain prompt at its beginning. So any model that reads the prompt reads them,
whatever its chat template. Without choices a prompt is as it was. Training (`accord fspo`), `accord sample --choices`
and `accord evaluate users` all write choices so, and in no other way.
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

NOTHING = Preference("", "", "")
NAMELESS = "does not say whose preference it is: rows need a column user, or one that --columns user=COLUMN names."


def given(prompt: Text, choices: Sequence[Preference]) -> Text:
    """The prompt with a user's choices before it, in their order, as the module's docstring shows."""
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
        asked = asked[0].content
    answers = f"I like: {_said(choice.chosen)}\nI dislike: {_said(choice.rejected)}"
    return f"Question: {show(asked)}\n{answers}" if asked else answers


def _said(completion: Text) -> str:
    """What the assistant says, where that is all there is; else the whole of the dialogue."""
    if not isinstance(completion, str) and len(completion) == 1:
        return completion[0].content
    return show(completion)


def encode_given(
    tokenizer: PreTrainedTokenizerBase, prompt: Text, choices: Sequence[Preference], longest: int
) -> tuple[Ints, int]:
    """The tokens of a prompt with as many of the choices, from the first on, as leave it at most `longest` tokens.

    Returns:
        the tokens, and how many choices those are; a prompt that is too long by itself stands alone.
    """
    for k in range(len(choices), 0, -1):
        tokens = encode_prompt(tokenizer, given(prompt, choices[:k]))
        if len(tokens) <= longest:
            return tokens, k
    return encode_prompt(tokenizer, prompt), 0


@dataclass(frozen=True, slots=True)
class AskedTree(Tree):
    """A comparison of a user's as a tree whose prompt has `given` of the user's choices before it: as it comes, none.

    `of_user` are all comparisons of the user, each with the row of the data that it is from.
    """

    comparison: Preference = NOTHING
    of_user: Sequence[tuple[int, Preference]] = ()
    given: int = 0

    def others(self) -> list[Preference]:
        """What may be given before it: the user's choices of other rows and other prompts.

        Two comparisons of one prompt may share an answer, which would tell of the other; so may two without a prompt.
        """
        own = self.comparison
        answers = {own.chosen, own.rejected}
        return [
            choice
            for row, choice in self.of_user
            if row != self.row
            and (choice.prompt != own.prompt if own.prompt else answers.isdisjoint((choice.chosen, choice.rejected)))
        ]


def draw(asked: AskedTree, most: int, rng: random.Random) -> list[Preference]:
    """Choices to be given before a comparison: k of them, k uniform from 0 to `most`, or all where there are fewer."""
    others = asked.others()
    return rng.sample(others, min(rng.randint(0, most), len(others)))


def of_users(rows: Sequence[Row], left_out: LeftOut) -> tuple[list[Preference], list[int]]:
    """Preferences, and the strict pairs of rankings, each of a user; and of which of the rows each is, from 0.

    Raises InputError, naming the row, where one does not say whose it is.
    """
    pairs: list[Preference] = []
    origin: list[int] = []
    for i, row in enumerate(rows):
        if not isinstance(row, Preference | Ranking) or not row.user:
            raise InputError(f"{row_called(left_out.index(i))} {NAMELESS}")
        of_row = [row] if isinstance(row, Preference) else to_pairs(row)
        pairs += of_row
        origin += [i] * len(of_row)
    return pairs, origin


@dataclass(frozen=True)
class Choices:
    """Choices of users, by user, in the order of the rows that they come from; `name` is what messages call those."""

    name: str
    by_user: Mapping[str, Sequence[Preference]]

    @staticmethod
    def read(source: Source) -> Choices:
        """Those in a file of preferences or rankings. InputError where its rows are none, or one is nobody's."""
        found: dict[str, list[Preference]] = defaultdict(list)
        name, left_out = called(source), LeftOut(strict=True)
        rows = load_data(source, left_out=left_out)
        if not isinstance(rows[0], Preference | Ranking):
            raise InputError(
                f"{name} holds {type(rows[0]).__name__.lower()}s, and choices are preferences or rankings."
            )
        with located(f"{name}, "):
            pairs, _ = of_users(rows, left_out)
        for pair in pairs:
            found[pair.user].append(pair)
        return Choices(name, dict(found))

    def before(self, prompt: Prompt, k: int, row: int) -> list[Preference]:
        """The first k choices of the user whose prompt it is; what was chosen of this very prompt is none of them.

        Raises InputError, naming the row, where it does not say who asks, or the user made fewer choices.
        """
        user = user_of(prompt.columns)
        if not user:
            raise InputError(f"{row_called(row)} does not say who asks: to be given choices, rows need a column user.")
        others = [choice for choice in self.by_user.get(user, ()) if choice.prompt != prompt.prompt]
        if len(others) < k:
            raise InputError(
                f"{row_called(row)}: of the user {user} {self.name} has {len(others)} choices of other prompts, and "
                f"--given asks for {k}: lower it, or leave the row out."
            )
        return others[:k]
