"""What is said about columns: those that training does not read, although they may say something about it, and those of
a row that follows no convention."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from accord.data.chat_template import TEMPLATE_KWARGS, reads, thoughts_of
from accord.data.column_names import PROMPT_LIKE, RESPONSES, SWITCHES
from accord.data.messages import texts_in
from accord.data.parts import THOUGHTS
from accord.data.settings import SETTINGS
from accord.data.synonyms import BETTER, ONE_OF_TWO
from accord.data.verdicts import LISTS, TOLD, as_number, is_number, missing_verdict
from accord.dates import STRFTIME_NOW
from accord.errors import InputError
from accord.records import Demonstration, Labeled, Prompt, Row, row_to_json

Columns = Mapping[str, Any]

WEIGHTS = ("weight", "sample_weight", "loss_weight", "example_weight", "importance_weight")
"""Columns that may say how much a row counts."""
THOUGHT_LIKE = (
    "complex_cot", "cot", "chain_of_thought", "thought", "thoughts", "scratchpad", "reasoning_trace", "thinking_trace",
)  # fmt: skip
"""Columns, in lower case, that may hold the thought before an answer."""
_CHOSEN_SCORE = re.compile(r"chosen[_-](score|rating|reward)|(score|rating|reward)[_-]chosen")


def notes_on(rows: Sequence[tuple[Row, Columns]]) -> list[str]:
    """A line for each kind of column that is not read, and may be meant to be, in rows with their columns."""
    names = {str(name): None for _, columns in rows for name in columns}
    scores = [name for name in names if _CHOSEN_SCORE.fullmatch(name)]
    contrary = sum(any(_scores_against(columns, name) for name in scores) for _, columns in rows)
    of = f"of {len(rows):,} rows"
    notes = (
        [f"{contrary:,} {of} score 'chosen' no higher than 'rejected', and are read as they are"] if contrary else []
    )
    for name in (name for name in WEIGHTS if name in names):
        if weighed := sum(_weighs(columns.get(name)) for _, columns in rows):
            notes.append(f"{weighed:,} {of} have another {name!r} than 1, which is not read: all count alike")
    for name in (name for name in names if ONE_OF_TWO.fullmatch(name.lower()) or name in ("completion", *RESPONSES)):
        if unread := sum(_is_unread(name, columns, record) for record, columns in rows):
            notes.append(f"{unread:,} {of} have an answer in {name!r} that is not read{_as_pair(name, names, rows)}")
    for name in (name for name in (*SETTINGS, "documents") if name in names):
        if plain := sum(isinstance(r.prompt, str) and _is_unquoted(columns.get(name), r.prompt) for r, columns in rows):
            notes.append(f"{plain:,} {of} have {name!r} beside a plain text, where no chat template reads it")
    for name in (name for name in names if name.rpartition(".")[2] in TOLD and name.partition(".")[0] in LISTS):
        notes.append(
            f"{sum(name in columns for _, columns in rows):,} {of} have answers with a {name!r}, which is not read: "
            "write one that all answers of a row share as the row's 'system'"
        )
    for name in (name for name in names if name.lower() in THOUGHT_LIKE):
        if any(_has_thought(columns.get(name), record) for record, columns in rows):
            notes.append(
                f"{name!r} is not read: if it is the thought before the answer, name it by --columns "
                f"reasoning_content={name}"
            )
    for name in (name for name in names if name in THOUGHTS):
        if any(_has_thought(columns.get(name), record) for record, columns in rows):
            notes.append(
                f"{name!r} is not read beside answers of several turns or with a thought of their own: write it into "
                "the message that it belongs to"
            )
    return notes


def _scores_against(row: Columns, chosen: str) -> bool:
    """Whether the score of a row's chosen answer in a column does not exceed that of its rejected one."""
    better, worse = (as_number(row.get(name)) for name in (chosen, chosen.replace("chosen", "rejected")))
    return is_number(better) and is_number(worse) and better <= worse


def _weighs(value: Any) -> bool:
    """Whether a column holds a number other than 1."""
    return is_number(number := as_number(value)) and not isinstance(value, bool) and number != 1


