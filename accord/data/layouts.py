"""The layouts of other people's files, turned into the columns of `accord.data.conventions`.

    conversations, from/value           sharegpt: messages, with `system` before them
    question | query | instruction      what is asked, with `system`, `input` and `history` where a row has them, beside
                                        chosen and rejected, a completion or a response
    input, output                       a question and its answer
    context that is a chat              what is asked (HelpSteer3), as is trajectory (UltraInteract)
    initial_reason_steps                what the answers go on with (Step-DPO)
    messages, rejected_response         ms-swift: the last answer is chosen
    conversations, a list of texts      the user's and the assistant's in turn (LIMA)
    other names for the same            `accord.data.synonyms`
    several answers and a verdict       `accord.data.verdicts`

A prompt is never guessed where a column may hold it, and no column is dropped that may be a part of what is asked: such
a row is refused, with the columns named.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from accord.data.messages import TRANSCRIPT, in_rows, parse_transcript, parsed, read_prompt, read_text
from accord.data.synonyms import respelled
from accord.data.verdicts import CHOICES, LISTS, SCORES, desirable, judged, unjudged
from accord.errors import InputError
from accord.records import Message, Text, text_to_json

Columns = Mapping[str, Any]

CHATS = ("messages", "conversations", "conversation")
QUESTIONS = ("question", "query", "instruction", "input")
ASKED_ALONE = ("question", "query", "instruction")
"""Of these what is a prompt where a row has no answer."""
SYSTEMS = ("system", "system_prompt", "system_message")
HISTORIES = ("history", "context")
BEGUN = ("initial_reason_steps", "response_prefix", "assistant_prefix", "prefill")
"""What the answers go on with: they begin so (Step-DPO)."""
_OF_CHATS = (*SYSTEMS, *BEGUN, "history")
RESPONSES = ("response", "output")
ANSWERS = ("chosen", "rejected", "completion", "completions")
STRUCTURED = (*CHATS, *LISTS, *SCORES, *CHOICES, "history", "ranks", "tools", "label", "input_ids", "labels")
"""Columns that no text can be: in a table of text they are JSON, or lists as Python prints them."""

ASKING = (
    "article", "body", "context", "dialog", "dialogue", "document", "human", "info", "inputs", "instructions",
    "passage", "post", "request", "task", "title", "user",
)  # fmt: skip
"""Columns that may hold what is asked, in ways of their own."""

JUDGING = (
    "is_safe", "is_response_safe", "is_harmful", "is_toxic", "is_preferred", "is_chosen", "is_good", "is_desirable",
    "desirable", "kto_tag", "liked", "accepted", "thumb", "thumbs", "thumbs_up", "thumbs_down", "feedback", "vote",
)  # fmt: skip
"""Columns that may say whether a completion is a good one, in ways of their own."""

PASSAGES = ("options", "choices", "A", "passage", "passages", "document", "article", "paragraph", "post")
"""Columns that a question beside them may be about."""

QUESTION_TEXTS = ("full_text", "text")
"""Where an object holds a question."""

PAIRED = (("input", "output"), ("question", "answer"), ("user", "assistant"), ("human", "assistant"), ("human", "bot"))
"""The keys of a question and its answer in one object, of which a chat may be a list."""


def standard(columns: Columns) -> Columns:
    """A row in the columns of the conventions; one that has them already stays as it is.

    Raises:
        InputError: a column that may hold what was asked would be lost, or what a column holds cannot be read.
    """
    known = {name: value for name, value in columns.items() if value is not None and value == value}  # nor NaN
    known |= {name: "" for name in _OF_CHATS if name in columns and name not in known}
    row = judged(respelled({name: _structured(name, value) for name, value in known.items()}))
    if "messages" not in row and (chat := _first(row, CHATS)):
        row["messages"] = row.pop(chat)
    if isinstance(row.get("messages"), list | Mapping):
        row["messages"] = in_rows(row["messages"])
    if isinstance(row.get("messages"), list):
        row["messages"] = _in_turns(row["messages"])
    if "rejected_response" in row and "messages" in row:
        row |= _last_answer(row, "preferred to 'rejected_response'", "chosen")
        row["rejected"] = row["rejected_response"]
        del row["messages"]
    row = _answered(row)
    asks = set(ANSWERS) & row.keys() or "messages" in row or ("prompt" in row and _is_chatty(row)) or _only_asks(row)
    row = _with_settings(_asked(row) if asks else row)
    return columns if row == columns else {name: None for name in columns if name not in known} | row


def _structured(name: str, value: Any) -> Any:
    """What a cell of such a column holds, where a table of text has it."""
    if name not in STRUCTURED or not isinstance(value, str):
        return value
    meant = parsed(value.lower() if name == "label" else value)
    return value if meant is None else meant


def _first(row: Columns, names: Sequence[str]) -> str | None:
    return next((name for name in names if name in row), None)


def _is_chatty(row: Columns) -> bool:
    """Whether a question comes with a column for what only a chat can hold; in some rows it may be empty."""
    return any(name in row for name in _OF_CHATS) or any(_says(row.get(name)) for name in ("context", "tools"))


def _only_asks(row: Columns) -> bool:
    """Whether it is a question alone: one that a model is to answer, beside what verifiers read."""
    others = ("prompt", "text", "input_ids", *RESPONSES)
    return _first(row, ASKED_ALONE) is not None and _first(row, others) is None and not unjudged(row)


def _says(value: Any) -> bool:
    return bool(value.strip() if isinstance(value, str) else value)


def _answered(row: dict[str, Any]) -> dict[str, Any]:
    """The row with its answer as its completion, where another column holds it; a verifier may want that one too."""
    asked, said = _first(row, ("prompt", *QUESTIONS)), _first(row, ("completion", "messages", *RESPONSES))
    if set(ANSWERS) & row.keys() - {"completion"}:
        return row
    if not said and {"question", "answer"} <= row.keys() and "prompt" not in row:
        said = "answer"
    if not said or (said in RESPONSES and not asked):
        return row
    label = _first(row, JUDGING) if "label" not in row else None
    if label:
        raise InputError(
            f"{label!r} may say whether {said!r} is a good one: name it by --columns label={label}, or leave it out by "
            f"--columns {label}="
        )
    if said == "messages" and desirable(row.get("label")) is not None:
        return row | _last_answer(row, "judged by 'label'", "completion")
    if said == "completion":
        return row | {"completion": _thought(row, row["completion"])}
    if said == "messages":
        return row
    answer = row[said]
    if isinstance(answer, int | float) and not isinstance(answer, bool):
        answer = str(answer)
    elif said == "answer" and not (isinstance(answer, str) or _is_chat(answer)):
        return row  # what a verifier compares with
    if not _says(read_text(answer, said)):
        raise InputError(f"{said!r} is empty")
    return row | {"completion": _thought(row, answer)}


def _thought(row: Columns, answer: Any) -> Any:
    """The answer, as a message that holds what the row says was thought before it, where it says so."""
    thought = row.get("reasoning_content")
    if not isinstance(thought, str) or not thought.strip() or not isinstance(answer, str) or _is_chat(answer):
        return answer
    return [{"role": "assistant", "content": answer, "reasoning_content": thought}]


def _asked(row: dict[str, Any]) -> dict[str, Any]:
    """The row with one prompt, made of all its columns that ask, or with all of them in its messages."""
    wholes = ("chosen", "rejected") if _holds_dialogues(row) else ("messages",) if not set(ANSWERS) & row.keys() else ()
    if "messages" in wholes and "messages" not in row:
        wholes = ()
    if wholes:
        return row | {name: _whole(row, name) for name in wholes}
    history = _first(row, HISTORIES)
    question = _first(row, ("prompt", "messages", *QUESTIONS))
    if not question and (chat := next((name for name in (*HISTORIES, "trajectory") if _is_chat(row.get(name))), None)):
        question, history = chat, None
    if not question:
        _require_no_question(row)
        return row
    if question == "prompt" and not _is_chatty(row):
        _require_said(row, row["prompt"], question)
        return row
    turns = _turns(row[question], question)
    if question == "messages" and turns[-1]["role"] == "assistant":
        raise InputError(
            f"'messages' ends with an answer, beside {', '.join(_answers(row))}: name what is asked by --columns "
            "prompt=COLUMN, or leave the others out"
        )
    if question == "instruction" and isinstance(more := row.get("input"), str) and more.strip():
        turns[-1]["content"] = "\n\n".join(filter(str.strip, (turns[-1]["content"], more)))
    if history and _says(row[history]):
        if question == "instruction" and history == "context" and isinstance(row[history], str):  # Dolly's
            turns[-1]["content"] += f"\n\n{row[history]}"
        else:
            turns = [*_history(row[history], history, question), *turns]
    _require_said(row, turns, question)
    rest = {name: value for name, value in row.items() if name not in ("messages", *SYSTEMS, *BEGUN, history)}
    begun = [{"role": "assistant", "content": row[name]} for name in BEGUN if _says(row.get(name))]
    return rest | {"prompt": [*_opened(row, turns), *begun]}


def _answers(row: Columns) -> list[str]:
    return [name for name in ANSWERS if name in row]


def _require_no_question(row: Columns) -> None:
    """Raise InputError where a column may hold what is asked that is not known to."""
    lost = [name for name in (*ASKING, *SYSTEMS) if _says(row.get(name))]
    if lost:
        holder = row[lost[0]]
        inside = list(map(str, holder)) if isinstance(holder, Mapping) else []
        has = f" (which has {', '.join(inside)})" if inside else ""
        raise InputError(
            f"what is asked may be in {' or '.join(map(repr, lost))}{has}, beside {', '.join(_answers(row))}: name it "
            f"by --columns prompt={'.'.join([lost[0], *sorted(inside, key=lambda n: n not in ASKING)[:1]])}"
        )


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


def _whole(row: Columns, name: str) -> Any:
    """A dialogue, which opens with the row's system prompt, and holds whatever else the row asks."""
    if not any(_says(row.get(other)) for other in ("prompt", *QUESTIONS, *SYSTEMS, *HISTORIES)):
        return row[name]
    turns = _turns(row[name], name)
    _require_said(row, turns, name)
    return _opened(row, turns)


