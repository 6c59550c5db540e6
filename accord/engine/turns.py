"""The token and text that end a turn, learned once from what the chat template writes after an answer or before a
turn."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakKeyDictionary

from jinja2 import TemplateSyntaxError
from yaml import YAMLError

from accord.dates import STRFTIME_NOW, as_date, today, writes_date
from accord.errors import InputError, nearest
from accord.parsing import parse_json, parse_untyped, read_content

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_QUESTION, _ANSWER = "question", "answer"

ADD = "add_generation_prompt"
"""The variable with which chat templates are asked for the generation prompt."""


@dataclass(frozen=True, slots=True)
class TurnEnd:
    """What a template writes between an answer and the next turn.

    A model generates `text`, which ends with `token`, and never `rest`, such as the newline after it. Without a
    template, or with one that marks no end, `text` is empty and a turn ends with the tokenizer's eos_token.

    Some templates mark only the beginnings of turns, by tokens at which their models stop (GLM-4's `<|user|>` and
    `<|observation|>`). There the end `is_next`, the first token of the following turn: `text` is that of a user's turn
    and `call` that of a tool's.
    """

    token: int | None
    text: str = ""
    rest: str = ""
    call: str = ""

    @property
    def is_next(self) -> bool:
        return bool(self.call)

    def mark(self, following: str) -> str:
        """The mark that ends a turn, given the text after it; "" where the turn's own text includes its end."""
        return next((mark for mark in (self.text, self.call) if self.is_next and following.startswith(mark)), "")

    def closes(self, text: str) -> bool:
        """Whether a text ends with a turn's end."""
        return text.endswith(tuple(filter(None, (self.text, self.call))))


_learned: WeakKeyDictionary[PreTrainedTokenizerBase, tuple[object, TurnEnd]] = WeakKeyDictionary()


def turn_end(tokenizer: PreTrainedTokenizerBase) -> TurnEnd:
    """How turns end in a tokenizer's chat template: with its first added token after an answer.

    Where it writes nothing after an answer, with the first token of the next turn, if that is a stop token of the model
    (`stops_at`).
    """
    known = (str(tokenizer.chat_template), tokenizer.eos_token, stops_of(tokenizer))
    if tokenizer not in _learned or _learned[tokenizer][0] != known:
        _learned[tokenizer] = known, _learn(tokenizer)
    return _learned[tokenizer][1]


def stops_at(tokenizer: PreTrainedTokenizerBase, tokens: Iterable[int]) -> None:
    """Record on a tokenizer, and so on its copies, the tokens at which its model stops."""
    tokenizer._stops = tuple(tokens)  # type: ignore[attr-defined]


