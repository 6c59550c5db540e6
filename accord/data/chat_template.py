"""Chats as their tokenizer's chat template writes them: a program of somebody's, which may refuse or lose words."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from accord.errors import InputError
from accord.limits import within
from accord.parsing import parse_json
from accord.records import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TEMPLATE_SECONDS = 10
"""A chat template is a program, which may have no end."""


def render(tokenizer: PreTrainedTokenizerBase, chat: Sequence[Message], *, generation: bool) -> str:
    """The chat as its tokenizer's template writes it, with the generation prompt where `generation`.

    Raises:
        InputError: there is no template, it refuses the chat, or does not read something that a message holds.
    """
    template = tokenizer.chat_template
    if template is None:
        raise InputError(
            "the tokenizer has no chat template: give it one by --chat-template, or use plain text in place of messages"
        )
    if not chat:
        raise InputError("a chat needs a turn before the assistant's first: its prompt has no messages")
    tools = next((turn.more["tools"] for turn in chat if "tools" in turn.more), None)
    messages = [{"role": turn.role, "content": turn.content, **for_template(turn, str(template))} for turn in chat]
    try:
        with within(TEMPLATE_SECONDS):
            text = tokenizer.apply_chat_template(
                messages, tools=tools, tokenize=False, add_generation_prompt=generation
            )
    except Exception as error:  # a template is a program of somebody's, and may raise anything
        said = str(error) if isinstance(error, TemplateError) else f"{type(error).__name__}: {error}"
        system = "; --system fold puts the system's words into the first question" if chat[0].role == "system" else ""
        raise InputError(f"the tokenizer's chat template refuses the chat ({said}){system}") from None
    if chat[0].role == "system" and chat[0].content.strip() not in text:
        raise InputError(
            "the tokenizer's chat template leaves out the system's words; --system fold puts them into the first "
            "question"
        )
    return str(text)


OURS = ("weight", "train", "tools")
"""What messages hold for accord and not for the template."""

UNSAID = ("id", "tool_call_id")
"""What ties a tool's result to its call, which templates may leave out, as they may a tool's name."""


def for_template(turn: Message, template: str) -> dict[str, Any]:
    """What else a message holds, as templates read it; InputError where nothing reads it."""
    more = {key: value for key, value in turn.more.items() if key not in OURS}
    for key in more:
        may_be_left_out = key in UNSAID or (key == "name" and turn.role == "tool")
        if not may_be_left_out and not re.search(rf"\b{re.escape(key)}\b", template):
            raise InputError(
                f"a message holds {key!r}, which the chat template does not read: remove it, write it into 'content', "
                "or give a template that reads it by --chat-template"
            )
    if "tool_calls" in more:
        more["tool_calls"] = [_call(call) for call in more["tool_calls"]]
    return more


def _call(call: Any) -> Any:
    """A tool call whose arguments are an object, as templates have them, where they are one in a string."""
    if not isinstance(call, Mapping) or not isinstance(call.get("function"), Mapping):
        return call
    function = dict(call["function"])
    try:
        function["arguments"] = parse_json(function["arguments"])
    except (KeyError, TypeError, ValueError):
        return call
    return {**call, "function": function}
