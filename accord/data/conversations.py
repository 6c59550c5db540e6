"""Conversations in which turns have several answers that people ranked or rated: objects that hold several rankings.

replies, with roles and ranks               a tree of messages (OpenAssistant), nested or a message a row: a ranking
                                            for every message with two ranked answers or more
user_id, conversation_history               a conversation of PRISM, each of whose turns several models answered: a
                                            ranking by its user for every turn with two rated answers or more
user_id, conversation_id, turn,             the same with a row for every answer (PRISM's utterances)
user_prompt, model_response, score
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
            answers = [[_answer(m)] for m in rated]
            found = {"completions": answers, "ranks": [scores.index(m["score"]) for m in rated]}
            rankings.append({"user": row["user_id"], **rest, "turn": turn, "prompt": list(before), **found})
        chosen = next((m for m in messages if m["role"] == "model" and m.get("if_chosen")), None)
        if chosen is None:
            break
        before.append(_answer(chosen))
    return rankings


def _answer(message: Columns) -> Columns:
    """What a model said, as a message; PRISM writes silence in capitals."""
    content = message["content"]
    return {"role": "assistant", "content": "" if content == "EMPTY STRING" else content}


def assembled(rows: Iterable[tuple[int, str, Any]]) -> Iterator[tuple[int, str, Any]]:
    """The rows with their places; where each is one message, or one answer of a conversation, the whole of it instead.

    Raises InputError where the row that a message answers is not there, or one of a conversation lacks a column.
    """
    rows = iter(rows)
    first = next(rows, None)
    if first is None:
        return
    rows = chain([first], rows)
    columns = first[2].keys() if isinstance(first[2], Mapping) else set()
    if columns >= {"message_id", "parent_id", "text", "role"}:
        yield from _trees(rows)
    elif columns >= UTTERANCE:
        yield from _conversations(rows)
    else:
        yield from rows


def _trees(rows: Iterable[tuple[int, str, Any]]) -> Iterator[tuple[int, str, Any]]:
    """Trees of messages that name their parents."""
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


UTTERANCE = {"user_id", "conversation_id", "turn", "user_prompt", "model_response", "score"}
"""The columns of PRISM's utterances that are read, beside `if_chosen`, by which a conversation goes on."""


def _conversations(rows: Iterable[tuple[int, str, Any]]) -> Iterator[tuple[int, str, Any]]:
    """Conversations of which each answer is a row, as `_rated` reads them, in the order of their first rows."""
    parts: dict[Any, list[tuple[int, str, Columns]]] = {}
    for number, where, row in rows:
        absent = sorted(UTTERANCE - row.keys()) if isinstance(row, Mapping) else sorted(UTTERANCE)
        if absent:
            raise InputError(
                f"{where}: the first row is an answer of a conversation, and this one has no {absent[0]!r}"
            )
        parts.setdefault(row["conversation_id"], []).append((number, where, row))
    for some in parts.values():
        number, place, first = some[0]
        turns: dict[float, list[Columns]] = {}
        for _, where, row in some:
            answer = {"role": "model", "content": row["model_response"], "score": _number(row, "score", where)}
            chosen = str(row.get("if_chosen")).lower() in ("true", "1")
            turn = turns.setdefault(_number(row, "turn", where) or 0, [{"role": "user", "content": row["user_prompt"]}])
            turn.append({**answer, "if_chosen": chosen})
        history = [{**said, "turn": int(turn)} for turn in sorted(turns) for said in turns[turn]]
        yield number, place, {**first, "conversation_history": history}


def _number(row: Columns, name: str, where: str) -> float | None:
    """A column that is a number, or says nothing."""
    try:
        return None if row[name] is None else float(row[name])
    except (TypeError, ValueError):
        raise InputError(f"{where}: {name!r} must be a number, not {row[name]!r}") from None
