"""Layouts of published datasets, converted to the columns of `accord.data.conventions`.

    conversations, from/value           ShareGPT: messages, preceded by `system`
    question | query | instruction      the prompt, with optional `system`, `input` and `history`, beside chosen and
                                        rejected, a completion or a response
    input, output                       a prompt and its completion
    context or trajectory, a chat       the prompt (HelpSteer3, UltraInteract)
    initial_reason_steps                a prefill: the beginning of the answers (Step-DPO)
    messages, rejected_response         ms-swift: the last answer is chosen
    response, rejected_response         ms-swift before 3.0
    conversations, a list of texts      user and assistant turns, alternating (LIMA)
    other names for the same            `accord.data.synonyms`
    several answers and a verdict       `accord.data.verdicts`

A prompt is never guessed if several columns may hold it, and no column that may be part of the prompt is dropped: such
a row is refused, with the columns named.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from accord.data.column_names import (
    ANSWERS,
    CHAT_ONLY,
    CHATS,
    HISTORIES,
    LABEL_LIKE,
    PASSAGES,
    PREFILLS,
    PROMPT_ALONE,
    PROMPT_LIKE,
    QUESTIONS,
    RESPONSES,
    SYSTEMS,
)
from accord.data.columns import in_own_names, is_filled, words
from accord.data.messages import (
    QUESTION_TEXTS,
    TRANSCRIPT,
    is_chat,
    messages_from_columns,
    messages_from_turns,
    parse_transcript,
    read_prompt,
    read_text,
    texts_in,
)
from accord.data.settings import move_settings, structured, with_thought_beside
from accord.data.synonyms import rename_synonyms
from accord.data.verdicts import add_preference, desirable, missing_verdict
from accord.errors import InputError
from accord.records import Message, Text, text_to_json

Columns = Mapping[str, Any]


def standardize(columns: Columns) -> Columns:
    """Convert a row to the columns of the conventions; a row that has them already is returned unchanged.

    Raises InputError if a column that may hold part of the prompt would be lost, or a column cannot be read.
    """
    known = {name: value for name, value in columns.items() if value is not None and value == value}  # nor NaN
    known |= {name: "" for name in CHAT_ONLY if name in columns and name not in known}
    row = add_preference(rename_synonyms({name: structured(name, value) for name, value in known.items()}))
    if "messages" not in row and (chat := _first(row, CHATS)):
        row["messages"] = row.pop(chat)
    with in_own_names(columns, row):
        row = _merge_columns(row)
    return columns if row == columns else {name: None for name in columns if name not in known} | row


def _merge_columns(row: dict[str, Any]) -> dict[str, Any]:
    """The row with its answer as `completion`, all that is asked as `prompt`, and its settings in its chats."""
    if isinstance(row.get("messages"), list | Mapping):
        row["messages"] = messages_from_columns(row["messages"])
    if isinstance(row.get("messages"), list):
        row["messages"] = messages_from_turns(row["messages"])
    if "rejected_response" in row and "messages" in row:
        row |= _last_answer(row, "preferred to 'rejected_response'", "chosen")
        row["rejected"] = row["rejected_response"]
        del row["messages"]
    elif "rejected_response" in row and "response" in row and "chosen" not in row:
        row |= {"chosen": row.pop("response"), "rejected": row.pop("rejected_response")}
    row = _add_completion(row)
    asks = (
        set(ANSWERS) & row.keys() or "messages" in row or ("prompt" in row and _is_chatty(row)) or _is_prompt_only(row)
    )
    row = _merge_prompt(row) if asks else row
    chat = _first(row, ("prompt", "messages"))
    chats = [chat] if chat else ["chosen", "rejected"] if _holds_dialogues(row) else []
    return move_settings(row, chats)


def _first(row: Columns, names: Sequence[str]) -> str | None:
    return next((name for name in names if name in row), None)


def _is_chatty(row: Columns) -> bool:
    """Whether the row has a column that only a chat can hold, such as a system prompt, even if it is empty here."""
    return any(name in row for name in CHAT_ONLY) or any(is_filled(row.get(name)) for name in ("context", "tools"))


def _is_prompt_only(row: Columns) -> bool:
    """Whether the row is a prompt without a completion."""
    others = ("prompt", "text", "input_ids", *RESPONSES)
    return _first(row, PROMPT_ALONE) is not None and _first(row, others) is None and not missing_verdict(row)


def _add_completion(row: dict[str, Any]) -> dict[str, Any]:
    """The row with `completion` taken from another column, which is kept for verifiers."""
    asks, column = _first(row, ("prompt", *QUESTIONS)), _first(row, ("completion", "messages", *RESPONSES))
    if set(ANSWERS) & row.keys() - {"completion"}:
        return row
    if not column and {"question", "answer"} <= row.keys() and "prompt" not in row:
        column = "answer"
    if not column or (column in RESPONSES and not asks):
        return row
    label = _first(row, LABEL_LIKE) if "label" not in row else None
    if label:
        raise InputError(
            f"{label!r} may say whether {column!r} is a good one: name it by --columns label={label}, or leave it out "
            f"by --columns {label}="
        )
    if column == "messages" and desirable(row.get("label")) is not None:
        return row | _last_answer(row, "judged by 'label'", "completion")
    if column == "completion":
        return row | {"completion": with_thought_beside(row, row["completion"])}
    if column == "messages":
        return row
    answer = row[column]
    if isinstance(answer, int | float) and not isinstance(answer, bool):
        answer = str(answer)
    elif column == "answer" and not (isinstance(answer, str) or is_chat(answer)):
        return row  # a reference for a verifier
    if not is_filled(read_text(answer, column)):
        raise InputError(f"{column!r} is empty")
    return row | {"completion": with_thought_beside(row, answer)}


def _merge_prompt(row: dict[str, Any]) -> dict[str, Any]:
    """The row with all columns that are part of the prompt merged into `prompt`, or into its messages."""
    wholes = ("chosen", "rejected") if _holds_dialogues(row) else ("messages",) if not set(ANSWERS) & row.keys() else ()
    if "messages" in wholes and "messages" not in row:
        wholes = ()
    if wholes:
        return row | {name: _full_dialogue(row, name) for name in wholes}
    history = _first(row, HISTORIES)
    question = _first(row, ("prompt", "messages", *QUESTIONS))
    if not question and (chat := next((name for name in (*HISTORIES, "trajectory") if is_chat(row.get(name))), None)):
        question, history = chat, None
    if not question:
        _require_no_question(row)
        return row
    if question == "prompt" and not _is_chatty(row):
        _require_included(row, row["prompt"], question)
        return row
    turns = _turns(row[question], question)
    if question == "messages" and turns[-1]["role"] == "assistant":
        raise InputError(
            f"'messages' ends with an answer, beside {', '.join(_answer_columns(row))}: name the prompt by --columns "
            "prompt=COLUMN, or leave the others out"
        )
    more = row.get("input") if question == "instruction" else None
    if isinstance(more, str | int | float) and not isinstance(more, bool):
        turns[-1]["content"] = "\n\n".join(filter(str.strip, (turns[-1]["content"], str(more))))
    if history and is_filled(row[history]):
        if question == "instruction" and history == "context" and isinstance(row[history], str):  # Dolly's
            turns[-1]["content"] += f"\n\n{row[history]}"
        else:
            turns = [*_history(row[history], history, question), *turns]
    _require_included(row, turns, question)
    rest = {name: value for name, value in row.items() if name not in ("messages", *SYSTEMS, *PREFILLS, history)}
    prefills = [name for name in PREFILLS if is_filled(row.get(name))]
    begun = [{"role": "assistant", "content": words(row[name], name)} for name in prefills]
    return rest | {"prompt": [*_add_system(row, turns), *begun]}


def _answer_columns(row: Columns) -> list[str]:
    return [name for name in ANSWERS if name in row]


def _require_no_question(row: Columns) -> None:
    """Raise InputError if a column that is not read may hold the prompt."""
    chats = [name for name, value in row.items() if name not in ANSWERS and _are_turns(value)]
    lost = [name for name in dict.fromkeys((*PROMPT_LIKE, *SYSTEMS, *chats)) if is_filled(row.get(name))]
    if lost:
        holder = row[lost[0]]
        inside = list(map(str, holder)) if isinstance(holder, Mapping) else []
        has = f" (which has {', '.join(inside)})" if inside else ""
        raise InputError(
            f"the prompt may be in {' or '.join(map(repr, lost))}{has}, beside {', '.join(_answer_columns(row))}: name "
            f"it by --columns prompt={'.'.join([lost[0], *sorted(inside, key=lambda n: n not in PROMPT_LIKE)[:1]])}"
        )


def _are_turns(value: Any) -> bool:
    """Whether a value is a list of messages with their roles."""
    return is_chat(value) and not isinstance(value, str) and all({"role", "from"} & turn.keys() for turn in value)


def _holds_dialogues(row: Columns) -> bool:
    """Whether chosen and rejected are whole dialogues, which include the prompt."""
    both = [row.get(name) for name in ("chosen", "rejected")]
    if any(value is None for value in both):
        return False
    for value, name in zip(both, ("chosen", "rejected"), strict=True):
        text = read_text(value, name)
        if not (text.startswith(TRANSCRIPT) if isinstance(text, str) else text[0].role != "assistant"):
            return False
    return True


def _full_dialogue(row: Columns, name: str) -> Any:
    """A dialogue column, starting with the row's system prompt. Raises InputError if it lacks another prompt column."""
    if not any(is_filled(row.get(other)) for other in ("prompt", *QUESTIONS, *SYSTEMS, *HISTORIES)):
        return row[name]
    turns = _turns(row[name], name)
    _require_included(row, turns, name)
    return _add_system(row, turns)