def _opened(row: Columns, turns: list[Any]) -> list[Any]:
    """The turns with the row's system prompt before them, unless they open with it; InputError where with another."""
    column = next((name for name in SYSTEMS if _says(row.get(name))), None)
    if column is None:
        return turns
    first = turns[0] if turns and turns[0]["role"] in ("system", "developer") else None
    if first is None:
        return [{"role": "system", "content": row[column]}, *turns]
    if str(row[column]).strip() not in first["content"]:
        raise InputError(
            f"{column!r} and the first message are two different system prompts: leave the column out by --columns "
            f"{column}="
        )
    return turns


def _require_said(row: Columns, within: Any, asked: str) -> None:
    """Raise InputError where a column that may be a part of what is asked is not `within` it: it would be lost."""
    names = ("prompt", *QUESTIONS, *HISTORIES, *(PASSAGES if set(ANSWERS) & row.keys() or _only_asks(row) else ()))
    names = tuple(name for name in names if name != asked and _says(row.get(name)))
    said = "\n".join(_contents(within)) if names else ""
    lost = next((n for n in names if not all(text.strip() in said for text in _contents(row[n]))), None)
    if lost is not None:
        both = f"name both by --columns prompt={asked},{lost}" if asked not in (*ANSWERS, *CHATS) else "write it there"
        raise InputError(
            f"{lost!r} beside {asked!r} may be a part of what is asked: {both}, or leave it out by --columns {lost}="
        )


