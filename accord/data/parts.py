"""The parts of a message's content that are no text, as APIs write them, in the form that chat templates read.

{"type": "thinking", "thinking": ...} or "reasoning", "text"    the message's reasoning_content (Anthropic, Mistral)
{"type": "tool_use", "id", "name", "input"}                     one of its tool_calls (Anthropic)
{"type": "tool_result", "tool_use_id", "content"}               a message of the tool, before the user's own words
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

THOUGHT_PARTS = {"thinking": "thinking", "reasoning": "text"}
"""Types of parts that are thoughts, each with the key of its text."""


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
    thoughts = [_thought(part) for part in parts if part.get("type") in THOUGHT_PARTS]
    calls = [_call(part) for part in parts if part.get("type") == "tool_use"]
    rest = [part for part in parts if part.get("type") not in (*THOUGHT_PARTS, "tool_use", "tool_result")]
    if not (results or thoughts or calls):
        yield message
    elif rest or thoughts or calls:
        more = {"reasoning_content": "\n\n".join(thoughts)} if thoughts else {}
        yield {**message, "content": rest, **more, **({"tool_calls": calls} if calls else {})}


def _thought(part: Mapping[str, Any]) -> str:
    text = part.get(THOUGHT_PARTS[part["type"]])
    if isinstance(text, list):  # Mistral's
        return "".join(str(inner.get("text", "")) for inner in text if isinstance(inner, Mapping))
    return str(text or "")


def _call(part: Mapping[str, Any]) -> dict[str, Any]:
    function = {"name": part.get("name"), "arguments": part.get("input") or {}}
    return {"type": "function", "function": function} | ({"id": part["id"]} if part.get("id") else {})