def _add_system(row: Columns, turns: list[Any]) -> list[Any]:
    """The turns preceded by the row's system prompt. Raises InputError if they start with a different one."""
    columns = {name: words(row[name], name) for name in SYSTEMS if is_filled(row.get(name))}
    if not columns:
        return turns
    first = turns[0] if turns and turns[0]["role"] in ("system", "developer") else None
    told = next(iter(columns.values())) if first is None else first["content"]
    other = next((name for name, text in columns.items() if text.strip() not in told), None)
    if other is not None:
        beside = repr(next(iter(columns))) if first is None else "the first message"
        raise InputError(
            f"{other!r} and {beside} are two different system prompts: leave the column out by --columns {other}="
        )
    return [{"role": "system", "content": told}, *turns] if first is None else turns


def _require_included(row: Columns, within: Any, asked: str) -> None:
    """Raise InputError if a column that may be part of the prompt is not contained in `within`, so would be lost."""
    names = ("prompt", *QUESTIONS, *HISTORIES, *(PASSAGES if set(ANSWERS) & row.keys() or _is_prompt_only(row) else ()))
    names = tuple(name for name in names if name != asked and is_filled(row.get(name)))
    included = "\n".join(texts_in(within)) if names else ""
    lost = next((name for name in names if not _is_in(row[name], included)), None)
    if lost is not None:
        both = f"name both by --columns prompt={asked},{lost}" if asked not in (*ANSWERS, *CHATS) else "write it there"
        raise InputError(
            f"{lost!r} beside {asked!r} may be part of the prompt: {both}, or leave it out by --columns {lost}="
        )


