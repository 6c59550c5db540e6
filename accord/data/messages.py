"""Read a row's values as `Text`: strings, messages in their common spellings, and "Human / Assistant" transcripts."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from accord.data.parts import messages_of_parts, with_thought
from accord.errors import InputError
from accord.parsing import Repeated, parse_json
from accord.records import MASKS, Message, Role, Text

TRANSCRIPT = "\n\nHuman:"
"""The beginning of a transcript in the format of Anthropic's hh-rlhf data."""

_SPEAKER = re.compile(r"\n\n(Human|Assistant):")
_ROLES = get_args(Role)
_SPELLED: dict[str, Role] = {
    **{role: role for role in _ROLES},
    **dict.fromkeys(("human", "prompter"), "user"),
    **dict.fromkeys(("gpt", "chatgpt", "chatbot", "model", "ai"), "assistant"),
    **dict.fromkeys(("observation", "function", "function_response", "tool_response", "ipython"), "tool"),
}
"""Roles by their names in other formats."""

CALLS = ("function_call", "tool_call")
"""Roles of messages whose content is the assistant's tool call as JSON; also keys of messages that hold one."""

TEXTS = ("text", "input_text", "output_text")
"""Types of content parts that are text."""

_KEYS = {"from": "role", "speaker": "role", "value": "content", "text": "content"}
"""Keys of messages by their names in other formats."""

TURN_PAIRS = (
    ("input", "output"),
    ("question", "answer"),
    ("user", "assistant"),
    ("human", "assistant"),
    ("human", "bot"),
)
"""The keys of question-answer objects, which a chat may be a list of."""

QUESTION_TEXTS = ("full_text", "text")
"""Keys of the text of a question that is an object."""

_LIKE_MESSAGES = re.compile(r"\s*\[?\s*\{\s*[\"'](role|from|content|value)[\"']\s*:")
_PRINTED = re.compile(r"\}\s*\n\s*\{\s*'")
"""Between the messages of a numpy array as Python prints it, which has no commas: pandas writes chats so into CSV."""


def read_text(value: Any, column: str) -> Text:
    """Read the value of a row's `column`: a string unchanged, messages as a chat.

    Messages have `role` and `content`, or `from` and `value`; they may be a list, the `messages` of an object, a single
    message, or either of these as a JSON string (or printed by Python). Raises InputError for anything else.
    """
    if isinstance(value, str):
        chat = _chat_in(value)
        return _encodable(value, f"'{column}'") if chat is None else read_text(chat, column)
    value = messages_from_columns(value)
    if isinstance(value, Message) or (isinstance(value, Mapping) and ("role" in value or "from" in value)):
        return tuple(_message(one, column) for one in messages_of_parts(value))
    if isinstance(value, Mapping) and isinstance(value.get("messages"), list):
        return read_text(value["messages"], column)
    if not isinstance(value, Sequence) or isinstance(value, bytes):
        inside = [key for key, held in value.items() if isinstance(held, str)] if isinstance(value, Mapping) else []
        remedy = f": name the text in it by --columns {column}={column}.{inside[0]}" if inside else ""
        remedy = remedy or ("" if value is None or isinstance(value, Mapping) else ": write it as text")
        raise InputError(f"'{column}' must be a string or a list of messages, not {_kind(value)}{remedy}")
    if not value:
        raise InputError(f"'{column}' is a chat without messages: add one, or leave the row out")
    if column != "messages" and all(isinstance(item, str) for item in value):
        two = f", or the better and the worse of two by --columns chosen={column}[0],rejected={column}[1]"
        raise InputError(
            f"'{column}' is a list of {len(value)} texts, where one text or a list of messages is read: name one of "
            f"them by --columns {column}={column}[0]{two if len(value) == 2 else ''}"
        )
    return tuple(_message(one, f"{column}[{i}]") for i, item in enumerate(value) for one in messages_of_parts(item))


def messages_from_columns(chat: Any) -> Any:
    """Messages as a list, from an object with a list of roles and a list of contents; other values unchanged."""
    if not isinstance(chat, Mapping) or not isinstance(chat.get("role", chat.get("from")), list):
        return chat
    keys = [key for key, held in chat.items() if isinstance(held, list)]
    if len({len(chat[key]) for key in keys}) > 1:
        return chat
    return [dict(zip(keys, values, strict=True)) for values in zip(*(chat[key] for key in keys), strict=True)]


