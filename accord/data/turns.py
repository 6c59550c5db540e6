"""Prompts from conversations: the messages before one of the assistant's turns, to be answered again.

ChatGPT's comparison data were collected so (OpenAI 2022): a model's message was picked at random from a conversation,
alternative answers were sampled in its place, and people ranked them.
"""

from __future__ import annotations

import random
from collections.abc import Mapping

from accord.data.load import Source, require_rows, stream_rows
from accord.errors import InputError, LeftOut, RowNumber, located
from accord.records import Demonstration, Message, Prompt, Row

PICKS = ("first", "last", "random")


def load_turns(
    source: Source,
    turn: str | int,
    *,
    seed: int = 0,
    split: str = "train",
    limit: int | None = None,
    columns: Mapping[str, str] | None = None,
    left_out: LeftOut | None = None,
) -> list[Prompt]:
    """For every conversation of `source`, the messages before one of the assistant's turns, as a prompt.

    `turn` is "first", "last", "random" (uniform, drawn from the seed and the row's number), or the turn's number from
    1. A prompt keeps its row's other columns, and has the turn's number as `turn`.

    Raises as `load_data`, and InputError, naming the file and row, if a row is no conversation or lacks the turn, or
    `turn` is invalid.
    """
    wanted = parse_turn(turn)
    prompts: list[Prompt] = []
    for number, record, row, name in stream_rows(source, split, limit, left_out, columns, keep=True):
        where = f"{name}, row {number}" if name and not isinstance(number, RowNumber) else f"row {number}"
        with located(f"{where}: "):
            contexts = _contexts(record)
            picked = _pick(wanted, len(contexts), random.Random(f"turn {seed} {int(number)}"))
        rest = {column: value for column, value in row.items() if column != "prompt"}
        prompts.append(Prompt(contexts[picked - 1], rest | {"turn": picked}))
    require_rows(prompts, source, split)
    return prompts


def parse_turn(turn: str | int) -> str | int:
    """A turn's number, or "first", "last" or "random". Raises InputError for anything else."""
    if turn in PICKS:
        return turn
    try:
        number = int(turn)
    except ValueError:
        number = 0
    if number < 1:
        raise InputError(f"--turn must be {', '.join(PICKS)} or the number of a turn, from 1, not {turn}.")
    return number


def _contexts(record: Row) -> list[tuple[Message, ...]]:
    """The messages before each of the assistant's turns. Raises InputError if the row is no conversation."""
    if not isinstance(record, Demonstration | Prompt):
        raise InputError(
            f"--turn needs conversations (rows of messages), and this is a {type(record).__name__.lower()}"
        )
    texts = [record.prompt, record.completion] if isinstance(record, Demonstration) else [record.prompt]
    if any(isinstance(text, str) for text in texts):
        raise InputError("--turn needs conversations (rows of messages), and this is a plain text")
    chat = tuple(message for text in texts for message in text if isinstance(message, Message))
    return [chat[:i] for i, message in enumerate(chat) if i and message.role == "assistant"]


def _pick(wanted: str | int, turns: int, rng: random.Random) -> int:
    """The number, from 1, of the wanted turn among `turns`. Raises InputError if there is no such turn."""
    if isinstance(wanted, int) and wanted <= turns:
        return wanted
    if isinstance(wanted, str) and turns:
        return {"first": 1, "last": turns}.get(wanted) or rng.randint(1, turns)
    has = f"{turns} turn{'' if turns == 1 else 's'}" if turns else "no turn"
    raise InputError(f"there is no turn {wanted} to answer again: the conversation has {has} of the assistant")
