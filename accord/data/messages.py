"""What rows hold becomes `Text`: strings, messages in the usual spellings, and "Human / Assistant" transcripts."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from accord.errors import InputError
from accord.parsing import Repeated, parse_json
from accord.records import Message, Role, Text

TRANSCRIPT = "\n\nHuman:"
"""What a transcript in the format of Anthropic's hh-rlhf data begins with."""

_SPEAKER = re.compile(r"\n\n(Human|Assistant):")
_ROLES = get_args(Role)
_SPELLED: dict[str, Role] = {
    **{role: role for role in _ROLES},
    **dict.fromkeys(("human", "prompter"), "user"),
    **dict.fromkeys(("gpt", "chatgpt", "chatbot", "model", "ai"), "assistant"),
    **dict.fromkeys(("observation", "function", "function_response", "tool_response", "ipython"), "tool"),
}
"""What roles are called elsewhere."""

CALLS = ("function_call", "tool_call")
"""What is called the role of a message whose content is the assistant's call, as JSON, or a key of such a call."""

TEXTS = ("text", "input_text", "output_text")
"""Types of the parts of a content that are text."""

_KEYS = {"from": "role", "speaker": "role", "value": "content", "text": "content"}
"""What the keys of messages are called elsewhere."""

_LIKE_MESSAGES = re.compile(r"\s*\[?\s*\{\s*[\"'](role|from|content|value)[\"']\s*:")


def read_text(value: Any, column: str) -> Text:
    """The value of a row's `column`: a string as it is, messages as a chat.

    Messages are objects with `role` and `content`, or `from` and `value`: a list of them, also as the `messages` of an
    object, one alone, or either as JSON (or as Python prints it) in a string. Raises InputError for anything else.
    """
    if isinstance(value, str):
        chat = _chat_in(value)
        return _encodable(value, f"'{column}'") if chat is None else read_text(chat, column)
    value = in_rows(value)
    if isinstance(value, Message) or (isinstance(value, Mapping) and ("role" in value or "from" in value)):
        return (_message(value, column),)
    if isinstance(value, Mapping) and isinstance(value.get("messages"), list):
        return read_text(value["messages"], column)
    if not isinstance(value, Sequence) or isinstance(value, bytes):
        inside = [key for key, held in value.items() if isinstance(held, str)] if isinstance(value, Mapping) else []
        remedy = f": name what it holds by --columns {column}={column}.{inside[0]}" if inside else ""
        raise InputError(f"'{column}' must be a string or a list of messages, not {_kind(value)}{remedy}")
    if not value:
        raise InputError(f"'{column}' is a chat without messages")
    return tuple(_message(item, f"{column}[{i}]") for i, item in enumerate(value))


def in_rows(chat: Any) -> Any:
    """A chat's messages, where it is an object that has a list of roles and one of contents, as tables hold them."""
    if not isinstance(chat, Mapping) or not isinstance(chat.get("role", chat.get("from")), list):
        return chat
    keys = [key for key, held in chat.items() if isinstance(held, list)]
    if len({len(chat[key]) for key in keys}) > 1:
        return chat
    return [dict(zip(keys, values, strict=True)) for values in zip(*(chat[key] for key in keys), strict=True)]


def _chat_in(text: str) -> Any:
    """The messages that a string holds as JSON or as Python prints them; None where it holds anything else."""
    if not _LIKE_MESSAGES.match(text):
        return None
    value = parsed(text)
    items = value if isinstance(value, list) else [value]
    is_chat = items and all(isinstance(item, dict) and ("role" in item or "from" in item) for item in items)
    return value if is_chat else None


def parsed(text: str) -> Any:
    """What a text says as JSON, or as Python prints lists and mappings; None where it is neither.

    Raises InputError where it is JSON with a key that stands twice.
    """
    try:
        return parse_json(text)
    except Repeated as error:
        raise InputError(f"a text that is JSON has {error}") from None
    except (ValueError, RecursionError):
        pass
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return None


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


def _message(item: Any, where: str) -> Message:
    if isinstance(item, Message):
        return item
    if not isinstance(item, Mapping):
        raise InputError(f"{where} must be an object with 'role' and 'content', not {_kind(item)}")
    if "role" not in item:
        item = {_KEYS.get(key, key): value for key, value in item.items()}
    role, content = item.get("role"), item.get("content")
    more = {key: value for key, value in item.items() if key not in ("role", "content") and _says_something(value)}
    if role in CALLS:
        role, content, more = "assistant", "", {"tool_calls": _calls(content, where)}
    elif "function_call" in more:  # OpenAI's before there were tools
        more["tool_calls"] = _calls(more.pop("function_call"), where)
    if role is None or (content is None and "tool_calls" not in more):
        missing = "role" if role is None else "content"
        raise InputError(f"{where} lacks '{missing}': a message is an object with 'role' and 'content'")
    known = _SPELLED.get(str(role).lower())
    if known is None:
        raise InputError(f"{where} has the unknown role {role!r}: the roles are {', '.join(_ROLES)}")
    return Message(known, _encodable(_content(content, where), where), more)


def _calls(given: Any, where: str) -> list[Any]:
    """A call, or several, of an assistant's, as messages have them in `tool_calls`; InputError where it is none."""
    said = parsed(given) if isinstance(given, str) else given
    calls = said if isinstance(said, list) else [said]
    if not calls or not all(isinstance(call, Mapping) and "name" in call for call in calls):
        raise InputError(f"{where} calls a function, and its content is no JSON object with 'name' and 'arguments'")
    return [{"type": "function", "function": call} for call in calls]


def _says_something(value: Any) -> bool:
    """Whether a key of a message holds anything: tables give every message every key."""
    return value is not None and value not in ("", [], {})


def _content(content: Any, where: str) -> str:
    """A message's text, which may come in parts."""
    if isinstance(content, str):
        return content
    if content is None:
        return ""
    if not isinstance(content, Sequence) or not all(isinstance(part, Mapping) for part in content):
        raise InputError(f"{where} has content that is {_kind(content)}, not a string")
    for part in content:
        if part.get("type", "text") not in TEXTS or not isinstance(part.get("text"), str):
            raise InputError(f"{where} has a part of type {part.get('type')!r} in its content, where only text is read")
    return "".join(part["text"] for part in content)


def _encodable(text: str, where: str) -> str:
    """The text, refused where it holds half of a surrogate pair, which no tokenizer and no UTF-8 file can take."""
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InputError(f"{where} holds {text[error.start]!r}, which is not valid Unicode text") from None
    return text


def _kind(value: Any) -> str:
    return "null" if value is None else f"of type {type(value).__name__}"


def shared(first: Sequence[object], second: Sequence[object]) -> int:
    """How many elements the two have in common before they part."""
    both = enumerate(zip(first, second, strict=False))
    return next((i for i, (a, b) in both if a != b), min(len(first), len(second)))
