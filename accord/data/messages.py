"""Texts as rows hold them: strings, lists of messages, and "Human / Assistant" transcripts, read into `Text`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from accord.errors import InputError
from accord.records import Message, Role, Text

TRANSCRIPT = "\n\nHuman:"
"""What a transcript in the format of Anthropic's hh-rlhf data begins with."""

_SPEAKER = re.compile(r"\n\n(Human|Assistant):")
_ROLES = get_args(Role)


def read_text(value: Any, column: str) -> Text:
    """The value of a row's `column`: a string as it is, a list of `{"role", "content"}` objects as a chat.

    Raises InputError for anything else, and for messages with missing keys or unknown roles.
    """
    if isinstance(value, str):
        return _encodable(value, f"'{column}'")
    if not isinstance(value, Sequence) or isinstance(value, bytes):
        raise InputError(f"'{column}' must be a string or a list of messages, not {_kind(value)}")
    if not value:
        raise InputError(f"'{column}' is a chat without messages")
    return tuple(_message(item, f"{column}[{i}]") for i, item in enumerate(value))


def read_prompt(value: Any, column: str = "prompt") -> Text:
    """As `read_text`; a string that is a transcript becomes a chat (an "Assistant:" cue at its end is dropped)."""
    text = read_text(value, column)
    if not isinstance(text, str) or not text.startswith(TRANSCRIPT):
        return text
    turns = parse_transcript(text)
    return turns[:-1] if turns[-1] == Message("assistant", "") else turns


def parse_transcript(text: str) -> tuple[Message, ...]:
    r"""The turns of a transcript `"\n\nHuman: ...\n\nAssistant: ..."`, each stripped of surrounding white space.

    Only "Human:" and "Assistant:" after an empty line begin a turn. Two turns of one speaker in a row are joined by an
    empty line, since chat templates ask for turns that alternate. A turn may be empty: the assistant kept silent.
    """
    parts = _SPEAKER.split(text)
    turns: list[Message] = []
    for speaker, content in zip(parts[1::2], parts[2::2], strict=True):
        role: Role = "user" if speaker == "Human" else "assistant"
        said = content.strip()
        if turns and turns[-1].role == role:
            said = "\n\n".join(filter(None, (turns.pop().content, said)))
        turns.append(Message(role, said))
    return tuple(turns)


def align(prompt: Text, *completions: Text) -> tuple[Text, tuple[Text, ...]]:
    """The prompt and its completions in one form: all plain strings, or all chats as soon as one of them is a chat.

    A plain prompt then becomes a user message (an empty one no message), a plain completion an assistant message.
    """
    if all(isinstance(text, str) for text in (prompt, *completions)):
        return prompt, completions
    if isinstance(prompt, str):
        prompt = (Message("user", prompt),) if prompt else ()
    return prompt, tuple((Message("assistant", c),) if isinstance(c, str) else c for c in completions)


def _message(item: Any, place: str) -> Message:
    if isinstance(item, Message):
        return item
    if not isinstance(item, Mapping):
        raise InputError(f"{place} must be an object with 'role' and 'content', not {_kind(item)}")
    role, content = item.get("role"), item.get("content")
    if role is None or content is None:
        missing = "role" if role is None else "content"
        raise InputError(f"{place} lacks '{missing}': a message is an object with 'role' and 'content'")
    if role not in _ROLES:
        raise InputError(f"{place} has the unknown role {role!r}: the roles are {', '.join(_ROLES)}")
    if not isinstance(content, str):
        raise InputError(f"{place} has content that is {_kind(content)}, not a string")
    if item.get("tool_calls"):
        raise InputError(f"{place} has 'tool_calls', which are not supported: write the call into 'content'")
    return Message(role, _encodable(content, place))


def _encodable(text: str, place: str) -> str:
    """The text, refused where it holds half of a surrogate pair, which no tokenizer and no UTF-8 file can take."""
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InputError(f"{place} holds {text[error.start]!r}, which is not valid Unicode text") from None
    return text


def _kind(value: Any) -> str:
    return "null" if value is None else f"of type {type(value).__name__}"
