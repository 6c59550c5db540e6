"""Column names of published datasets, renamed to those of `accord.data.conventions`.

    chosen_response, rejected_response; accepted, rejected ...     chosen, rejected
    input of messages, preferred_output, non_preferred_output      the same (OpenAI's preference fine-tuning)
    messages, rejected_messages                                    the same, whole dialogues (ms-swift)
    problem, with solution or generated_solution                   a question and its answer (NuminaMath, OpenMath)
    question, with solution                                        the same, also beside a short answer (LIMO)
    chosen, rejected, one or both a list of texts                  answers of two ranks (RewardBench 2)
    chosen, rejected_responses (rejected_answers ...)              the same
    contents, systemInstruction                                    messages (Gemini's)
    inputs, targets                                                the same (FLAN, Aya)
    query, answers that are calls, tools                           a question, and the calls that answer it (xLAM)
    Question, Answer, Response ...                                 the same names without capitals

The original columns are kept, as verifiers and reward functions refer to them by name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from accord.data.columns import words
from accord.data.messages import parsed
from accord.errors import InputError

BETTER = {
    "chosen": ("rejected",),
    "accepted": ("rejected",),
    "preferred": ("rejected", "non_preferred", "dispreferred", "unpreferred"),
    "better": ("worse",),
}
"""Names of the better of two answers, each with the matching names of the worse one."""

_KINDS = ("messages", "conversations", "conversation", "response", "answer", "completion", "output", "text", "message")
"""What such columns hold; whole dialogues come first."""
_NAMED = re.compile(
    rf"(?P<first>{'|'.join(BETTER)})_(?P<of>{'|'.join(_KINDS)})|(?P<of_>{'|'.join(_KINDS)})_(?P<last>{'|'.join(BETTER)})"
)
_SIDES = "|".join(dict.fromkeys((*BETTER, *(worse for names in BETTER.values() for worse in names))))
ONE_OF_TWO = re.compile(rf"({_SIDES})(_({'|'.join(_KINDS)}|list)s?)?|({'|'.join(_KINDS)})s?_({_SIDES})")
"""The name of a column with the better or the worse of two answers."""
_ALONE = ("accepted", "preferred")
"""Names that may stand without one of `_KINDS`."""

SEVERAL = tuple(f"rejected_{kind}" for kind in ("responses", "answers", "completions", "outputs", "texts", "list"))
"""Columns of several rejected answers."""

SOLUTIONS = ("generated_solution", "solution")
"""Columns of a problem's worked solution, which may come beside its short `answer`."""

_ASKED = {"prompt", "question", "query", "instruction", "input", "messages", "conversations", "conversation", "context"}
_SAID = {"chosen", "rejected", "completion", "completions", "response", "output"}

_PLAIN = _ASKED | _SAID | {"answer", "system", "problem", "label", *SOLUTIONS}
"""Names that are also read when capitalized."""

MEDIA = ("image", "images", "video", "videos", "audio", "audios")
"""Columns of images, video and audio."""


def rename_synonyms(row: dict[str, Any]) -> dict[str, Any]:
    """The row with its columns also under the names of the conventions.

    Raises InputError if it has images, audio or video, since only text is read and the prompt would lose a part.
    """
    lost = next((name for name in MEDIA if _holds(row.get(name))), None)
    if lost is not None:
        raise InputError(
            f"{lost!r} is part of the prompt, and only text is read: leave such rows out, or, if the text is complete "
            f"without it, leave the column out by --columns {lost}="
        )
    row = _chatted(row)
    functions = row.get("functions")
    if isinstance(functions, list) and "tools" not in row:  # OpenAI's before there were tools
        if not all(isinstance(function, Mapping) for function in functions):
            raise InputError(
                "'functions' must be a list of objects that describe functions: write it as JSON, or leave it out by "
                "--columns functions="
            )
        row |= {"tools": [{"type": "function", "function": function} for function in row.pop("functions")]}
    if not any(name in _ASKED | _SAID for name in row):
        row = {name.lower(): value for name, value in row.items() if name.lower() in _PLAIN} | row
    if not {"chosen", "rejected"} <= row.keys():
        row = _paired(row)
    if not (_ASKED - {"question"} | _SAID) & row.keys():
        row = _answered(row)
    if {"query", "tools"} <= row.keys() and not _SAID & row.keys() and (calls := _calls(row.get("answers"))):
        row |= {"completion": [{"role": "assistant", "content": "", "tool_calls": calls}]}
    return _in_ranks(row)


