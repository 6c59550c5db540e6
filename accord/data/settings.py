"""Columns that a chat template reads besides the messages: tools, documents and settings of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from accord.data.column_names import STRUCTURED
from accord.data.messages import parsed, texts_in
from accord.errors import InputError

SETTINGS = ("tools", "chat_template_kwargs")


def move_settings(row: dict[str, Any], chats: Sequence[str]) -> dict[str, Any]:
    """The row with its tools, documents and settings moved into the first message of each of its `chats`, where
    `accord.data.chat_template` reads them."""
    settings = {name: row[name] for name in SETTINGS if row.get(name)}
    if isinstance(settings.get("tools"), list):  # of which tables of text have each as JSON
        settings["tools"] = [structured("tools", tool) for tool in settings["tools"]]
    documents = row.get("documents")
    if isinstance(documents, list):
        documents = [{"title": "", "text": one} if isinstance(one, str) else one for one in documents]
    if chats and _lacks(row[chats[0]], documents):
        more = settings.get("chat_template_kwargs")
        settings["chat_template_kwargs"] = {
            "documents": documents,
            **(more if isinstance(more, Mapping) else {}),
        }
    if not settings or not chats or isinstance(row[chats[0]], str):
        return row
    _require_tools(settings.get("tools", []))
    merged = {name: [{**row[name][0], **settings}, *row[name][1:]] for name in chats}
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
