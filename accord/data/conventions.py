"""Column conventions: the sets of columns that a row may have, and the record that each becomes.

The first convention in `CONVENTIONS` whose columns are all present and not null applies. Every text may be a string or
a list of messages. If a row has two whole dialogues or texts and no prompt, the prompt is their common prefix.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from accord.arrays import Bools, Ints
from accord.data.column_names import QUESTIONS, RESPONSES
from accord.data.messages import (
    TRANSCRIPT,
    align,
    parse_transcript,
    read_prompt,
    read_text,
    split_dialogues,
    split_strings,
)
from accord.data.notes import near, unfit
from accord.data.parts import THOUGHTS
from accord.data.synonyms import ONE_OF_TWO
from accord.data.verdicts import CONTRADICTORY, desirable, is_tied
from accord.errors import InputError
from accord.records import Demonstration, Labeled, Message, Preference, Prompt, Ranking, Row, Text, Tokenization

Columns = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Convention:
    """The columns that a row needs, and the function that converts them to a record."""

    needs: tuple[str, ...]
    convert: Callable[[Columns], Row]


def convention_of(columns: Columns) -> Convention:
    """The convention that a row follows. Raises InputError, with accepted and similar columns, if none fits."""
    present = [str(name) for name, value in columns.items() if value is not None]
    first = next((convention for convention in CONVENTIONS if set(convention.needs).issubset(present)), None)
    if first is not None and not _misread(first, columns, present):
        return first
    known = sorted({name for convention in CONVENTIONS for name in convention.needs} | _ELSEWHERE)
    raise unfit(columns, present, known, " | ".join(", ".join(convention.needs) for convention in CONVENTIONS))


def _misread(convention: Convention, columns: Columns, present: Sequence[str]) -> bool:
    """Whether a column may be a misspelled completion beside a prompt, or a misspelled prompt beside answers."""
    if convention.convert is _prompt:
        return any(near(name, ("completion", "completions", "chosen", "rejected")) for name in present)
    is_there = "prompt" in (*convention.needs, *present)
    return not is_there and any(name != "prompt" and near(name, ("prompt",)) for name in columns)


def _prompt(columns: Columns) -> Prompt:
    return Prompt(read_prompt(columns["prompt"]), {name: value for name, value in columns.items() if name != "prompt"})


def _demonstration(columns: Columns) -> Demonstration | Prompt:
    """A demonstration, or a prompt if the completion is blank."""
    if isinstance(text := read_text(columns["completion"], "completion"), str) and not text.strip():
        return _prompt(columns)
    prompt, (completion,) = _branches(columns, "completion")
    tokens = columns.get("completion_ids")
    return Demonstration(prompt, _demonstrated(completion), () if tokens is None else _ids(tokens, "completion_ids"))


def _text(columns: Columns) -> Demonstration:
    text = read_completion(columns["text"], "text")
    if not isinstance(text, str):
        raise InputError("'text' must be a string, not a list of messages: name it by --columns messages=text")
    return Demonstration("", text)


def _tokenized(columns: Columns) -> Tokenization:
    """A pre-tokenized row: `labels` are the trained tokens and -100 elsewhere; without labels all tokens are trained.

    Positions with `attention_mask` 0 at either end are padding and are dropped.
    """
    tokens = _ids(columns["input_ids"], "input_ids")
    labels, mask = (_column(columns, name, len(tokens)) for name in ("labels", "attention_mask"))
    kept = [i for i, seen in enumerate(mask or [1] * len(tokens)) if seen]
    if not kept or len(kept) != kept[-1] + 1 - kept[0]:
        raise InputError("'attention_mask' must be 1 everywhere except for padding before and after the tokens")
    for i, (label, token) in enumerate(zip(labels or (), tokens, strict=False)):
        if label not in (-100, token):
            raise InputError(f"'labels' must be -100 or the token itself; labels[{i}] is {label!r}, the token {token}")
    trained = tuple(labels is None or labels[i] != -100 for i in kept)
    if not any(trained[1:]):
        raise InputError("'labels' has no trained token after the first one, which has no context to predict it from")
    return Tokenization(tokens[kept[0] : kept[-1] + 1], Bools((False, *trained[1:])))


def _ids(value: Any, name: str) -> Ints:
    if isinstance(value, Sequence) and len(value) and all(type(token) is int and 0 <= token < 2**31 for token in value):
        return Ints(value)
    raise InputError(f"{name!r} must be a list of token ids, whole numbers from 0 to below 2 ** 31")


def _column(columns: Columns, name: str, length: int) -> Sequence[Any] | None:
    values = columns.get(name)
    if values is not None and (not isinstance(values, Sequence) or len(values) != length):
        raise InputError(f"{name!r} must be a list of {length} numbers, as many as 'input_ids'")
    return values


def _labeled(columns: Columns) -> Labeled:
    label = desirable(columns["label"])
    if label is None:
        raise InputError(
            "'label' must be true or false (1 or 0, yes or no, desirable or undesirable, up or down), not "
            f"{columns['label']!r}"
        )
    prompt, (completion,) = _branches(columns, "completion")
    return Labeled(prompt, completion, label)


def _preference(columns: Columns) -> Preference | Ranking:
    texts = [read_text(columns[name], name) for name in ("chosen", "rejected")]
    whole = all(t.startswith(TRANSCRIPT) if isinstance(t, str) else t[0].role != "assistant" for t in texts)
    if columns.get("prompt") is None or whole:  # dialogues that do not start with the assistant include their prompt
        prompt, chosen, rejected = _implicit(columns)
    else:
        prompt, (chosen, rejected) = _branches(columns, "chosen", "rejected")
        _require_no_repeat(prompt, chosen, rejected)
    user = user_of(columns)
    if is_tied(columns):
        return Ranking(prompt, (chosen, rejected), (0, 0), user)
    if chosen == rejected:
        raise InputError("'chosen' and 'rejected' are equal, so the row states no preference")
    margin, probability = _number(columns, "margin", 0.0), _number(columns, "chosen_probability", 1.0)
    if not 0 <= probability <= 1:
        raise InputError(f"'chosen_probability' must lie between 0 and 1, not {probability!r}")
    if probability < 0.5:  # swap, so that `chosen` is always the more probable one
        chosen, rejected, probability = rejected, chosen, 1 - probability
    return Preference(prompt, chosen, rejected, margin, probability, user)


def _require_no_repeat(prompt: Text, *completions: Text) -> None:
    """Raise InputError if plain completions all begin with the whole prompt, unless it is only a word or two."""
    if isinstance(prompt, str) and len(prompt.split()) > 2:
        asked = prompt.strip()
        if all(isinstance(text, str) and text.strip().startswith(asked) for text in completions):
            raise InputError(
                "'chosen' and 'rejected' begin with the whole prompt, which would be repeated: leave the column out by "
                "--columns prompt="
            )


def user_of(columns: Columns) -> str:
    """The row's `user`, or else its `annotator`; "" if it has neither."""
    return next((named(columns[name], name) for name in ("user", "annotator") if columns.get(name) is not None), "")


