"""Files of samples: prompts and completions as `accord sample` writes them, or as demonstrations have them."""

from __future__ import annotations

import os

from accord.data.load import open_rows
from accord.data.messages import read_prompt, read_text
from accord.errors import InputError
from accord.records import Message, Prompt, Text


def load_samples(path: str | os.PathLike[str]) -> list[tuple[Text, Text]]:
    """The prompts and completions in a file of samples: rows as demonstrations have them, but a model may say nothing.

    A chat's completion is a chat, an empty one an empty message.

    Raises InputError as `load_data` does.
    """
    return [(prompt.prompt, completion) for prompt, completion in load_prompted_samples(path)]


def load_prompted_samples(path: str | os.PathLike[str]) -> list[tuple[Prompt, Text]]:
    """The same, each prompt with its row's other columns: `answer`, perhaps, or the `stop` of `accord sample`."""
    name, unit, numbered = open_rows(path, "train")
    samples: list[tuple[Prompt, Text]] = []
    for number, columns in numbered:
        try:
            if not {"prompt", "completion"} <= columns.keys():
                raise InputError(f"a sample has the columns prompt and completion, and here are {', '.join(columns)}")
            prompt = read_prompt(columns["prompt"])
            completion = read_text(columns["completion"], "completion")
        except InputError as error:
            raise InputError(f"{name}, {unit} {number}: {error}") from None
        chat = (Message("assistant", completion),) if isinstance(completion, str) else completion
        rest = {name: value for name, value in columns.items() if name not in ("prompt", "completion")}
        samples.append((Prompt(prompt, rest), completion if isinstance(prompt, str) else chat))
    return samples
