"""Conversations in which turns have several answers that people ranked or rated: objects that hold several rankings.

replies, with roles and ranks               a tree of messages (OpenAssistant), nested or a message a row: a ranking
                                            for every message with two ranked answers or more
user_id, conversation_history               a conversation of PRISM, each of whose turns several models answered: a
                                            ranking by its user for every turn with two rated answers or more
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

from accord.data.verdicts import key_in
from accord.errors import InputError

Columns = Mapping[str, Any]

_SAID, _SPEAKER = ("text", "content", "value"), ("role", "from")


def several(row: Any) -> list[Any]:
    """The row, or the rankings that a tree of messages or a conversation with several models holds."""
    if not isinstance(row, Mapping):
        return [row]
    if "user_id" in row and _is_rated(row.get("conversation_history")):
        return _rated(row)
    roots = (message for message in (row.get("prompt"), row.get("tree"), row) if isinstance(message, Mapping))
    root = next((message for message in roots if "replies" in message), None)
    if root is None:
        return [row]
    rest = {name: value for name, value in row.items() if name not in ("prompt", "tree", *root)}
    rankings = []
    waiting: list[tuple[list[Any], Any]] = [([], root)]
    for before, message in waiting:  # grows meanwhile
        role = message.get(key_in(message, _SPEAKER))
        said = {"role": {"prompter": "user"}.get(str(role), role), "content": message.get(key_in(message, _SAID))}
        replies = [reply for reply in message.get("replies") or [] if not reply.get("deleted")]
        waiting += [([*before, said], reply) for reply in replies]
        ranked = [reply for reply in replies if reply.get("rank") is not None]
        if len(ranked) > 1 and said["role"] == "user":
            ranks = sorted({reply["rank"] for reply in ranked})
            answers = [reply.get(key_in(reply, _SAID)) for reply in ranked]
            found = {"completions": answers, "ranks": [ranks.index(reply["rank"]) for reply in ranked]}
            rankings.append({**rest, "prompt": [*before, said], **found})
    return rankings


def _is_rated(history: Any) -> bool:
    """Whether it is a history of PRISM's: messages of a user and of models, by turn."""
    known = [message for message in history or () if isinstance(message, Mapping)] if isinstance(history, list) else []
    return bool(known) and all(
        {"role", "turn", "content"} <= m.keys() and m["role"] in ("user", "model") for m in known
    )


def _rated(row: Columns) -> list[Any]:
    """A ranking for every turn of which models' answers have scores, 1 to 100, the higher the better.

    What was said before are the user's messages, and of the answers those that the conversation went on from.
    """
    rest = {name: row[name] for name in ("conversation_id", "conversation_type") if name in row}
    turns: dict[Any, list[Columns]] = {}
    for message in row["conversation_history"]:
        turns.setdefault(message["turn"], []).append(message)
    before: list[Any] = []
    rankings = []
    for turn, messages in turns.items():
        before += [{"role": "user", "content": m["content"]} for m in messages if m["role"] == "user"]
        rated = [m for m in messages if m["role"] == "model" and m.get("score") is not None]
        if len(rated) > 1:
            scores = sorted({m["score"] for m in rated}, reverse=True)
            found = {"completions": [m["content"] for m in rated], "ranks": [scores.index(m["score"]) for m in rated]}
            rankings.append({"user": row["user_id"], **rest, "turn": turn, "prompt": list(before), **found})
        chosen = next((m for m in messages if m["role"] == "model" and m.get("if_chosen")), None)
        if chosen is None:
            break
        before.append({"role": "assistant", "content": chosen["content"]})
    return rankings


def assembled(rows: Iterable[tuple[int, str, Any]]) -> Iterator[tuple[int, str, Any]]:
    """The rows with their places; where each is one message that names its parent, their trees instead.

    Raises InputError where the row that a message answers is not there.
    """
    rows = iter(rows)
    first = next(rows, None)
    if first is None:
        return
    rows = chain([first], rows)
    if not isinstance(first[2], Mapping) or not first[2].keys() >= {"message_id", "parent_id", "text", "role"}:
        yield from rows
        return
    messages = {row.get("message_id"): (number, where, {**row, "replies": []}) for number, where, row in rows}
    for _, where, message in messages.values():
        parent = message["parent_id"]
        if parent in messages:
            messages[parent][2]["replies"].append(message)
        elif parent is not None:
            raise InputError(f"{where}: the message answers {parent!r} ('parent_id'), which is in no row that is read")
    for number, where, message in messages.values():
        if message["parent_id"] is None:
            yield number, where, {"tree": message}