def named(value: Any, column: str) -> str:
    """A name in a column as text; "" if it is blank. Raises InputError unless it is a text or a number."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise InputError(f"'{column}' must be a text or a number, not {value!r}")
    return str(value) if str(value).strip() else ""


def _number(columns: Columns, name: str, default: float) -> float:
    value = columns.get(name)
    try:
        number = default if value is None else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"{name!r} must be a number, not {value!r}")
    return number


def _implicit(columns: Columns) -> tuple[Text, Text, Text]:
    """(prompt, chosen, rejected) of two whole dialogues or texts, split after their common prefix."""
    chosen, rejected = (read_completion(columns[name], name) for name in ("chosen", "rejected"))
    if isinstance(chosen, str) and isinstance(rejected, str):
        if not (chosen.startswith(TRANSCRIPT) and rejected.startswith(TRANSCRIPT)):
            return split_strings(chosen, rejected)
        chosen, rejected = parse_transcript(chosen), parse_transcript(rejected)
    if isinstance(chosen, str) or isinstance(rejected, str):
        raise InputError("'chosen' and 'rejected' must both be strings or both be lists of messages")
    prompt, first, second = split_dialogues(chosen, rejected)
    return prompt, _answer(first, "chosen"), _answer(second, "rejected")


def _ranking(columns: Columns) -> Ranking:
    values, ranks = columns["completions"], columns["ranks"]
    if isinstance(ranks, Sequence) and not isinstance(ranks, str):
        ranks = [int(rank) if isinstance(rank, float) and rank.is_integer() else rank for rank in ranks]
    for name, value in (("completions", values), ("ranks", ranks)):
        if not isinstance(value, Sequence) or isinstance(value, str):
            raise InputError(f"'{name}' must be a list, not {value!r}")
    if len(values) != len(ranks):
        raise InputError(f"there are {len(values)} 'completions' but {len(ranks)} 'ranks'")
    if len(values) < 2:
        raise InputError("a ranking needs at least two 'completions'")
    if any(not isinstance(rank, int) or isinstance(rank, bool) or rank < 0 for rank in ranks):
        raise InputError(f"'ranks' must be whole numbers from 0 (the best) up, not {list(ranks)!r}")
    named = {f"completions[{i}]": value for i, value in enumerate(values)}
    prompt, completions = _branches({"prompt": columns["prompt"], **named}, *named)
    ranked: dict[Text, int] = {}
    for name, completion, rank in zip(named, completions, ranks, strict=True):
        if ranked.setdefault(completion, rank) != rank:
            raise InputError(f"'{name}' equals another completion that has a different rank")
    return Ranking(prompt, completions, tuple(ranks), user_of(columns))


def _messages(columns: Columns) -> Demonstration | Prompt:
    """A demonstration with everything before the first assistant turn as prompt; turns after the last are dropped.

    A greeting by the assistant, before anyone else speaks, has nothing to answer and belongs to the prompt.
    """
    turns = read_text(columns["messages"], "messages")
    if isinstance(turns, str):
        raise InputError("'messages' must be a list of messages, not a string")
    answers = [i for i, turn in enumerate(turns) if turn.role == "assistant"]
    if not answers:
        return Prompt(turns, {name: value for name, value in columns.items() if name != "messages"})
    first = next((i for i in answers if any(turn.role != "assistant" for turn in turns[:i])), None)
    if first is None:
        raise InputError("'messages' begins with an assistant turn, so there is no prompt before it")
    return Demonstration(turns[:first], _demonstrated(turns[first : answers[-1] + 1]))


def _branches(columns: Columns, *names: str) -> tuple[Text, tuple[Text, ...]]:
    """The aligned prompt and completions of the columns `names`; completions of a transcript are stripped."""
    prompt = read_prompt(columns["prompt"])
    completions = [read_completion(columns[name], name) for name in names]
    if isinstance(columns["prompt"], str) and not isinstance(prompt, str):
        completions = [text.strip() if isinstance(text, str) else text for text in completions]
    prompt, aligned = align(prompt, *completions)
    return prompt, tuple(map(_answer, aligned, names))


def read_completion(value: Any, name: str) -> Text:
    """Read a column by `read_text`. Raises InputError if it is blank."""
    text = read_text(value, name)
    if isinstance(text, str) and not text.strip():
        raise InputError(f"'{name}' is empty")
    return text


def _answer(completion: Text, name: str) -> Text:
    """The completion. Raises InputError for a chat that does not begin and end with an assistant turn.

    An assistant turn may be empty: people can judge silence, and prefer it to a harmful answer.
    """
    if not isinstance(completion, str) and not completion[0].role == completion[-1].role == "assistant":
        raise InputError(f"'{name}' must begin and end with an assistant turn")
    return completion


def _is_silent(turn: Message) -> bool:
    return turn.role == "assistant" and not turn.content.strip() and not turn.more.get("tool_calls")


def _demonstrated(completion: Text) -> Text:
    """The completion. Raises InputError if an assistant turn is empty, which is nothing to imitate."""
    if not isinstance(completion, str) and any(_is_silent(t) for t in completion):
        raise InputError("an assistant turn of the completion is empty")
    return completion


CONVENTIONS = (
    Convention(("prompt", "completions", "ranks"), _ranking),
    Convention(("prompt", "completion", "label"), _labeled),
    Convention(("prompt", "chosen", "rejected"), _preference),
    Convention(("chosen", "rejected"), _preference),
    Convention(("prompt", "completion"), _demonstration),
    Convention(("messages",), _messages),
    Convention(("prompt",), _prompt),
    Convention(("input_ids",), _tokenized),
    Convention(("text",), _text),
)
"""In the order they are tried: a prompt alone comes after all conventions with completions."""

_ELSEWHERE = {*QUESTIONS, *RESPONSES, "answer"}
"""Other names of prompts and completions, which `accord.data.layouts` converts."""

_OF_A_ROW = {name for convention in CONVENTIONS for name in convention.needs} | _ELSEWHERE - {"answer"}
_OF_A_ROW |= {"completion_ids", "input_ids", "labels", "attention_mask", CONTRADICTORY, *THOUGHTS}


def kept_columns(columns: Columns) -> dict[str, Any]:
    """The columns that sampled rows keep from their prompt's row: all but those that decide a row's convention.

    A row with a new `completion` is then read as a demonstration. `answer` is kept, as verifiers need it.
    """
    return {
        name: value for name, value in columns.items() if name not in _OF_A_ROW and not ONE_OF_TWO.fullmatch(str(name))
    }