def _contents(value: Any) -> list[str]:
    """All texts of a string, a message, a list of either, or pairs of them."""
    if isinstance(value, str):
        text = read_text(value, "")
        return [text] if isinstance(text, str) else [turn.content for turn in text]
    if isinstance(value, Mapping):
        return _contents(next((value[name] for name in ("content", "value", *QUESTION_TEXTS) if name in value), ""))
    return [text for item in value for text in _contents(item)] if isinstance(value, Sequence) else []


def _is_chat(value: Any) -> bool:
    if isinstance(value, str):
        return not isinstance(read_text(value, ""), str)
    return isinstance(value, Sequence) and bool(value) and all(isinstance(item, Mapping) for item in value)


def _turns(value: Any, column: str) -> list[Any]:
    """What a column asks, as messages."""
    if isinstance(value, Mapping) and (inside := _first(value, QUESTION_TEXTS)):
        value = value[inside]  # WebGPT's
    text = read_text(value, column)
    if isinstance(text, str) and text.startswith(TRANSCRIPT):
        text = read_prompt(text, column) if column == "prompt" else parse_transcript(text)
    return list(text_to_json((Message("user", text),) if isinstance(text, str) else text))


def _in_turns(chat: list[Any]) -> list[Any]:
    """A chat's messages, of which an object may hold two: what was asked, and the answer; or texts, in turn."""
    roles = ("user", "assistant")
    if len(chat) > 1 and all(isinstance(item, str) for item in chat):
        return [{"role": roles[i % 2], "content": text} for i, text in enumerate(chat)]
    for pair in PAIRED:
        if chat and all(isinstance(item, Mapping) and item.keys() == set(pair) for item in chat):
            return [{"role": r, "content": item[key]} for item in chat for r, key in zip(roles, pair, strict=True)]
    return chat