def messages_from_turns(chat: list[Any]) -> list[Any]:
    """The messages of a list of alternating texts, or of question-answer objects; other chats unchanged."""
    roles = ("user", "assistant")
    if len(chat) > 1 and all(isinstance(item, str) for item in chat):
        return [{"role": roles[i % 2], "content": text} for i, text in enumerate(chat)]
    for pair in TURN_PAIRS:
        if chat and all(isinstance(item, Mapping) and item.keys() == set(pair) for item in chat):
            return [{"role": r, "content": item[key]} for item in chat for r, key in zip(roles, pair, strict=True)]
    return chat


def texts_in(value: Any) -> list[str]:
    """All texts in a string, a message, or nested lists of these."""
    if isinstance(value, str):
        text = read_text(value, "")
        return [text] if isinstance(text, str) else [turn.content for turn in text]
    if isinstance(value, Mapping):
        return texts_in(next((value[name] for name in ("content", "value", *QUESTION_TEXTS) if name in value), ""))
    return [text for item in value for text in texts_in(item)] if isinstance(value, Sequence) else []


def is_chat(value: Any) -> bool:
    """Whether a value is a list of objects, or a string that holds messages."""
    if isinstance(value, str):
        return not isinstance(read_text(value, ""), str)
    return isinstance(value, Sequence) and bool(value) and all(isinstance(item, Mapping) for item in value)


def _chat_in(text: str) -> Any:
    """The messages in a JSON string (or one printed by Python), None if it holds anything else."""
    if not _LIKE_MESSAGES.match(text):
        return None
    value = parsed(text)
    if value is None and _PRINTED.search(text):
        value = parsed(_PRINTED.sub("}, {'", text))
    items = value if isinstance(value, list) else [value]
    has_messages = items and all(isinstance(item, dict) and ("role" in item or "from" in item) for item in items)
    if value is None and re.match(r"\s*\[", text) and re.search(r"[\"'](role|from)[\"']\s*:", text):
        raise InputError(f"{text[:40]!r} ... looks like messages, and is not JSON: write the chat as JSON (json.dumps)")
    return value if has_messages else None


def parsed(text: str) -> Any:
    """Parse a text as JSON or as a Python literal; None if it is neither.

    Raises InputError for JSON with a repeated key.
    """
    try:
        return parse_json(text)
    except Repeated as error:
        raise InputError(f"JSON in a text has {error}") from None
    except (ValueError, RecursionError):
        pass
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return None


def read_prompt(value: Any, column: str = "prompt") -> Text:
    """Like `read_text`, but a transcript becomes a chat, without an "Assistant:" cue at its end."""
    text = read_text(value, column)
    if not isinstance(text, str) or not text.startswith(TRANSCRIPT):
        return text
    turns = parse_transcript(text)
    return turns[:-1] if turns[-1] == Message("assistant", "") else turns


def parse_transcript(text: str) -> tuple[Message, ...]:
    r"""The stripped turns of a transcript `"\n\nHuman: ...\n\nAssistant: ..."`.

    Only "Human:" and "Assistant:" after an empty line begin a turn. Consecutive turns of one speaker are joined by an
    empty line, since chat templates expect alternating turns. A turn may be empty.
    """
    parts = _SPEAKER.split(text)
    turns: list[Message] = []
    for speaker, content in zip(parts[1::2], parts[2::2], strict=True):
        role: Role = "user" if speaker == "Human" else "assistant"
        spoken = content.strip()
        if turns and turns[-1].role == role:
            spoken = "\n\n".join(filter(None, (turns.pop().content, spoken)))
        turns.append(Message(role, spoken))
    return tuple(turns)


def align(prompt: Text, *completions: Text) -> tuple[Text, tuple[Text, ...]]:
    """The prompt and completions in one form: all strings, or all chats if any of them is a chat.

    In a chat a plain prompt becomes a user message (none if it is empty), a plain completion an assistant message.
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
    elif "tool_calls" in more:
        calls = parsed(more["tool_calls"]) if isinstance(more["tool_calls"], str) else more["tool_calls"]
        if not isinstance(calls, list) or not all(isinstance(call, Mapping) for call in calls):
            raise InputError(f"{where} has 'tool_calls' that are no list of objects: write them as JSON")
        more["tool_calls"] = [_wrapped(call) for call in calls]
    if role is None or (content is None and "tool_calls" not in more):
        missing = "role" if role is None else "content"
        raise InputError(f"{where} lacks '{missing}': a message is an object with 'role' and 'content'")
    more = with_thought(more, where) | {key: _mask(more[key], key, where) for key in MASKS if key in more}
    known = _SPELLED.get(str(role).lower())
    if known is None:
        raise InputError(f"{where} has the unknown role {role!r}: the roles are {', '.join(_ROLES)}")
    return Message(known, _encodable(_content(content, where), where), more)


def _mask(value: Any, key: str, where: str) -> bool:
    """Whether a message's key such as 'weight' says that it is trained on."""
    trained = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}.get(str(value).lower())
    if trained is None:
        raise InputError(f"{where} has {value!r} as {key!r}: a turn is trained on (1, true) or not (0, false)")
    return trained


