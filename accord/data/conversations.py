"""Conversations with several ranked or rated answers per turn, converted to one ranking per turn.

replies, with roles and ranks       OpenAssistant message trees, nested or one message per row: a ranking for every
                                    user message with two or more ranked answers
user_id, conversation_history       PRISM conversations, several models answering each turn: a ranking by the row's
                                    user for every turn with two or more rated answers
user_id, conversation_id, turn,     PRISM utterances: the same, one answer per row
user_prompt, model_response, score
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

from accord.data.verdicts import first_key
from accord.errors import InputError

Columns = Mapping[str, Any]

_SAID, _SPEAKER = ("text", "content", "value"), ("role", "from")


def expand_rankings(row: Any) -> list[Any]:
    """The rankings in a message tree or a PRISM conversation; any other row unchanged, in a list."""
    if not isinstance(row, Mapping):
        return [row]
    if "user_id" in row and _is_prism(row.get("conversation_history")):
        return _prism_rankings(row)
    roots = (message for message in (row.get("prompt"), row.get("tree"), row) if isinstance(message, Mapping))
    root = next((message for message in roots if _is_tree(message)), None)
    if root is None:
        return [row]
    rest = {name: value for name, value in row.items() if name not in ("prompt", "tree", *root)}
    rankings = []
    queue: list[tuple[list[Any], Any]] = [([], root)]
    for before, message in queue:  # grows while iterated: a breadth-first walk
        role = message.get(first_key(message, _SPEAKER))
        turn = {"role": {"prompter": "user"}.get(str(role), role), "content": message.get(first_key(message, _SAID))}
        replies = [reply for reply in message.get("replies") or [] if not reply.get("deleted")]
        queue += [([*before, turn], reply) for reply in replies]
        ranked = [reply for reply in replies if reply.get("rank") is not None]
        if len(ranked) > 1 and turn["role"] == "user":
            ranks = sorted({reply["rank"] for reply in ranked})
            answers = [reply.get(first_key(reply, _SAID)) for reply in ranked]
            ranking = {"completions": answers, "ranks": [ranks.index(reply["rank"]) for reply in ranked]}
            rankings.append({**rest, "prompt": [*before, turn], **ranking})
    return rankings


def _is_tree(message: Any) -> bool:
    """Whether a value is a message with a list of messages that reply to it, which are such or without replies."""
    if not isinstance(message, Mapping) or "replies" not in message or not first_key(message, _SPEAKER):
        return False
    replies = message["replies"] or []
    return isinstance(replies, list) and all(
        isinstance(reply, Mapping) and (not reply.get("replies") or _is_tree(reply)) for reply in replies
    )


def _is_prism(history: Any) -> bool:
    """Whether a conversation history has PRISM's format: messages of a user and of models, numbered by turn."""
    known = [message for message in history or () if isinstance(message, Mapping)] if isinstance(history, list) else []
    return bool(known) and all(
        {"role", "turn", "content"} <= m.keys() and m["role"] in ("user", "model") for m in known
    )


def _prism_rankings(row: Columns) -> list[Any]:
    """A ranking for every turn with two or more scored answers (scores 1 to 100, higher is better).

    The prompt holds the user's messages so far and the answers with which the conversation continued (`if_chosen`).
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
            ranking = {"completions": answers, "ranks": [scores.index(m["score"]) for m in rated]}
            rankings.append({"user": row["user_id"], **rest, "turn": turn, "prompt": list(before), **ranking})
        chosen = next((m for m in messages if m["role"] == "model" and m.get("if_chosen")), None)
        if chosen is None:
            break
        before.append(_answer(chosen))
    return rankings


def _answer(message: Columns) -> Columns:
    """A model's answer as an assistant message; PRISM marks an empty one by "EMPTY STRING"."""
    content = message["content"]
    return {"role": "assistant", "content": "" if content == "EMPTY STRING" else content}


def join_messages(rows: Iterable[tuple[int, str, Any]]) -> Iterator[tuple[int, str, Any]]:
    """Join rows that are single messages into trees, and single answers into conversations; other rows pass unchanged.

    Rows are (number, location, columns). Raises InputError if a message's parent is missing, or an answer lacks a
    column.
    """
    rows = iter(rows)
    first = next(rows, None)
    if first is None:
        return
    rows = chain([first], rows)
    columns = first[2].keys() if isinstance(first[2], Mapping) else set()
    if columns >= {"message_id", "parent_id", "text", "role"}:
        yield from _join_trees(rows)
    elif columns >= UTTERANCE:
        yield from _join_utterances(rows)
    else:
        yield from rows


def _join_trees(rows: Iterable[tuple[int, str, Any]]) -> Iterator[tuple[int, str, Any]]:
    """Build message trees from messages that name their parents, one per root."""
    messages = {row.get("message_id"): (number, where, {**row, "replies": []}) for number, where, row in rows}
    for _, where, message in messages.values():
        parent = message["parent_id"]
        if parent in messages:
            messages[parent][2]["replies"].append(message)
        elif parent is not None:
            raise InputError(f"{where}: the message's 'parent_id' is {parent!r}, and no row read has that 'message_id'")
    for number, where, message in messages.values():
        if message["parent_id"] is None:
            yield number, where, {"tree": message}


UTTERANCE = {"user_id", "conversation_id", "turn", "user_prompt", "model_response", "score"}
"""The columns read of PRISM's utterances; `if_chosen` is optional."""


def _join_utterances(rows: Iterable[tuple[int, str, Any]]) -> Iterator[tuple[int, str, Any]]:
    """Build the conversations that `_prism_rankings` reads from one row per answer, in order of their first rows."""
    parts: dict[Any, list[tuple[int, str, Columns]]] = {}
    for number, where, row in rows:
        absent = sorted(UTTERANCE - row.keys()) if isinstance(row, Mapping) else sorted(UTTERANCE)
        if absent:
            raise InputError(f"{where}: the row has no {absent[0]!r}, which every row of a PRISM utterances file needs")
        parts.setdefault(row["conversation_id"], []).append((number, where, row))
    for some in parts.values():
        number, position, first = some[0]
        turns: dict[float, list[Columns]] = {}
        for _, where, row in some:
            answer = {"role": "model", "content": row["model_response"], "score": _number(row, "score", where)}
            chosen = str(row.get("if_chosen")).lower() in ("true", "1")
            turn = turns.setdefault(_number(row, "turn", where) or 0, [{"role": "user", "content": row["user_prompt"]}])
            turn.append({**answer, "if_chosen": chosen})
        history = [{**utterance, "turn": int(turn)} for turn in sorted(turns) for utterance in turns[turn]]
        yield number, position, {**first, "conversation_history": history}


def _number(row: Columns, name: str, where: str) -> float | None:
    """A numeric column, None if empty."""
    try:
        return None if row[name] is None else float(row[name])
    except (TypeError, ValueError):
        raise InputError(f"{where}: {name!r} must be a number, not {row[name]!r}") from None
