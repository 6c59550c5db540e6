"""Columns that a chat template reads besides the messages: tools, documents, settings of its own, and a thought."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from accord.data.column_names import STRUCTURED, SWITCHES
from accord.data.columns import is_filled
from accord.data.messages import parsed, read_text, texts_in
from accord.data.parts import THOUGHTS, thought_in
from accord.errors import InputError
from accord.records import Message, text_to_json

SETTINGS = ("tools", "chat_template_kwargs")


def move_settings(row: dict[str, Any], chats: Sequence[str]) -> dict[str, Any]:
    """The row with its tools, documents and settings moved into the first message of each of its `chats`, where
    `accord.data.chat_template` reads them."""
    settings = {name: row[name] for name in SETTINGS if row.get(name)}
    if isinstance(settings.get("tools"), list):  # of which tables of text have each as JSON
        settings["tools"] = [structured("tools", tool) for tool in settings["tools"]]
    documents = row.get("documents")
    documents = [documents] if isinstance(documents, str) else documents
    if isinstance(documents, list):
        documents = [{"title": "", "text": one} if isinstance(one, str) else one for one in documents]
    if chats and _lacks(row[chats[0]], documents):
        more = settings.get("chat_template_kwargs")
        settings["chat_template_kwargs"] = {
            "documents": documents,
            **(more if isinstance(more, Mapping) else {}),
        }
    if not settings:
        return row
    turns = {name: text_to_json(read_text(row[name], name)) for name in chats}
    if not turns or any(isinstance(chat, str) for chat in turns.values()):
        return row
    _require_tools(settings.get("tools", []))
    merged = {name: [{**chat[0], **settings}, *chat[1:]] for name, chat in turns.items()}  # type: ignore[dict-item]
    return {key: value for key, value in row.items() if key not in settings} | merged


def _require_tools(tools: Any) -> None:
    """Raise InputError where these are not a list of objects, as templates need them."""
    if not isinstance(tools, list) or not all(isinstance(tool, Mapping) for tool in tools):
        raise InputError(
            f"'tools' must be a list of objects that describe tools, and {str(tools)[:40]!r} is none: write it as "
            "JSON, or leave it out by --columns tools="
        )


def _lacks(chat: Any, documents: Any) -> bool:
    """Whether these are documents, as objects, of which the chat does not quote all."""
    if not isinstance(documents, list) or not all(isinstance(one, Mapping) for one in documents):
        return False
    words = "\n".join(texts_in(chat))
    texts = ([text for text in one.values() if isinstance(text, str)] for one in documents)
    return not all(max(some, key=len, default="").strip() in words for some in texts)


def structured(name: str, value: Any) -> Any:
    """A cell of a structured column, parsed if it is a string."""
    if name not in STRUCTURED or not isinstance(value, str):
        return value
    meant = parsed(value.lower() if name == "label" else value)
    return value if meant is None else meant


def with_thought_beside(row: Mapping[str, Any], answer: Any) -> Any:
    """The answer, as a message with the row's thought if it has one. Raises InputError where it cannot be read."""
    name = next((name for name in THOUGHTS if is_filled(row.get(name))), None)
    if name is None or isinstance(row[name], int | float) or "label" in row:
        return answer  # beside a label it would be why the answer is good or not
    thought = thought_in(row[name])
    if thought is None:
        raise InputError(
            f"{name!r} of type {type(row[name]).__name__} may be the answer's thought, which must be a text: name it "
            f"by --columns reasoning_content=COLUMN, or leave it out by --columns {name}="
        )
    if not thought.strip() or thought.strip().lower() in SWITCHES:
        return answer
    content = read_text(answer, "completion")
    turns = (Message("assistant", content),) if isinstance(content, str) else content
    if len(turns) > 1 or set(THOUGHTS) & turns[0].more.keys():
        return answer
    return [{**text_to_json(turns)[0], "reasoning_content": thought}]  # type: ignore[dict-item]
