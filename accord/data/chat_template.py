"""Render chats by the tokenizer's chat template, checking that the template neither refuses nor drops anything."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from accord.data.parts import THOUGHTS
from accord.data.tool_calls import PROBE, require_tools_written, without_nulls, write_calls
from accord.dates import STRFTIME_NOW, as_date, dated
from accord.engine.templates import written_date
from accord.engine.turns import as_read, turn_end
from accord.errors import InputError
from accord.limits import within
from accord.records import MASKS, Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TEMPLATE_SECONDS = 10
"""The time limit of a template, which is a program and may loop forever."""


def render(tokenizer: PreTrainedTokenizerBase, chat: Sequence[Message], *, generation: bool) -> str:
    """Render a chat by the tokenizer's template, with the generation prompt if `generation`, on its `written_date`.

    Raises InputError if there is no template, it refuses the chat, or it does not read a field of a message.
    """
    template = tokenizer.chat_template
    if template is None:
        raise InputError(
            "the tokenizer has no chat template: give it one by --chat-template, or use plain text in place of messages"
        )
    if not chat:
        raise InputError("a chat needs a turn before the assistant's first: its prompt has no messages")
    tools = without_nulls(next((turn.more["tools"] for turn in chat if "tools" in turn.more), None))
    kwargs = next((settings(turn.more[TEMPLATE_KWARGS]) for turn in chat if TEMPLATE_KWARGS in turn.more), {})
    if "documents" in kwargs and not reads(template, "documents"):
        raise InputError(
            "the row has 'documents', which the chat template does not read: write them into the prompt, give a "
            "template that reads them by --chat-template, or, where they are no part of it, call them otherwise by "
            "--columns sources=documents"
        )
    day = written_date(tokenizer)
    if STRFTIME_NOW in kwargs:
        day = day and as_date(kwargs.pop(STRFTIME_NOW), f"{TEMPLATE_KWARGS!r}: {STRFTIME_NOW}")
    messages: Sequence[Mapping[str, Any]] = _messages_for(tokenizer, chat)

    def write(messages: Sequence[Mapping[str, Any]]) -> str:
        with within(TEMPLATE_SECONDS):
            if day is not None:
                kwargs["chat_template"] = dated(tokenizer.get_chat_template(tools=tools), day)
            return str(
                tokenizer.apply_chat_template(
                    as_read(tokenizer, messages),
                    tools=tools,
                    tokenize=False,
                    add_generation_prompt=generation,
                    **kwargs,
                )
            )

    try:
        text, messages = write_calls(write, messages)
        lost = _dropped_turn(write, messages, text)
    except InputError:
        raise
    except Exception as error:  # a template is a program and may raise anything
        reason = str(error) if isinstance(error, TemplateError) else f"{type(error).__name__}: {error}"
        raise InputError(f"the tokenizer's chat template refuses the chat ({reason}){_remedy(reason, chat)}") from None
    if lost == 0 and messages[0]["role"] == "system":
        raise InputError(
            "the tokenizer's chat template leaves out the system's words; --system fold puts them into the first "
            "question"
        )
    if lost is not None:
        beside = " beside its tool calls" if chat[lost].role == "assistant" else ""
        raise InputError(
            f"the tokenizer's chat template leaves out the words of turn {lost + 1} ({chat[lost].role}){beside}: give "
            "one that writes them by --chat-template, or take them out"
        )
    require_tools_written(tools, text)
    return text


def _remedy(reason: str, chat: Sequence[Message]) -> str:
    """What to do about a template that refuses a chat, to be added to its error; "" where that is not known."""
    if chat[0].role in ("system", "developer"):
        return "; --system fold puts the system's words into the first question"
    if "alternat" in reason.lower() and any(a.role == b.role for a, b in pairwise(chat)):
        return "; join the turns in a row by one speaker"
    if "multiple chat templates" in reason:
        return "; write the one to use into a file, and give that by --chat-template"
    return ""


def _messages_for(tokenizer: PreTrainedTokenizerBase, chat: Sequence[Message]) -> list[dict[str, Any]]:
    """A chat's messages as the chat template takes them; a developer's are the system's where it has no developer."""
    template, marks = str(tokenizer.chat_template), end_marks(tokenizer)
    return [
        {
            "role": "system" if turn.role == "developer" and not reads(template, "developer") else turn.role,
            "content": own_words(turn, marks),
            **template_fields(turn, template),
        }
        for turn in chat
    ]