def _history(value: Any, column: str, question: str) -> list[Any]:
    """The turns before, from pairs of a question and its answer, or from messages."""
    if not isinstance(value, list):
        raise InputError(
            f"{column!r} is a text beside {question!r}: name both by --columns prompt={column},{question}, or leave it "
            f"out by --columns {column}="
        )
    if all(isinstance(turn, Sequence) and not isinstance(turn, str) and len(turn) == 2 for turn in value):
        value = [{"input": asked, "output": said} for asked, said in value]
    return list(text_to_json(read_text(_in_turns(value), column)))


def _last_answer(row: dict[str, Any], judged_by: str, name: str) -> dict[str, Any]:
    """The prompt and the last answer, under a name, of a dialogue that another column says something of."""
    turns: Text = read_text(row["messages"], "messages")
    if isinstance(turns, str) or turns[-1].role != "assistant":
        raise InputError(f"'messages' must end with the answer that is {judged_by}")
    return {"prompt": text_to_json(turns[:-1]), name: text_to_json(turns[-1:])}


SETTINGS = ("tools", "chat_template_kwargs")
"""Columns of what a chat template reads beside the messages: what may be called, and whatever else it asks about."""


def _with_settings(row: dict[str, Any]) -> dict[str, Any]:
    """The row with its tools, and its chat template's settings, in its chat's first message, where `chat_template` gets
    them from."""
    given = {name: row[name] for name in SETTINGS if row.get(name)}
    if isinstance(given.get("tools"), list):  # of which tables of text have each as JSON
        given["tools"] = [_structured("tools", tool) for tool in given["tools"]]
    chat = _first(row, ("prompt", "messages"))
    chats = ["chosen", "rejected"] if chat is None and _holds_dialogues(row) else [chat] if chat else []
    if not given or not chats or isinstance(row[chats[0]], str):
        return row
    told = {name: [{**row[name][0], **given}, *row[name][1:]] for name in chats}
    return {key: value for key, value in row.items() if key not in given} | told