def _calls(field: Any, where: str) -> list[Any]:
    """One or several function calls in the form of `tool_calls`. Raises InputError if they are none."""
    value = parsed(field) if isinstance(field, str) else field
    calls = value if isinstance(value, list) else [value]
    if not calls or not all(isinstance(call, Mapping) and "name" in call for call in calls):
        raise InputError(f"{where} calls a function, and its content is no JSON object with 'name' and 'arguments'")
    return [{"type": "function", "function": call} for call in calls]


def _wrapped(call: Any) -> Any:
    """A call as templates expect it, with its name and arguments in `function`."""
    if not isinstance(call, Mapping) or "function" in call or "name" not in call:
        return call
    function = {key: call[key] for key in ("name", "arguments") if key in call}
    return {"type": "function", "function": function} | ({"id": call["id"]} if call.get("id") else {})


def _says_something(value: Any) -> bool:
    """Whether a message's field is not empty; Arrow tables give every message all keys."""
    return value is not None and value not in ("", [], {})


def _content(content: Any, where: str) -> str:
    """A message's content as one string, joined from parts if it has any."""
    if isinstance(content, str):
        return content
    if content is None:
        return ""
    if not isinstance(content, Sequence) or not all(isinstance(part, Mapping) for part in content):
        raise InputError(f"{where} has content that is {_kind(content)}, not a string: write it as text (json.dumps)")
    for part in content:
        if part.get("type", "text") not in TEXTS or not isinstance(part.get("text"), str):
            raise InputError(f"{where} has a part of type {part.get('type')!r} in its content, where only text is read")
    return "".join(part["text"] for part in content)


def _encodable(text: str, where: str) -> str:
    """The text. Raises InputError for a lone surrogate, which neither UTF-8 nor a tokenizer can encode."""
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InputError(f"{where} holds {text[error.start]!r}, which is not valid Unicode text") from None
    return text


def _kind(value: Any) -> str:
    return "null" if value is None else f"of type {type(value).__name__}"


def common_prefix_length(first: Sequence[object], second: Sequence[object]) -> int:
    """The length of the common prefix."""
    both = enumerate(zip(first, second, strict=False))
    return next((i for i, (a, b) in both if a != b), min(len(first), len(second)))


def split_dialogues(
    first: tuple[Message, ...], second: tuple[Message, ...]
) -> tuple[tuple[Message, ...], tuple[Message, ...], tuple[Message, ...]]:
    """(prompt, first, second) of two dialogues, split after their longest common prefix that ends before answers."""
    end = min(common_prefix_length(first, second), len(first) - 1, len(second) - 1)
    while end >= 0 and not first[end].role == second[end].role == "assistant":
        end -= 1
    while end > 0 and first[end - 1].role == "assistant":  # a prompt that ends with an answer would be a prefill
        end -= 1
    if end < 0:
        raise InputError("'chosen' and 'rejected' have no common prompt after which both have an assistant turn")
    if end == 0:
        raise InputError("'chosen' and 'rejected' begin with an assistant turn, so there is no prompt before it")
    return first[:end], first[end:], second[end:]


def split_strings(first: str, second: str) -> tuple[str, str, str]:
    """(prompt, first, second) of two plain texts, split after their longest common prefix of whole words.

    A word is left to each completion; the white space after the prompt stays with the completions, as sub-word
    tokenizers expect. Texts without a common prefix have the empty prompt.
    """
    end = min(common_prefix_length(first, second), len(first.rstrip()) - 1, len(second.rstrip()) - 1)
    while end > 0 and not first[end - 1].isspace():
        end -= 1
    prompt = first[: max(end, 0)].rstrip()
    return prompt, first[len(prompt) :], second[len(prompt) :]