def stops_of(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """The tokens that `stops_at` recorded."""
    return getattr(tokenizer, "_stops", ())


def _learn(tokenizer: PreTrainedTokenizerBase) -> TurnEnd:
    tail = _after_an_answer(tokenizer)
    added = {token.content: index for index, token in tokenizer.added_tokens_decoder.items()}
    if tokenizer.eos_token is not None:
        added[str(tokenizer.eos_token)] = int(tokenizer.eos_token_id)
    # the first token in the text; of several at one position the longest
    first = min(((tail.find(text), -len(text), text) for text in added if text and text in tail), default=None)
    if first is not None:
        end = first[0] + len(first[2])
        return TurnEnd(added[first[2]], tail[:end], tail[end:])
    stops = [text for text, index in added.items() if text and index in stops_of(tokenizer)]
    user = "" if tail else _first_of_next(tokenizer, "user", stops)
    if not user:
        return TurnEnd(tokenizer.eos_token_id, rest=tail)
    calls = (_first_of_next(tokenizer, role, stops) for role in ("tool", "observation"))
    return TurnEnd(added[user], user, call=next(filter(None, calls), user))


def _first_of_next(tokenizer: PreTrainedTokenizerBase, role: str, stops: Iterable[str]) -> str:
    """Which of these tokens begins the template's text for a turn after an answer; "" if none."""
    tail = _after_an_answer(tokenizer, {"role": role, "content": "next"})
    return max((stop for stop in stops if tail.startswith(stop)), key=len, default="")


_read_parts: WeakKeyDictionary[PreTrainedTokenizerBase, tuple[str, bool]] = WeakKeyDictionary()


def as_read(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Messages as the chat template reads them: with their text in a list of one part, if it reads only such lists.

    Templates of models that also read images do (SmolVLM's, LLaVA's), and drop plain strings.
    """
    known = str(tokenizer.chat_template)
    if tokenizer not in _read_parts or _read_parts[tokenizer][0] != known:
        questions = [{"role": "user", "content": _QUESTION}], _in_parts([{"role": "user", "content": _QUESTION}])
        as_text, as_parts = (_QUESTION in _rendered(tokenizer, messages) for messages in questions)
        _read_parts[tokenizer] = known, as_parts and not as_text
    return _in_parts(messages) if _read_parts[tokenizer][1] else list(messages)


def _in_parts(messages: Sequence[Mapping[str, Any]]) -> list[Any]:
    return [{**m, "content": [{"type": "text", "text": m["content"]}] if m["content"] else []} for m in messages]


def _rendered(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, Any]], *, generation: bool = False
) -> str:
    """The template's text of a chat; "" if the template refuses it.

    A template may fail without tools or documents, which a row may have; it is tried with empty lists of these too.
    """
    with_lists: dict[str, Any] = {"tools": [], "documents": []}
    for more in ({}, with_lists):
        try:
            return str(
                tokenizer.apply_chat_template(
                    list(messages),  # type: ignore[arg-type]
                    tokenize=False,
                    add_generation_prompt=generation,
                    **more,
                )
            )
        except Exception:  # templates raise anything; an error in the data is reported later with its row
            continue
    return ""


CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + END + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""ChatML, whose turns end with `<|im_end|>`, or with the eos_token where the tokenizer has no such token."""

FOLD = (
    "{% if messages | length > 1 and messages[0]['role'] == 'system' %}"
    "{% set before = messages[0]['content'] + '\\n\\n' if messages[0]['content'] | trim else '' %}"
    "{% set said = before + messages[1]['content'] %}"
    "{% set messages = [{'role': messages[1]['role'], 'content': said}] + messages[2:] %}{% endif %}"
)
"""A prefix for templates that moves a system message to the beginning of the first question."""


def add_generation_prompt(tokenizer: PreTrainedTokenizerBase) -> str:
    """Let a chat template that has no generation prompt write one: what it writes between a question and its answer.

    The model would otherwise have to begin every answer with that itself. Returns what was added; "" where the template
    has a generation prompt, or writes no words there.
    """
    template = tokenizer.chat_template
    if not isinstance(template, str) or ADD in template:
        return ""
    question = as_read(tokenizer, [{"role": "user", "content": _QUESTION}])
    plain = _rendered(tokenizer, question)
    both = _rendered(tokenizer, [*question, *as_read(tokenizer, [{"role": "assistant", "content": _ANSWER}])])
    begun = both.removeprefix(plain).partition(_ANSWER)[0].rstrip(" ") if plain and both.startswith(plain) else ""
    if not re.search(r"\w", begun) or _ANSWER not in both:
        return ""
    tokenizer.chat_template = f"{template}{{% if {ADD} %}}{{{{ {begun!r} }}}}{{% endif %}}"
    if _rendered(tokenizer, question) == plain and _rendered(tokenizer, question, generation=True) == plain + begun:
        return begun
    tokenizer.chat_template = template
    return ""


def with_template(
    tokenizer: PreTrainedTokenizerBase,
    template: str | None,
    system: Literal["refuse", "fold"],
    variables: Mapping[str, Any] | None = None,
) -> PreTrainedTokenizerBase:
    """A copy of the tokenizer with another chat template.

    Args:
        template: a Jinja file, a JSON file with a `chat_template`, or chatml; None keeps the tokenizer's own.
        system: "fold" makes the template put system messages before the first question where it has no place for them.
        variables: default values of variables that the template reads; a chat's own take precedence. For strftime_now,
            the date that the template writes (`written_date`), which no saved template keeps.

    Raises InputError where the file cannot be read or is not a chat template, where there is no template to fold for,
    where the template does not read one of the variables, and where the date is none.
    """
    if template is None and system == "refuse" and not variables:
        return tokenizer
    made = copy.deepcopy(tokenizer)
    if template == "chatml":
        end = "'<|im_end|>'" if "<|im_end|>" in tokenizer.get_vocab() else "eos_token"
        made.chat_template = CHATML.replace("END", end)
    elif template is not None:
        made.chat_template = _read_template(template)
        _check_template(made, template)
        add_generation_prompt(made)
    if system == "fold" and not _takes_system(made):
        if not made.chat_template:
            raise InputError("there is no chat template to fold system messages for; give one by --chat-template")
        _prefix(made, FOLD)
    if variables:
        _prefix(made, _defaults(made, variables))
        if STRFTIME_NOW in variables:
            made._date = as_date(variables[STRFTIME_NOW], f"chat_template_kwargs: {STRFTIME_NOW}")  # type: ignore[attr-defined]
    return made


def _read_template(file: str) -> str:
    """The chat template in a Jinja file, or in the `chat_template` of a JSON file."""
    path = Path(file).expanduser()
    try:
        text = read_content(path).decode("utf-8-sig")
        return str(parse_json(text)["chat_template"]) if path.suffix == ".json" else text
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        why = "no JSON object with a chat_template" if path.suffix == ".json" else f"not UTF-8 text: {error}"
        why = str(error.strerror) if isinstance(error, OSError) else why
        raise InputError(f"the chat template {file} cannot be read ({why}); give a file, or chatml") from None


def written_date(tokenizer: PreTrainedTokenizerBase) -> date | None:
    """The date that the chat template writes: the one given for the tokenizer, or today; None where it writes none."""
    return (given_date(tokenizer) or today()) if writes_date(tokenizer.chat_template) else None


def given_date(tokenizer: PreTrainedTokenizerBase) -> date | None:
    """The date that chat_template_kwargs gave for the tokenizer."""
    return getattr(tokenizer, "_date", None)


def _prefix(tokenizer: PreTrainedTokenizerBase, before: str) -> None:
    """Put text before the chat template, or before each of a set of named templates."""
    template = tokenizer.chat_template
    named = template if isinstance(template, dict) else {"": template}
    begun = {name: before + text for name, text in named.items()}
    tokenizer.chat_template = begun if isinstance(template, dict) else begun[""]


def _defaults(tokenizer: PreTrainedTokenizerBase, variables: Mapping[str, Any]) -> str:
    """Jinja statements that set each variable where the caller leaves it undefined."""
    text, statements = str(tokenizer.chat_template or ""), ""
    for name, given in variables.items():
        if not re.search(rf"\b{re.escape(name)}\b", text):
            hint = nearest(name, sorted(set(re.findall(r"[a-z_]+", text))))
            raise InputError(f"chat_template_kwargs has {name!r}, which the chat template does not read{hint}")
        if name == STRFTIME_NOW:
            continue
        value = _parsed(given)
        statements += f"{{% if {name} is not defined %}}{{% set {name} = {value!r} %}}{{% endif %}}"
    return statements


def _parsed(value: Any) -> Any:
    """A text that is a boolean or a number becomes that, and so do yes, no, on and off; other values stay as they
    are."""
    if not isinstance(value, str):
        return value
    try:
        parsed = parse_untyped(value)
    except YAMLError:
        return value
    return parsed if isinstance(parsed, bool | int | float) else value


def _check_template(tokenizer: PreTrainedTokenizerBase, file: str) -> None:
    """Raise InputError where a file's template does not compile, fails on a question, or does not write it."""
    try:
        question = as_read(tokenizer, [{"role": "user", "content": _QUESTION}])
        text = str(tokenizer.apply_chat_template(question, tokenize=False, add_generation_prompt=True))
    except Exception as error:  # a template is a program and may raise anything
        where = f", line {error.lineno}" if isinstance(error, TemplateSyntaxError) else ""
        raise InputError(f"the chat template {file} fails on a chat of one question ({error}{where}): fix it") from None
    if _QUESTION not in text:
        raise InputError(f"{file} is not a chat template: its text of a chat lacks the user's question")


def _takes_system(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the template writes a system message, with and without an answer after it.

    Mistral's of version 0.3 writes it before the last question, and only while that is the last message.
    """
    question = [{"role": "system", "content": "instruction"}, {"role": "user", "content": _QUESTION}]
    dialogues = question, [*question, {"role": "assistant", "content": _ANSWER}]
    return all("instruction" in _rendered(tokenizer, as_read(tokenizer, dialogue)) for dialogue in dialogues)


def _after_an_answer(tokenizer: PreTrainedTokenizerBase, *turns: dict[str, str]) -> str:
    """The template's text after the answer of a short dialogue, with `turns` following it; "" if the template refuses
    it."""
    if tokenizer.chat_template is None:
        return ""
    dialogue = [{"role": "user", "content": _QUESTION}, {"role": "assistant", "content": _ANSWER}, *turns]
    text = _rendered(tokenizer, as_read(tokenizer, dialogue))
    return text.rpartition(_ANSWER)[2] if _ANSWER in text else ""