def _is_unread(name: str, columns: Columns, record: Row) -> bool:
    """Whether a column that is read under another name, if at all, holds a text that the record does not."""
    value = columns.get(name)
    if isinstance(record, Prompt) or hasattr(record, name) or not isinstance(value, str | list | Mapping):
        return False
    answers = (getattr(record, kind, "") for kind in ("completion", "chosen", "rejected"))
    if value in [text if isinstance(text, str) else text[-1].content for text in answers if text]:
        return False  # most rows need no longer look
    try:
        texts = texts_in(value)
    except InputError:  # of a text that looks like a chat
        return True
    read = "\n".join(texts_in(list(row_to_json(record).values())))
    return any(text.strip() not in read for text in texts)


def _as_pair(name: str, names: Iterable[str], rows: Sequence[tuple[Row, Columns]]) -> str:
    """How to read a worse answer beside the one that is read, as the end of a line; "" where that is not known."""
    answer = next((one for one in ("completion", *RESPONSES, "answer") if one in names), None)
    is_worse = any(worse in name.lower() for others in BETTER.values() for worse in others)
    if answer is None or not is_worse or not isinstance(rows[0][0], Demonstration | Labeled):
        return ""
    return f": if it is worse than {answer!r}, name both by --columns chosen={answer},rejected={name}"


def _is_unquoted(value: Any, prompt: str) -> bool:
    """Whether a column holds settings, tools or documents that are not in the prompt."""
    if isinstance(value, Mapping):
        return any(held is not None for held in value.values())
    if not isinstance(value, str | list) or not any(value):
        return False
    texts = texts_in(value)
    return not any(texts) or any(text.strip() not in prompt for text in texts)


def _has_thought(value: Any, record: Row) -> bool:
    """Whether a demonstration's column holds a text that its answer, with its thoughts, does not."""
    if not isinstance(record, Demonstration) or not isinstance(value, str) or value.strip().lower() in ("", *SWITCHES):
        return False
    answer = record.completion
    turns = (
        [answer]
        if isinstance(answer, str)
        else [text for turn in answer for text in (turn.content, *thoughts_of(turn))]
    )
    return value.strip() not in "\n".join(turns)


def unread_settings(template: object, rows: Sequence[Row]) -> list[str]:
    """A line for each variable in the chats of rows that a chat template does not read, which has no effect."""
    given: dict[str, None] = {}
    for row in rows:
        chat = row.prompt or getattr(row, "completion", "")
        settings = chat[0].more.get(TEMPLATE_KWARGS) if chat and not isinstance(chat, str) else None
        held = settings if isinstance(settings, Mapping) else {}
        given |= dict.fromkeys(name for name, value in held.items() if value is not None)
    unread = [name for name in given if name != STRFTIME_NOW and not reads(template, name)]
    return [f"the chat template does not read {name!r}, which rows have in {TEMPLATE_KWARGS!r}" for name in unread]


def unfit(columns: Columns, present: Sequence[str], known: Sequence[str], accepted: str) -> InputError:
    """The error for a row whose `present` columns are not what any convention needs; `accepted` names what they do."""
    meanings = {name: near(name, known) for name in present if name not in known}
    hints = "; ".join(f"'{name}' is perhaps meant to be '{meant}'" for name, meant in meanings.items() if meant)
    listed = (", ".join(present) or "none that is not null") + (f" ({hints})" if hints else "")
    empty = [name for name in columns if columns[name] is None and name in known]
    listed += f" (without a value: {', '.join(empty)})" if empty and present else ""
    why = f", and {answers}" if (answers := missing_verdict(present)) else ""
    if isinstance(columns.get("completions"), list) and isinstance(columns.get("labels"), list):
        return InputError(
            "'labels' judges the 'completions', the steps of one answer, one by one, and no method learns from steps: "
            "join them to one 'completion' with a 'label', true where all are, for `accord kto`"
        )
    inside = [f"{name}.{key}" for name in present for key in _keys(columns[name]) if key in known]
    if inside:
        named = ",".join(f"{path.rpartition('.')[2]}={path}" for path in inside)
        return InputError(
            f"the columns found are {listed}, and {inside[0]} is inside one: name it by --columns {named}"
        )
    asks = next((name for name in present if name in PROMPT_LIKE), present[0] if present else "COLUMN")
    named = "" if empty else f"; --columns prompt={asks},... names them so"
    return InputError(
        f"the columns found are {listed}{why}, but a row needs one of these sets of columns: {accepted}{named}"
    )


def near(name: str, known: Sequence[str]) -> str | None:
    """The known column most similar to a name, None if none is close."""
    return next(iter(get_close_matches(str(name).strip().lower(), known, n=1, cutoff=0.8)), None)


def _keys(value: Any) -> list[str]:
    return list(map(str, value)) if isinstance(value, Mapping) else []
