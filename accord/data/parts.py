"""What APIs write in a message beside its text, in the form that chat templates read.

{"type": "thinking", "thinking": ...} or "reasoning", "text"    the message's reasoning_content (Anthropic, Mistral)
{"type": "tool_use", "id", "name", "input"}                     one of its tool_calls (Anthropic)
{"type": "tool_result", "tool_use_id", "content"}               a message of the tool, before the user's own words
reasoning: [{"type": "reasoning.text", "text": ...}] or "summary", also as reasoning_details, thinking_blocks
                                                                its reasoning_content (OpenAI, OpenRouter, LiteLLM)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from accord.errors import InputError

THOUGHTS = ("reasoning_content", "reasoning", "thinking")
"""What a model thought before its answer: keys of a message, and columns of a row."""

THOUGHT_PARTS = ("thinking", "reasoning")
"""Types of parts that are thoughts."""

THOUGHT_KEYS = ("thinking", "text", "summary", "content")
"""Keys of the text of a thought that is an object."""

THOUGHT_BLOCKS = ("reasoning_details", "thinking_blocks")
"""Keys of messages that hold a thought as a list of objects, mostly beside the same thought as a text."""

SEALED = ("reasoning.encrypted", "redacted_thinking")
"""Types of objects that hold a part of a thought which only the API can read."""


def messages_of_parts(message: Any) -> Iterator[Any]:
    """Yield a message as one or several without thoughts, calls and results among the parts of its content."""
    parts = message.get("content") if isinstance(message, Mapping) else None
    if not isinstance(parts, list) or not all(isinstance(part, Mapping) for part in parts):
        yield message
        return
    results = [part for part in parts if part.get("type") == "tool_result"]
    for part in results:
        link = {"tool_call_id": part["tool_use_id"]} if part.get("tool_use_id") else {}
        yield {"role": "tool", "content": part.get("content") or "", **link}
    thoughts = [part for part in parts if part.get("type") in THOUGHT_PARTS and thought_in(part) is not None]
    calls = [_call(part) for part in parts if part.get("type") == "tool_use"]
    rest = [part for part in parts if part.get("type") not in ("tool_use", "tool_result") and part not in thoughts]
    if not (results or thoughts or calls):
        yield message
    elif rest or thoughts or calls:
        more = {"reasoning_content": thought_in(thoughts)} if thoughts else {}
        yield {**message, "content": rest, **more, **({"tool_calls": calls} if calls else {})}


def thought_in(value: Any) -> str | None:
    """The thought in a value: a text, an object with a text under one of `THOUGHT_KEYS`, or a list of such objects.

    None if it is none of these, or nothing of it can be read.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return next((text for key in THOUGHT_KEYS if (text := thought_in(value.get(key))) is not None), None)
    if not isinstance(value, list) or not all(isinstance(one, Mapping) for one in value):
        return None
    texts = [thought_in(one) for one in value if one.get("type") not in SEALED]
    if not texts or None in texts:
        return None
    between = "" if all(one.get("type") == "text" for one in value) else "\n\n"  # Mistral's are one thought in pieces
    return between.join(text for text in texts if text)


def with_thought(more: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A message's other keys with its thought as a text. Raises InputError if it has one that is in no known form."""
    told = {}
    for key in (key for key in THOUGHTS if key in more):
        thought = thought_in(more[key])
        if thought is None:
            raise InputError(
                f"{where} has {key!r} of type {type(more[key]).__name__}, in which there is no thought to read: write "
                "the thought as text, or remove the key"
            )
        told[key] = thought
    rest = {key: value for key, value in more.items() if key not in THOUGHTS}
    for key in THOUGHT_BLOCKS:
        thought = thought_in(rest.get(key))
        if thought is not None and (not told or _squeezed(thought) in map(_squeezed, told.values())):
            del rest[key]
            told = told or {"reasoning_content": thought}
    return {**rest, **{key: thought for key, thought in told.items() if thought}}


def _squeezed(text: str) -> str:
    """A text without white space, which pieces of a stream may be joined with."""
    return "".join(text.split())


def _call(part: Mapping[str, Any]) -> dict[str, Any]:
    function = {"name": part.get("name"), "arguments": part.get("input") or {}}
    return {"type": "function", "function": function} | ({"id": part["id"]} if part.get("id") else {})
