"""The column conventions of the field: which columns a row may have, and the record each set of columns makes.

A convention is a name, the columns it needs, and a function from a row's columns to a record. The first convention in
`CONVENTIONS` whose columns are all there (and not null) is the row's. Every text may be a string or a list of messages;
where a row has two whole dialogues or texts and no prompt, its prompt is what they have in common.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from accord.arrays import Bools, Ints
from accord.data.layouts import ASKING, QUESTIONS, RESPONSES
from accord.data.messages import TRANSCRIPT, align, parse_transcript, read_prompt, read_text, shared
from accord.data.verdicts import desirable, unjudged
from accord.errors import InputError
from accord.records import Demonstration, Labeled, Message, Preference, Prompt, Ranking, Row, Text, Tokenization

Columns = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Convention:
    """The columns a row needs, and how they become a record."""

    needs: tuple[str, ...]
    convert: Callable[[Columns], Row]


def convention_of(columns: Columns) -> Convention:
    """The convention a row follows; InputError says which columns were found, which are accepted, and what is near."""
    present = [str(name) for name, value in columns.items() if value is not None]
    first = next((convention for convention in CONVENTIONS if set(convention.needs).issubset(present)), None)
    if first is not None and not _misread(first, columns, present):
        return first
    known = sorted({name for convention in CONVENTIONS for name in convention.needs} | _ELSEWHERE)
    near = {name: _near(name, known) for name in present if name not in known}
    hints = "; ".join(f"'{name}' is perhaps meant to be '{meant}'" for name, meant in near.items() if meant)
    accepted = " | ".join(", ".join(convention.needs) for convention in CONVENTIONS)
    found = (", ".join(present) or "none that is not null") + (f" ({hints})" if hints else "")
    why = f", and {answers}" if (answers := unjudged(present)) else ""
    asks = next((name for name in present if name in ASKING), present[0] if present else "COLUMN")
    raise InputError(
        f"the columns found are {found}{why}, but a row needs one of these sets of columns: {accepted}; --columns "
        f"prompt={asks},... names them so"
    )


def _misread(convention: Convention, columns: Columns, present: Sequence[str]) -> bool:
    """Whether a prompt alone has a completion beside it, or what needs no prompt has one, both perhaps misspelled."""
    if convention.convert is _prompt:
        return any(_near(name, ("completion", "completions", "chosen", "rejected")) for name in present)
    is_there = "prompt" in (*convention.needs, *present)
    return not is_there and any(name != "prompt" and _near(name, ("prompt",)) for name in columns)


def _near(name: str, known: Sequence[str]) -> str | None:
    """The known column a name was probably meant to be."""
    return next(iter(get_close_matches(str(name).strip().lower(), known, n=1, cutoff=0.8)), None)


def _prompt(columns: Columns) -> Prompt:
    return Prompt(read_prompt(columns["prompt"]), {name: value for name, value in columns.items() if name != "prompt"})


def _demonstration(columns: Columns) -> Demonstration | Prompt:
    """A demonstration; where its completion is blank, the prompt, which may be answered anew."""
    if isinstance(said := read_text(columns["completion"], "completion"), str) and not said.strip():
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
    """Tokens as other trainers take them: `labels` are those trained on, -100 elsewhere; all are where there are none.

    What `attention_mask` has as 0 at either end is padding, and no part of the row.
    """
    tokens = _ids(columns["input_ids"], "input_ids")
    labels, mask = (_column(columns, name, len(tokens)) for name in ("labels", "attention_mask"))
    kept = [i for i, seen in enumerate(mask or [1] * len(tokens)) if seen]
    if not kept or len(kept) != kept[-1] + 1 - kept[0]:
        raise InputError("'attention_mask' must be 1, but for padding before and after the tokens")
    for i, (label, token) in enumerate(zip(labels or (), tokens, strict=False)):
        if label not in (-100, token):
            raise InputError(f"'labels' must be -100 or the token itself, and labels[{i}] is {label!r} at {token}")
    trained = tuple(labels is None or labels[i] != -100 for i in kept)
    if not any(trained[1:]):
        raise InputError("'labels' has no token to learn after the first, which nothing predicts")
    return Tokenization(tokens[kept[0] : kept[-1] + 1], Bools((False, *trained[1:])))


def _ids(value: Any, name: str) -> Ints:
    if isinstance(value, Sequence) and len(value) and all(type(token) is int and 0 <= token < 2**31 for token in value):
        return Ints(value)
    raise InputError(f"{name!r} must be a list of tokens, whole numbers from 0 up, less than 2 ** 31")


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
    if columns.get("prompt") is None or whole:  # dialogues that begin before the assistant's turn hold their prompt
        prompt, chosen, rejected = _implicit(columns)
    else:
        prompt, (chosen, rejected) = _branches(columns, "chosen", "rejected")
        _require_said_once(prompt, chosen, rejected)
    user = user_of(columns)
    if columns.get("tied"):
        return Ranking(prompt, (chosen, rejected), (0, 0), user)
    if chosen == rejected:
        raise InputError("'chosen' and 'rejected' are equal, so the row prefers nothing")
    margin, probability = _number(columns, "margin", 0.0), _number(columns, "chosen_probability", 1.0)
    if not 0 <= probability <= 1:
        raise InputError(f"'chosen_probability' must lie between 0 and 1, not {probability!r}")
    if probability < 0.5:  # the same said of the other, so that what is called chosen is never the less likely one
        chosen, rejected, probability = rejected, chosen, 1 - probability
    return Preference(prompt, chosen, rejected, margin, probability, user)


def _require_said_once(prompt: Text, *completions: Text) -> None:
    """Raise InputError where plain completions all begin with the whole prompt, which would stand there twice.

    A prompt of a word or two may be what an answer begins with.
    """
    if isinstance(prompt, str) and len(prompt.split()) > 2:
        asked = prompt.strip()
        if all(isinstance(text, str) and text.strip().startswith(asked) for text in completions):
            raise InputError(
                "'chosen' and 'rejected' begin with the whole prompt, which would be there twice: leave the column out "
                "by --columns prompt="
            )


def user_of(columns: Columns) -> str:
    """Whose preference a row is: its `user`, or who judged, its `annotator`; "" where it says neither."""
    return next((named(columns[name], name) for name in ("user", "annotator") if columns.get(name) is not None), "")


def named(value: Any, column: str) -> str:
    """A name in a column, a text or a number; "" where it is empty. Raises InputError where it is neither."""
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
    """Of two whole dialogues or texts, the prompt, which is what they have in common, and what follows it in each."""
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
    """Everything before the first assistant turn is the prompt; what follows the last one is not part of the row."""
    turns = read_text(columns["messages"], "messages")
    if isinstance(turns, str):
        raise InputError("'messages' must be a list of messages, not a string")
    answers = [i for i, turn in enumerate(turns) if turn.role == "assistant"]
    if not answers:
        return Prompt(turns, {name: value for name, value in columns.items() if name != "messages"})
    if answers[0] == 0:
        raise InputError("'messages' begins with an assistant turn, so there is no prompt before it")
    return Demonstration(turns[: answers[0]], _demonstrated(turns[answers[0] : answers[-1] + 1]))


def _branches(columns: Columns, *names: str) -> tuple[Text, tuple[Text, ...]]:
    """The prompt and the completions in the columns `names`, in one form; a transcript's completions are stripped."""
    prompt = read_prompt(columns["prompt"])
    completions = [read_completion(columns[name], name) for name in names]
    if isinstance(columns["prompt"], str) and not isinstance(prompt, str):
        completions = [text.strip() if isinstance(text, str) else text for text in completions]
    prompt, aligned = align(prompt, *completions)
    return prompt, tuple(map(_answer, aligned, names))