def _chatted(row: dict[str, Any]) -> dict[str, Any]:
    """The row with Gemini's `contents` (roles and parts) as messages."""
    contents = row.get("contents")
    if "messages" in row or not isinstance(contents, list) or not all(_has_parts(turn) for turn in contents):
        return row
    names = [name for name in ("systemInstruction", "system_instruction") if row.get(name)]
    told = [words(row[name]["parts"] if _has_parts(row[name]) else row[name], name) for name in names[:1]]
    system_turns = [{"role": "system", "content": text} for text in told]
    turns = [{"role": turn.get("role", "user"), "content": turn["parts"]} for turn in contents]
    taken = ("contents", "systemInstruction", "system_instruction")
    return {name: value for name, value in row.items() if name not in taken} | {"messages": [*system_turns, *turns]}


def _has_parts(turn: Any) -> bool:
    return isinstance(turn, Mapping) and isinstance(turn.get("parts"), list)


def _in_ranks(row: dict[str, Any]) -> dict[str, Any]:
    """The row with lists of chosen and of rejected texts as completions of two ranks; one of them may be a text."""
    several = next((name for name in SEVERAL if isinstance(row.get(name), list)), None)
    if several and "chosen" in row and "rejected" not in row:
        row = {"rejected" if name == several else name: value for name, value in row.items()}
    sides = [row.get("chosen"), row.get("rejected")]
    if not any(map(_are_several, sides)) or not all(isinstance(side, str | list | Mapping) and side for side in sides):
        return row
    better, worse = (side if _are_several(side) else [side] for side in sides)
    rest = {name: value for name, value in row.items() if name not in ("chosen", "rejected")}
    return rest | {"completions": [*better, *worse], "ranks": [0] * len(better) + [1] * len(worse)}  # type: ignore


def _are_several(side: Any) -> bool:
    """Whether a column holds several answers, texts or chats."""
    return isinstance(side, list) and bool(side) and all(isinstance(one, str | list) for one in side)


def _holds(value: Any) -> bool:
    return bool(any(map(_holds, value)) if isinstance(value, list | tuple) else value)


def _paired(row: dict[str, Any]) -> dict[str, Any]:
    """The row with its two answers as chosen and rejected, if their names say which is better."""
    if {"messages", "rejected_messages"} <= row.keys():
        rest = {name: value for name, value in row.items() if name != "messages"}
        return rest | {"chosen": row["messages"], "rejected": row["rejected_messages"]}
    pair = next(_pairs(row), None)
    if pair is None:
        return row
    input_text = row.get("input")
    if isinstance(input_text, Mapping) and "messages" in input_text:  # OpenAI's, with its tools
        row = {name: value for name, value in row.items() if name != "input"} | {"prompt": input_text["messages"]}
        row |= {"tools": input_text["tools"]} if input_text.get("tools") else {}
    return row | {"chosen": row[pair[0]], "rejected": row[pair[1]]}


def _pairs(row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (better, worse) pairs of columns, whole dialogues first."""
    named = [(match, name) for name in row if (match := _NAMED.fullmatch(name))]
    named.sort(key=lambda pair: _KINDS.index(pair[0]["of"] or pair[0]["of_"]))
    spelled = [(match["first"] or match["last"], name) for match, name in named]
    spelled += [(name, name) for name in _ALONE if name in row]
    for better, name in spelled:
        for worse in BETTER[better]:
            if (other := name.replace(better, worse)) in row:
                yield name, other


def _answered(row: dict[str, Any]) -> dict[str, Any]:
    """The row with a question, and a worked solution or the targets as its completion."""
    solution = next((row[name] for name in SOLUTIONS if isinstance(row.get(name), str) and row[name].strip()), None)
    if isinstance(row.get("question"), str):
        return row if solution is None or "text" in row else row | {"completion": solution}
    if isinstance(row.get("problem"), str):
        return row | {"question": row["problem"]} | ({} if solution is None else {"completion": solution})
    if isinstance(row.get("inputs"), str) and isinstance(row.get("targets"), str):
        return row | {"question": row["inputs"], "completion": row["targets"]}
    return row


def _calls(answers: Any) -> list[Any]:
    """Answers that are tool calls, in the form of `tool_calls`; empty for anything else."""
    calls = parsed(answers) if isinstance(answers, str) else answers
    if not isinstance(calls, list) or not all(isinstance(call, Mapping) and "arguments" in call for call in calls):
        return []
    return [{"type": "function", "function": call} for call in calls]
