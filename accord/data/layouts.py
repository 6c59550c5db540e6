"""The layouts of other people's files, turned into the columns of `accord.data.conventions`.

    conversations, from/value           sharegpt: messages
    question | query | instruction      what is asked, with `system`, `input` and `history` where a row has them, beside
                                        chosen and rejected, a completion or a response
    messages, rejected_response         ms-swift: the last answer is chosen
    completions | responses | answers   several answers with `scores` (the higher the better), or objects that hold each
                                        answer with its score or rank (UltraFeedback, Nectar)
    response_1, response_2, ...         two answers and which is better (HelpSteer, PKU-SafeRLHF, arenas)

    replies, with roles and ranks       a tree of messages (OpenAssistant): a ranking for every message with two ranked
                                        answers or more

A prompt is never guessed where a column may hold it: such a row is refused, with the columns named.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from accord.data.messages import TRANSCRIPT, parsed, read_text
from accord.errors import InputError
from accord.records import Text, text_to_json

Columns = Mapping[str, Any]

CHATS = ("messages", "conversations", "conversation")
QUESTIONS = ("question", "query", "instruction", "input")
SYSTEMS = ("system", "system_prompt", "system_message")
HISTORIES = ("history", "context")
RESPONSES = ("response", "output")
LISTS = ("completions", "responses", "answers")
TEXTS = ("response", "text", "completion", "content", "answer", "output")
SCORES = ("scores", "ratings", "rewards")
SCORE = ("overall_score", "score", "rating", "reward")
PAIRS = (
    ("response_1", "response_2"), ("response1", "response2"), ("response_0", "response_1"),
    ("response_a", "response_b"), ("answer_a", "answer_b"), ("completion_a", "completion_b"),
    ("conversation_a", "conversation_b"),
)  # fmt: skip
STRUCTURED = (*CHATS, *LISTS, *SCORES, "history", "ranks", "tools", "label")
"""Columns that no text can be: in a table of text they are JSON, or lists as Python prints them."""

ASKING = (
    "article", "body", "context", "dialog", "dialogue", "document", "human", "inputs", "instructions", "passage",
    "post", "problem", "request", "task", "title", "user",
)  # fmt: skip
"""Columns that may hold what is asked, in ways of their own."""


def standard(columns: Columns) -> Columns:
    """A row in the columns of the conventions; one that has them already stays as it is.

    Raises:
        InputError: a column that may hold what was asked would be lost, or what a column holds cannot be read.
    """
    row = {name: _structured(name, value) for name, value in columns.items() if value is not None}
    row = _scored(_compared(row))
    if "messages" not in row and (chat := _first(row, CHATS)):
        row["messages"] = row.pop(chat)
    if "rejected_response" in row and "messages" in row:
        row |= _last_answer(row)
    if not {"chosen", "completion", "completions"} & row.keys():
        said = _first(row, RESPONSES)
        if said and (said == "response" or "label" in row or _is_chatty(row)):
            row["completion"] = row.pop(said)
        elif {"question", "answer"} <= row.keys() and _is_chatty(row):
            row["completion"] = row["answer"]  # a verifier may want it too
    asks = {"chosen", "completion", "completions"} & row.keys() or ("prompt" in row and _is_chatty(row))
    known = {name: value for name, value in columns.items() if value is not None}
    row = _with_tools(_asked(row) if asks else row)
    return columns if row == known else {name: None for name in columns if name not in known} | row


def _structured(name: str, value: Any) -> Any:
    """What a cell of such a column holds, where a table of text has it."""
    if name not in STRUCTURED or not isinstance(value, str):
        return value
    meant = parsed(value.lower() if name == "label" else value)
    return value if meant is None else meant


def _first(row: Columns, names: Sequence[str]) -> str | None:
    return next((name for name in names if name in row), None)


def _is_chatty(row: Columns) -> bool:
    """Whether a question comes with a system prompt or a history, which only a chat can hold."""
    return any(_says(row.get(name)) for name in (*SYSTEMS, *HISTORIES))


def _says(value: Any) -> bool:
    return bool(value.strip() if isinstance(value, str) else value)


def _asked(row: dict[str, Any]) -> dict[str, Any]:
    """The row with one prompt, made of all its columns that ask."""
    if _holds_dialogues(row):
        return row
    system, history = _first(row, SYSTEMS), _first(row, HISTORIES)
    if "prompt" in row:
        question = "prompt"
    elif "messages" in row and "completion" not in row:
        question = "messages"
    else:
        question = _first(row, QUESTIONS) or ""
    if not question:
        lost = [name for name in ASKING if name in row]
        if lost and "prompt" not in row:
            raise InputError(
                f"what is asked may be in {' or '.join(map(repr, lost))}, beside {', '.join(_answers(row))}: name it by "
                f"--columns prompt={lost[0]}"
            )
        if system is None or not _says(row[system]):
            return row
    turns = _turns(row.get(question), question) if question else []
    if question == "instruction" and _says(row.get("input")):
        turns = _turns("\n\n".join((row["instruction"], row["input"])), question)
    before = _history(row[history], history) if history and (question != "messages") and _says(row[history]) else []
    first = [{"role": "system", "content": row[system]}] if system and _says(row[system]) else []
    plain = question == "prompt" and not first and not before
    rest = {k: v for k, v in row.items() if k not in (question, *SYSTEMS, *QUESTIONS) and (k != history or not before)}
    return rest | {"prompt": row["prompt"] if plain else [*first, *before, *turns]}


def _answers(row: Columns) -> list[str]:
    return [name for name in ("chosen", "rejected", "completion", "completions") if name in row]


def _holds_dialogues(row: Columns) -> bool:
    """Whether its two answers are whole dialogues, which hold what was asked."""
    both = [row.get(name) for name in ("chosen", "rejected")]
    if any(value is None for value in both):
        return False
    for value, name in zip(both, ("chosen", "rejected"), strict=True):
        text = read_text(value, name)
        if not (text.startswith(TRANSCRIPT) if isinstance(text, str) else text[0].role != "assistant"):
            return False
    return True


def _turns(value: Any, column: str) -> list[Any]:
    """What a column asks, as messages."""
    text = read_text(value, column)
    return [{"role": "user", "content": text}] if isinstance(text, str) else list(text_to_json(text))


def _history(value: Any, column: str) -> list[Any]:
    """The turns before, from pairs of a question and its answer, or from messages."""
    if isinstance(value, str):
        raise InputError(f"{column!r} is a text beside what is asked: write both into a column 'prompt'")
    if all(isinstance(turn, Sequence) and not isinstance(turn, str) and len(turn) == 2 for turn in value):
        roles = ("user", "assistant")
        return [{"role": role, "content": said} for turn in value for role, said in zip(roles, turn, strict=True)]
    text = read_text(value, column)
    return list(text_to_json(text))


def _last_answer(row: Columns) -> dict[str, Any]:
    """A dialogue whose last answer is chosen over another."""
    turns: Text = read_text(row["messages"], "messages")
    if isinstance(turns, str) or turns[-1].role != "assistant":
        raise InputError("'messages' must end with the answer that is preferred to 'rejected_response'")
    asked = text_to_json(turns[:-1])
    return {"prompt": asked, "chosen": text_to_json(turns[-1:]), "rejected": row["rejected_response"]}


def _scored(row: dict[str, Any]) -> dict[str, Any]:
    """Several answers with scores, as a ranking: the highest first, equal ones tied."""
    name = _first(row, LISTS)
    if name is None or "ranks" in row or not isinstance(row[name], list):
        return row
    answers: list[Any] = row[name]
    scores: list[Any]
    if answers and all(isinstance(item, Mapping) and _first(item, TEXTS) and "role" not in item for item in answers):
        texts = [item[str(_first(item, TEXTS))] for item in answers]
        if all("rank" in item for item in answers):
            ranked = sorted({item["rank"] for item in answers})
            return _replaced(row, name, texts, [ranked.index(item["rank"]) for item in answers])
        scores = [item[key] if (key := _first(item, SCORE)) else None for item in answers]
    elif (column := _first(row, SCORES)) and isinstance(row[column], list):
        texts, scores = answers, row.pop(column)
    else:
        return row
    if len(scores) != len(texts) or not all(isinstance(score, int | float) for score in scores):
        raise InputError(f"{name!r} needs a number for each of its {len(texts)} answers, not {scores}")
    order = sorted(set(scores), reverse=True)
    return _replaced(row, name, texts, [order.index(score) for score in scores])


def _replaced(row: Columns, name: str, texts: list[Any], ranks: list[int]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key != name} | {"completions": texts, "ranks": ranks}


def _compared(row: dict[str, Any]) -> dict[str, Any]:
    """Two answers and a verdict, as chosen and rejected."""
    pair = next((pair for pair in PAIRS if row.keys() >= set(pair)), None)
    if pair is None or "chosen" in row:
        return row
    second_wins = _verdict(row)
    if second_wins is None:
        return row
    rest = {name: value for name, value in row.items() if name not in pair}
    chosen, rejected = (pair[1], pair[0]) if second_wins else pair
    return rest | {"chosen": row[chosen], "rejected": row[rejected]}


def _verdict(row: Columns) -> bool | None:
    """Whether the second of two answers is the better one; None where nothing says so.

    Raises:
        InputError: neither is.
    """
    for column in ("preference_strength", "overall_preference"):
        if isinstance(row.get(column), int | float):
            if not row[column]:
                raise InputError(f"{column!r} is 0: neither answer is preferred")
            return bool(row[column] > 0)
    if "better_response_id" in row:
        return bool(int(row["better_response_id"]))
    if "winner" in row:
        label = verdict(row["winner"])
        if label in (None, 0.5):
            raise InputError(f"'winner' is {row['winner']!r}: neither answer is preferred")
        return label == 0
    return None


VERDICTS = {
    **dict.fromkeys(("1", "a", "first", "left", "true", "a>b", "a>>b", "1>2"), 1.0),
    **dict.fromkeys(("2", "b", "second", "right", "false", "b>a", "b>>a", "2>1"), 0.0),
    **dict.fromkeys(("0", "c", "tie", "ties", "tied", "tie (bothbad)", "both", "bothbad", "both bad", "neither"), 0.5),
    **dict.fromkeys(("equal", "draw", "same", "a=b", "1=2", "none", "no preference"), 0.5),
}
"""What a label of a comparison may say, in any case: the first is better, the second is, neither."""

_ANSWERS = re.compile(r"(model|response|answer|output|option|assistant|completion|candidate|conversation)[ _-]?")


def verdict(value: Any) -> float | None:
    """1 where a label says that the first of two is better, 0 the second, .5 neither; None where it says none of these.

    It may be 1, 2 or 0 (a tie), A or B, first or second, true or false (whether the first is), and be spelled as in
    "model_a", "Response 2", "[[B]]" or "A>B".
    """
    said = str(value).strip().strip("[]()").lower().removesuffix(".0")  # a whole number may be written so
    return VERDICTS.get(_ANSWERS.sub("", said, count=1))


def several(row: Any) -> list[Any]:
    """The row, or the rankings that a tree of messages holds: one for every message with two ranked answers or more."""
    if not isinstance(row, Mapping):
        return [row]
    root = next(
        (m for m in (row.get("prompt"), row.get("tree"), row) if isinstance(m, Mapping) and "replies" in m), None
    )
    if root is None:
        return [row]
    rest = {name: value for name, value in row.items() if name not in ("prompt", "tree", *root)}
    rankings = []
    waiting: list[tuple[list[Any], Any]] = [([], root)]
    while waiting:
        before, message = waiting.pop(0)
        content = next((message[name] for name in ("text", "content", "value") if name in message), None)
        role = message.get("role", message.get("from"))
        chat = [*before, {"role": {"prompter": "user"}.get(str(role), role), "content": content}]
        replies = [reply for reply in message.get("replies") or [] if not reply.get("deleted")]
        waiting += [(chat, reply) for reply in replies]
        ranked = [reply for reply in replies if reply.get("rank") is not None]
        if len(ranked) > 1 and chat[-1]["role"] == "user":
            ranks = sorted({reply["rank"] for reply in ranked})
            answers = [next(reply[name] for name in ("text", "content", "value") if name in reply) for reply in ranked]
            rankings.append(
                {**rest, "prompt": chat, "completions": answers, "ranks": [ranks.index(r["rank"]) for r in ranked]}
            )
    return rankings


def _with_tools(row: dict[str, Any]) -> dict[str, Any]:
    """The row with its tools in its chat's first message, where the chat template gets them from."""
    tools, chat = row.get("tools"), _first(row, ("prompt", "messages"))
    if not tools or chat is None or isinstance(row[chat], str):
        return row
    first, *more = row[chat]
    return {key: value for key, value in row.items() if key != "tools"} | {chat: [{**first, "tools": tools}, *more]}