def _is_in(value: Any, included: str) -> bool:
    """Whether a text has all texts of a value, or its number; true or false says nothing that could be missing."""
    if isinstance(value, int | float):
        return isinstance(value, bool) or str(value) in included
    texts = [text.strip() for text in texts_in(value) if text.strip()]
    return all(text in included for text in texts) if texts else _are_turns(value)


def _turns(value: Any, column: str) -> list[Any]:
    """A prompt column as messages in JSON form."""
    if isinstance(value, Mapping) and (inside := _first(value, QUESTION_TEXTS)):
        value = value[inside]  # WebGPT's
    text = read_text(value, column)
    if isinstance(text, str) and text.startswith(TRANSCRIPT):
        text = read_prompt(text, column) if column == "prompt" else parse_transcript(text)
    return list(text_to_json((Message("user", text),) if isinstance(text, str) else text))


def _history(value: Any, column: str, question: str) -> list[Any]:
    """The earlier turns, from question-answer pairs or from messages."""
    if not isinstance(value, str | list):
        raise InputError(
            f"{column!r} beside {question!r} must be a list of turns, not of type {type(value).__name__}: leave it out "
            f"by --columns {column}="
        )
    if isinstance(value, str) or (column == "context" and all(isinstance(turn, str) for turn in value)):
        raise InputError(
            f"{column!r} has text beside {question!r}: name both by --columns prompt={column},{question}, or leave it "
            f"out by --columns {column}="
        )
    if all(isinstance(turn, Sequence) and not isinstance(turn, str) and len(turn) == 2 for turn in value):
        value = [{"input": user, "output": answer} for user, answer in value]
    return list(text_to_json(read_text(messages_from_turns(value), column)))


def _last_answer(row: dict[str, Any], judged_by: str, name: str) -> dict[str, Any]:
    """The dialogue in `messages` as `prompt`, and its last answer under `name`."""
    turns: Text = read_text(row["messages"], "messages")
    if isinstance(turns, str) or turns[-1].role != "assistant":
        raise InputError(f"'messages' must end with the answer that is {judged_by}")
    return {"prompt": text_to_json(turns[:-1]), name: text_to_json(turns[-1:])}
