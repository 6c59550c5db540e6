"""The prompts of rows, whatever else the rows hold, as a sampler takes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from accord.data.chat import encode_prompt
from accord.errors import InputError
from accord.records import Prompt, Row


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    """A prompt, its tokens, and the row of the data it came from, counted from 0."""

    prompt: Prompt
    tokens: tuple[int, ...]
    row: int


def encode_prompts(
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row],
    *,
    room: int,
    context: int | None,
    longest: int | None = None,
) -> tuple[list[EncodedPrompt], list[str]]:
    """The rows' prompts that leave `room` for a completion within `longest` tokens, and a line for those left out.

    Raises:
        InputError: a prompt is empty, or with its completion would not fit into the model's `context`, or all are
            longer than `longest`.
    """
    kept: list[EncodedPrompt] = []
    long: list[int] = []
    for i, row in enumerate(rows):
        prompt = row if isinstance(row, Prompt) else Prompt(row.prompt)
        tokens = encode_prompt(tokenizer, prompt.prompt)
        if not tokens:
            raise InputError(f"row {i + 1} has an empty prompt; give it something to answer.")
        if context is not None and len(tokens) + room > context:
            raise InputError(
                f"row {i + 1}: the prompt of {len(tokens)} tokens and a completion of {room} do not fit into the "
                f"model's context of {context}; shorten the prompt or lower --max-new-tokens."
            )
        if longest is not None and len(tokens) + room > longest:
            long.append(i + 1)
        else:
            kept.append(EncodedPrompt(prompt, tokens, i))
    if long and not kept:
        raise InputError(f"no prompt leaves room for {room} new tokens within {longest} tokens; raise --max-length.")
    named = ", ".join(map(str, long[:8])) + (" ..." if len(long) > 8 else "")
    told = (
        [f"{len(long)} rows left out, as their prompts leave no room within {longest} tokens (rows {named})"]
        if long
        else []
    )
    return kept, told