def read_completion(value: Any, name: str) -> Text:
    """The value of a row's column as `read_text` has it; InputError where it is blank."""
    text = read_text(value, name)
    if isinstance(text, str) and not text.strip():
        raise InputError(f"'{name}' is empty")
    return text


def _answer(completion: Text, name: str) -> Text:
    """The completion, refused where it is a chat that does not begin and end with the assistant.

    An assistant turn may be empty: silence can be judged, and people do prefer it to a harmful answer.
    """
    if not isinstance(completion, str) and not completion[0].role == completion[-1].role == "assistant":
        raise InputError(f"'{name}' must begin and end with an assistant turn")
    return completion


def _is_silent(turn: Message) -> bool:
    return turn.role == "assistant" and not turn.content.strip() and not turn.more.get("tool_calls")


def _demonstrated(completion: Text) -> Text:
    """The completion, refused where an assistant turn is empty: silence is nothing to learn from."""
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
"""In the order they are tried: a prompt alone comes after every convention that gives its completion too."""

IDS = {"completion_ids", "input_ids", "labels", "attention_mask"}
_ELSEWHERE = {*QUESTIONS, *RESPONSES, "answer"}
"""What questions and answers are called in other people's files (`accord.data.layouts`)."""

_OF_A_ROW = {name for convention in CONVENTIONS for name in convention.needs} | _ELSEWHERE - {"answer"} | IDS


def carried(columns: Columns) -> dict[str, Any]:
    """The columns that a prompt hands on to what is sampled for it: all but those that conventions make rows of.

    So a row with a new `completion` is read as that, and as nothing else. An `answer` is handed on: verifiers need it.
    """
    return {name: value for name, value in columns.items() if name not in _OF_A_ROW}


def split_dialogues(
    first: tuple[Message, ...], second: tuple[Message, ...]
) -> tuple[tuple[Message, ...], tuple[Message, ...], tuple[Message, ...]]:
    """The longest prompt that two dialogues have in common, and then both an assistant's turn; and what follows it."""
    end = min(shared(first, second), len(first) - 1, len(second) - 1)
    while end >= 0 and not first[end].role == second[end].role == "assistant":
        end -= 1
    while end > 0 and first[end - 1].role == "assistant":  # a prompt that ends so would be an answer begun
        end -= 1
    if end < 0:
        raise InputError("'chosen' and 'rejected' have no common prompt after which both have an assistant turn")
    if end == 0:
        raise InputError("'chosen' and 'rejected' begin with an assistant turn, so there is no prompt before it")
    return first[:end], first[end:], second[end:]


def split_strings(first: str, second: str) -> tuple[str, str, str]:
    """The prompt and the two completions of two plain texts that begin alike.

    The prompt is the longest common prefix of whole words that leaves a word to each; the white space after it stays
    with the completions, as sub-word tokenizers want it. Texts that do not begin alike have the empty prompt.
    """
    end = min(shared(first, second), len(first.rstrip()) - 1, len(second.rstrip()) - 1)
    while end > 0 and not first[end - 1].isspace():
        end -= 1
    prompt = first[: max(end, 0)].rstrip()
    return prompt, first[len(prompt) :], second[len(prompt) :]
