"""Tool calls in the forms that chat templates read, and whether a template writes all tools and calls."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeAlias

from accord.errors import InputError
from accord.parsing import parse_json

Messages: TypeAlias = Sequence[Mapping[str, Any]]

PROBE = "qzxprobexzq"
"""A word that no chat has, to see whether a template writes something."""


def without_nulls(value: Any) -> Any:
    """Tools or calls without null keys, which Arrow tables add to every object."""
    if isinstance(value, Mapping):
        return {key: without_nulls(held) for key, held in value.items() if held is not None}
    return [without_nulls(held) for held in value] if isinstance(value, list) else value


def write_calls(write: Callable[[Messages], str], messages: Messages) -> tuple[str, Messages]:
    """The template's text of a chat, and its messages in the first form of which it writes all tool calls.

    Raises InputError where it leaves one out in every form, and what `write` raises where it refuses every form.
    """
    refused: TypeError | None = None
    dropped: int | None = None
    for form in _forms(messages):
        try:
            text = write(form)
        except TypeError as error:  # as of an object that is joined to a text
            refused = refused or error
            continue
        if (turn := _dropped_call(write, form)) is None:
            return text, form
        dropped = turn if dropped is None else dropped
    if dropped is None and refused is not None:
        raise refused
    raise InputError(
        f"the tokenizer's chat template leaves out a tool call of turn {int(dropped or 0) + 1} (assistant): give one "
        "that writes it by --chat-template, write several calls of a turn as turns of their own, or leave the row out"
    )


def _forms(messages: Messages) -> Iterator[Messages]:
    """A chat in the forms that templates expect of tool calls: arguments as an object or, for DeepSeek's, as text."""
    if not any(message.get("tool_calls") for message in messages):
        yield messages
        return
    for as_form in (_with_object, _with_text):
        yield [{**m, "tool_calls": [*map(as_form, m["tool_calls"])]} if m.get("tool_calls") else m for m in messages]


def _with_object(call: Any) -> Any:
    """A call with its arguments as an object. Raises InputError if they are a text that is not JSON."""
    if not _is_function(call) or not isinstance(given := call["function"].get("arguments"), str):
        return call
    try:
        return {**call, "function": {**call["function"], "arguments": parse_json(given) if given.strip() else {}}}
    except ValueError:
        raise InputError(
            f"a call of {call['function'].get('name')!r} has arguments that are not JSON, {given[:60]!r}: mend them, "
            "or leave the row out"
        ) from None


def _with_text(call: Any) -> Any:
    """A call with its arguments as text, unchanged if they are one."""
    if not _is_function(call) or isinstance(given := call["function"].get("arguments", {}), str):
        return call
    return {**call, "function": {**call["function"], "arguments": json.dumps(given, ensure_ascii=False)}}


def _dropped_call(write: Callable[[Messages], str], messages: Messages) -> int | None:
    """The index of a turn of which the template leaves out a tool call; None if it writes all.

    Each call is given a name that no chat has, which the text must then contain.
    """
    turns: dict[str, int] = {}
    renamed: list[Mapping[str, Any]] = []
    for i, message in enumerate(messages):
        calls = []
        for call in message.get("tool_calls") or ():
            if _is_function(call):
                name = f"{PROBE}{len(turns)}q"
                turns[name] = i
                call = {**call, "function": {**call["function"], "name": name}}
            calls.append(call)
        renamed.append({**message, "tool_calls": calls} if calls else message)
    with suppress(Exception):  # a template that refuses the name reads the call
        text = write(renamed).lower() if turns else ""
        return next((turn for name, turn in turns.items() if name not in text), None)
    return None


def _is_function(call: Any) -> bool:
    return isinstance(call, Mapping) and isinstance(call.get("function"), Mapping)


def require_tools_written(tools: Any, text: str) -> None:
    """Raise InputError if a tool's name is missing from the rendered text, since templates may ignore tools."""
    named = [tool.get("function", tool) for tool in tools or () if isinstance(tool, Mapping)]
    names = [tool["name"] for tool in named if isinstance(tool, Mapping) and isinstance(tool.get("name"), str)]
    lost = next((name for name in names if name not in text), None)
    if lost is not None:
        raise InputError(
            f"the tokenizer's chat template leaves out the tool {lost!r}: give one that reads tools by "
            "--chat-template, or leave them out by --columns tools="
        )