def end_marks(tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    """The texts with which a turn ends: what the chat template writes there, and the eos_token."""
    end = turn_end(tokenizer)
    return tuple(filter(None, ("" if end.is_next else end.text, tokenizer.eos_token)))


def own_words(turn: Message, marks: tuple[str, ...]) -> str:
    """The content of a turn; an answer's without an end of turn (`end_marks`), which the template writes too."""
    content = turn.content.rstrip() if turn.role == "assistant" else ""
    mark = next((mark for mark in marks if content.endswith(mark)), "")
    return content.removesuffix(mark) if mark else turn.content


def _dropped_turn(
    write: Callable[[Sequence[Mapping[str, Any]]], str], messages: Sequence[Mapping[str, Any]], text: str
) -> int | None:
    """The index of a turn whose content the template leaves out; None if it leaves out none.

    Of an assistant's turns only those with tool calls are looked at: templates leave out the thoughts of others.
    """
    for i, message in enumerate(messages):
        content = message["content"]
        if message["role"] == "assistant":
            content = content.rpartition("</think>")[2] if message.get("tool_calls") else ""
        words = content.strip()
        if not words or words in text or json.dumps(content, ensure_ascii=False)[1:-1] in text:
            continue
        probed = [*messages[:i], {**message, "content": PROBE}, *messages[i + 1 :]]  # templates may change the words
        with suppress(Exception):  # a template that refuses the probe reads the content
            if PROBE not in write(probed).lower():
                return i
    return None


TEMPLATE_KWARGS = "chat_template_kwargs"
"""The key of a chat's first message that holds template variables besides messages and tools (enable_thinking)."""

INTERNAL_KEYS = (*MASKS, "tools", TEMPLATE_KWARGS)
"""Keys of messages that are for accord, not for the template."""

LINK_KEYS = {"id", "tool_call_id"}
"""Keys that link a tool's result to its call; templates may ignore these, and a tool's name."""

METADATA_KEYS = {
    "message_id", "parent_id", "conversation_id", "user_id", "openai_id", "turn", "turn_identifier", "turn_id",
    "timestamp", "created", "created_at", "create_time", "date", "country", "state", "language", "lang", "hashed_ip",
    "header", "toxic", "redacted", "model", "temperature", "top_p", "token_counter", "tokens", "token_count", "usage",
    "system_fingerprint", "info", "metadata",
}  # fmt: skip
"""Metadata of messages in conversation logs, which is no part of their text."""


def settings(written: Any) -> dict[str, Any]:
    """Check template variables and drop nulls. Raises InputError if they are no mapping, or have a reserved name."""
    if not isinstance(written, Mapping):
        raise InputError(f"{TEMPLATE_KWARGS!r} must be an object of names and values, not {written!r}")
    taken = sorted(set(written) & set(RESERVED))
    if taken:
        raise InputError(f"{TEMPLATE_KWARGS!r} has {taken[0]!r}, which is no setting of a chat template: leave it out")
    return {name: value for name, value in written.items() if value is not None}


RESERVED = (
    "self", "conversation", "messages", "tools", "chat_template", "add_generation_prompt", "continue_final_message",
    "tokenize", "padding", "truncation", "max_length", "return_tensors", "return_dict", "return_assistant_tokens_mask",
    "tokenizer_kwargs",
)  # fmt: skip
"""Arguments of `apply_chat_template` of transformers, which cannot be template variables."""


def template_fields(turn: Message, template: str) -> dict[str, Any]:
    """A message's other fields, in the form templates expect. Raises InputError for one the template does not read.

    A thought is a text; it may have any of the names in `THOUGHTS`, of which templates read one.
    """
    more = {key: value for key, value in turn.more.items() if key not in INTERNAL_KEYS}
    for key in more.keys() & set(THOUGHTS):
        if not isinstance(more[key], str | None):
            raise InputError(f"a message holds {key!r} of type {type(more[key]).__name__}: write the thought as text")
        name = next((name for name in THOUGHTS if _is_field(name, template)), key)
        if not _is_field(key, template) and name not in more:
            more[name] = more.pop(key)
    for key in more:
        may_be_left_out = key in LINK_KEYS | METADATA_KEYS or (key == "name" and turn.role == "tool")
        is_read = _is_field(key, template) if key in THOUGHTS else reads(template, key)
        if not may_be_left_out and not is_read:
            raise InputError(
                f"a message holds {key!r}, which the chat template does not read: remove it, write it into 'content', "
                "or give a template that reads it by --chat-template"
            )
    if "tool_calls" in more:
        more["tool_calls"] = without_nulls(more["tool_calls"])
    return more


def thoughts_of(turn: Message) -> list[str]:
    """The thought of a turn, where it has one in a field of its own."""
    return [turn.more[name] for name in THOUGHTS if isinstance(turn.more.get(name), str)]


def reads(template: object, name: str) -> bool:
    """Whether a chat template has a name anywhere."""
    return re.search(rf"\b{re.escape(name)}\b", str(template)) is not None


def _is_field(name: str, template: str) -> bool:
    """Whether a chat template reads this key of an object: `message.thinking`, not a variable `thinking`."""
    return re.search(rf"\.{name}\b|['\"]{name}['\"]", template) is not None


THOUGHT = re.compile(r"</?think>")
"""The marks around a thought before an answer."""


def continue_thought(content: str, head: str) -> str:
    """The answer as the continuation of a prompt's text `head`, which may have opened or closed its thought.

    An answer without a thought closes an opened one. Raises InputError if an answer has a thought after a closed one.
    """
    thought, mark, rest = content.rpartition("</think>")
    if head.rstrip().endswith("</think>") and mark:
        if thought.replace("<think>", "").strip():
            raise InputError(
                "the answer has a thought, and the chat template's generation prompt has closed it: let the model think"
                " by --chat-template-kwargs (enable_thinking=true, thinking=true), or remove the thought"
            )
        return rest.lstrip("\n")
    opened = opened_thought(head)
    if opened and not mark:
        return ("\n" if opened.endswith("\n") else "\n\n") + "</think>\n\n" + content
    return content.removeprefix(opened if content.startswith(opened) else opened.strip())


def opened_thought(head: str) -> str:
    """The mark with which a prompt opens a thought, empty if it does not."""
    return next((mark for mark in ("<think>\n", "<think>") if head.endswith(mark)), "")
