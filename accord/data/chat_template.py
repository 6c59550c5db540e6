"""Chats as their tokenizer's chat template writes them: a program of somebody's, which may refuse or lose words."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from accord.engine.turns import as_read
from accord.errors import InputError
from accord.limits import within
from accord.parsing import parse_json
from accord.records import MASKS, Message

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
    tools = without_nulls(next((turn.more["tools"] for turn in chat if "tools" in turn.more), None))
    told = next((settings(turn.more[TOLD]) for turn in chat if TOLD in turn.more), {})
    messages = [{"role": turn.role, "content": turn.content, **for_template(turn, str(template))} for turn in chat]
    try:
        with within(TEMPLATE_SECONDS):
            text = tokenizer.apply_chat_template(
                as_read(tokenizer, messages), tools=tools, tokenize=False, add_generation_prompt=generation, **told
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
    _require_tools(tools, str(text))
    return str(text)


def _require_tools(tools: Any, text: str) -> None:
    """Raise InputError where a tool's name is not in what a template writes, as templates without tools drop them."""
    named = [tool.get("function", tool) for tool in tools or () if isinstance(tool, Mapping)]
    names = [tool["name"] for tool in named if isinstance(tool, Mapping) and isinstance(tool.get("name"), str)]
    lost = next((name for name in names if name not in text), None)
    if lost is not None:
        raise InputError(
            f"the tokenizer's chat template leaves out the tool {lost!r}: give one that reads tools by "
            "--chat-template, or leave them out by --columns tools="
        )


TOLD = "chat_template_kwargs"
"""What a chat template is told beside messages and tools, such as enable_thinking: a key of a chat's first message."""

OURS = (*MASKS, "tools", TOLD)
"""What messages hold for accord and not for the template."""

UNSAID = {"id", "tool_call_id"}
"""What ties a tool's result to its call, which templates may leave out, as they may a tool's name."""

ABOUT = {
    "message_id", "parent_id", "conversation_id", "user_id", "openai_id", "turn", "turn_identifier", "turn_id",
    "timestamp", "created", "created_at", "create_time", "date", "country", "state", "language", "lang", "hashed_ip",
    "header", "toxic", "redacted", "model", "temperature", "top_p", "token_counter", "tokens", "token_count", "usage",
    "system_fingerprint", "info", "metadata",
}  # fmt: skip
"""Who wrote a message, when, where and by what, as logs of conversations have it: no words of it."""


def settings(given: Any) -> dict[str, Any]:
    """What a chat template is told, by name; what is null is not told. Raises InputError where it cannot be told so."""
    if not isinstance(given, Mapping):
        raise InputError(f"{TOLD!r} must be an object of names and values, not {given!r}")
    taken = sorted(set(given) & set(APPLIED))
    if taken:
        raise InputError(f"{TOLD!r} has {taken[0]!r}, which is no setting of a chat template: leave it out")
    return {name: value for name, value in given.items() if value is not None}


APPLIED = (
    "self", "conversation", "messages", "tools", "chat_template", "add_generation_prompt", "continue_final_message",
    "tokenize", "padding", "truncation", "max_length", "return_tensors", "return_dict", "return_assistant_tokens_mask",
    "tokenizer_kwargs",
)  # fmt: skip
"""What `apply_chat_template` of transformers takes for itself."""


def for_template(turn: Message, template: str) -> dict[str, Any]:
    """What else a message holds, as templates read it; InputError where nothing reads it."""
    more = {key: value for key, value in turn.more.items() if key not in OURS}
    for key in more:
        may_be_left_out = key in UNSAID | ABOUT or (key == "name" and turn.role == "tool")
        if not may_be_left_out and not re.search(rf"\b{re.escape(key)}\b", template):
            raise InputError(
                f"a message holds {key!r}, which the chat template does not read: remove it, write it into 'content', "
                "or give a template that reads it by --chat-template"
            )
    if "tool_calls" in more:
        more["tool_calls"] = [_call(call) for call in without_nulls(more["tool_calls"])]
    return more


def without_nulls(value: Any) -> Any:
    """Tools or calls without the keys that are null: tables give every object the keys of all others."""
    if isinstance(value, Mapping):
        return {key: without_nulls(held) for key, held in value.items() if held is not None}
    return [without_nulls(held) for held in value] if isinstance(value, list) else value


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
