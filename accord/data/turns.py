"""One of the assistant's turns of every conversation as a prompt: what was said before it, to be answered anew.

So ChatGPT's comparisons were made (OpenAI 2022): a message of the model's was picked at random from a conversation,
several other answers were sampled in its place, and people ranked them.
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
    """The prompt that one of the assistant's turns answers, for every conversation of `source`: all said before it.

    `turn` is first, last, random (each turn as likely, drawn by the seed for each row by itself), or the turn's number,
    counted from 1. A prompt keeps its row's other columns, and has the turn's number as `turn`.

    Raises as `load_data`, and InputError, naming the file and the row, where a row is no conversation or has no such
    turn, and where `turn` is none of these.
    """
    wanted = number_of(turn)
    prompts: list[Prompt] = []
    for number, record, found, name in stream_rows(source, split, limit, left_out, columns, keep=True):
        where = f"{name}, row {number}" if name and not isinstance(number, RowNumber) else f"row {number}"
        with located(f"{where}: "):
            before = befores(record)
            place = place_of(wanted, len(before), random.Random(f"turn {seed} {int(number)}"))
        rest = {column: value for column, value in found.items() if column != "prompt"}
        prompts.append(Prompt(before[place - 1], rest | {"turn": place}))
    require_rows(prompts, source, split)
    return prompts


def number_of(turn: str | int) -> str | int:
    """The number of a turn, or first, last or random; InputError where it is none of these."""
    if turn in PICKS:
        return turn
    try:
        number = int(turn)
    except ValueError:
        number = 0
    if number < 1:
        raise InputError(f"--turn must be {', '.join(PICKS)} or the number of a turn, from 1, not {turn}.")
    return number


def befores(record: Row) -> list[tuple[Message, ...]]:
    """What was said before each of the assistant's turns in a conversation; InputError where the row is none."""
    if not isinstance(record, Demonstration | Prompt):
        raise InputError(
            "--turn takes a turn out of a conversation, a row of messages, and this is a "
            f"{type(record).__name__.lower()}"
        )
    said = [record.prompt, record.completion] if isinstance(record, Demonstration) else [record.prompt]
    if any(isinstance(text, str) for text in said):
        raise InputError("--turn takes a turn out of a conversation, a row of messages, and this is a plain text")
    chat = tuple(message for text in said for message in text if isinstance(message, Message))
    return [chat[:i] for i, message in enumerate(chat) if i and message.role == "assistant"]


def place_of(wanted: str | int, turns: int, rng: random.Random) -> int:
    """Which of so many turns is meant, counted from 1; InputError, with how many there are, where there is no such."""
    if isinstance(wanted, int) and wanted <= turns:
        return wanted
    if isinstance(wanted, str) and turns:
        return {"first": 1, "last": turns}.get(wanted) or rng.randint(1, turns)
    has = f"{turns} turn{'' if turns == 1 else 's'}" if turns else "no turn"
    raise InputError(f"there is no turn {wanted} to answer anew: the conversation has {has} of the assistant's")
