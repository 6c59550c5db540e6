"""What ends a turn: learned once from the chat template, which writes it after an answer or begins the next with it."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakKeyDictionary

from jinja2 import TemplateSyntaxError
from yaml import YAMLError

from accord.errors import InputError, nearest
from accord.parsing import parse_yaml, read_content

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_QUESTION, _ANSWER = "question", "answer"


@dataclass(frozen=True, slots=True)
class TurnEnd:
    """What a template writes after an answer, up to the next turn.

    A model says `text`, which ends with `token`; it never says `rest`, the line end after it, say. Without a template,
    or with one that marks no end, there is no text, and a turn ends with the tokenizer's eos_token.

    Some templates mark the beginnings of turns alone, with tokens at which their models stop (GLM-4's `<|user|>` and
    `<|observation|>`). There the turn `is_next`: its end is the first token of the turn that follows, `text` that of a
    user's and `call` that of a tool's.
    """

    token: int | None
    text: str = ""
    rest: str = ""
    call: str = ""

    @property
    def is_next(self) -> bool:
        return bool(self.call)

    def mark(self, following: str) -> str:
        """What ends a turn of the text that follows it; nothing where the text before it has its end."""
        return next((mark for mark in (self.text, self.call) if self.is_next and following.startswith(mark)), "")

    def closes(self, text: str) -> bool:
        """Whether a text ends as a turn does."""
        return text.endswith(tuple(filter(None, (self.text, self.call))))


_learned: WeakKeyDictionary[PreTrainedTokenizerBase, tuple[object, TurnEnd]] = WeakKeyDictionary()


def turn_end(tokenizer: PreTrainedTokenizerBase) -> TurnEnd:
    """How the turns of a tokenizer's chat template end: with the first of its added tokens after an answer.

    Where it writes nothing there, with the first token of the next turn, if its model stops at that (`stops_at`).
    """
    known = (str(tokenizer.chat_template), tokenizer.eos_token, getattr(tokenizer, "_stops", ()))
    if tokenizer not in _learned or _learned[tokenizer][0] != known:
        _learned[tokenizer] = known, _learn(tokenizer)
    return _learned[tokenizer][1]


def stops_at(tokenizer: PreTrainedTokenizerBase, tokens: Iterable[int]) -> None:
    """Tell a tokenizer, and copies that are made of it, at which tokens its model stops."""
    tokenizer._stops = tuple(tokens)  # type: ignore[attr-defined]


def _learn(tokenizer: PreTrainedTokenizerBase) -> TurnEnd:
    tail = _after_an_answer(tokenizer)
    added = {token.content: index for index, token in tokenizer.added_tokens_decoder.items()}
    if tokenizer.eos_token is not None:
        added[str(tokenizer.eos_token)] = int(tokenizer.eos_token_id)
    # The first to begin; of those that begin at one place the longest.
    found = min(((tail.find(text), -len(text), text) for text in added if text and text in tail), default=None)
    if found is not None:
        end = found[0] + len(found[2])
        return TurnEnd(added[found[2]], tail[:end], tail[end:])
    stops = [text for text, index in added.items() if text and index in getattr(tokenizer, "_stops", ())]
    user = "" if tail else _first_of_next(tokenizer, "user", stops)
    if not user:
        return TurnEnd(tokenizer.eos_token_id, rest=tail)
    calls = (_first_of_next(tokenizer, role, stops) for role in ("tool", "observation"))
    return TurnEnd(added[user], user, call=next(filter(None, calls), user))


def _first_of_next(tokenizer: PreTrainedTokenizerBase, role: str, stops: Iterable[str]) -> str:
    """Which of these tokens begins what the template writes of a turn after an answer; nothing where none does."""
    tail = _after_an_answer(tokenizer, {"role": role, "content": "next"})
    return max((stop for stop in stops if tail.startswith(stop)), key=len, default="")


_read_parts: WeakKeyDictionary[PreTrainedTokenizerBase, tuple[str, bool]] = WeakKeyDictionary()


def as_read(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Messages as the chat template reads them: what each says as a list of one part, where it reads nothing else.

    Templates of models that read images too are such (SmolVLM's, LLaVA's), and drop what is a text.
    """
    known = str(tokenizer.chat_template)
    if tokenizer not in _read_parts or _read_parts[tokenizer][0] != known:
        asked = [{"role": "user", "content": _QUESTION}], _in_parts([{"role": "user", "content": _QUESTION}])
        as_text, as_parts = (_QUESTION in _written(tokenizer, messages) for messages in asked)
        _read_parts[tokenizer] = known, as_parts and not as_text
    return _in_parts(messages) if _read_parts[tokenizer][1] else list(messages)


def _in_parts(messages: Sequence[Mapping[str, Any]]) -> list[Any]:
    return [{**m, "content": [{"type": "text", "text": m["content"]}] if m["content"] else []} for m in messages]


def _written(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, Any]]) -> str:
    """What the template makes of a chat; nothing where it refuses that."""
    try:
        return str(tokenizer.apply_chat_template(list(messages), tokenize=False))  # type: ignore[arg-type]
    except Exception:  # whatever a template raises: a dialogue of the data will say so with its row
        return ""


CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + END + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""ChatML, whose turns end with `<|im_end|>`, or with the eos_token where the tokenizer knows no such token."""

FOLD = (
    "{% if messages | length > 1 and messages[0]['role'] == 'system' %}"
    "{% set before = messages[0]['content'] + '\\n\\n' if messages[0]['content'] | trim else '' %}"
    "{% set said = before + messages[1]['content'] %}"
    "{% set messages = [{'role': messages[1]['role'], 'content': said}] + messages[2:] %}{% endif %}"
)
"""What stands before a template so that a system message becomes the beginning of the first question."""


def with_template(
    tokenizer: PreTrainedTokenizerBase,
    template: str | None,
    system: Literal["refuse", "fold"],
    told: Mapping[str, Any] | None = None,
) -> PreTrainedTokenizerBase:
    """The tokenizer with another chat template, a file or chatml, one that folds system messages where asked for, and
    takes what it is `told` for what it reads by these names, unless a chat says otherwise.

    Raises InputError where there is no such file, or it is no template, where there is no template to fold for, and
    where the template does not read what it is told.
    """
    if template is None and system == "refuse" and not told:
        return tokenizer
    made = copy.deepcopy(tokenizer)
    if template == "chatml":
        end = "'<|im_end|>'" if "<|im_end|>" in tokenizer.get_vocab() else "eos_token"
        made.chat_template = CHATML.replace("END", end)
    elif template is not None:
        try:
            made.chat_template = read_content(Path(template).expanduser()).decode()
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else f"not UTF-8 text: {error.reason}"
            raise InputError(f"the chat template {template} cannot be read ({why}); give a file, or chatml") from None
        _check_template(made, template)
    if system == "fold" and not _takes_system(made):
        if not made.chat_template:
            raise InputError("there is no chat template to fold system messages for; give one by --chat-template")
        _prefix(made, FOLD)
    if told:
        _prefix(made, _telling(made, told))
    return made


def _prefix(tokenizer: PreTrainedTokenizerBase, before: str) -> None:
    """Begin the chat template, or each of those that have names, with what stands before it."""
    template = tokenizer.chat_template
    named = template if isinstance(template, dict) else {"": template}
    begun = {name: before + text for name, text in named.items()}
    tokenizer.chat_template = begun if isinstance(template, dict) else begun[""]


def _telling(tokenizer: PreTrainedTokenizerBase, told: Mapping[str, Any]) -> str:
    """What gives names a value in a chat template, where the caller gives them none."""
    text, said = str(tokenizer.chat_template or ""), ""
    for name, given in told.items():
        if not re.search(rf"\b{re.escape(name)}\b", text):
            hint = nearest(name, sorted(set(re.findall(r"[a-z_]+", text))))
            raise InputError(f"chat_template_kwargs has {name!r}, which the chat template does not read{hint}")
        value = _as_written(given)
        said += f"{{% if {name} is not defined %}}{{% set {name} = {value!r} %}}{{% endif %}}"
    return said


def _as_written(value: Any) -> Any:
    """The value that a text stands for, as in YAML; others as they are."""
    if not isinstance(value, str):
        return value
    try:
        meant = parse_yaml(value)
    except YAMLError:
        return value
    return meant if isinstance(meant, bool | int | float) else value


def _check_template(tokenizer: PreTrainedTokenizerBase, file: str) -> None:
    """Raise InputError where a file's template does not compile, fails on a question, or does not write it."""
    try:
        asked = as_read(tokenizer, [{"role": "user", "content": _QUESTION}])
        text = str(tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True))
    except Exception as error:  # a template is a program of somebody's, and may raise anything
        where = f", line {error.lineno}" if isinstance(error, TemplateSyntaxError) else ""
        raise InputError(f"the chat template {file} fails on a chat of one question ({error}{where}): fix it") from None
    if _QUESTION not in text:
        raise InputError(f"{file} is no chat template: what it writes of a chat lacks the user's question")


def _takes_system(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a system message stands in what the template writes, before and after there is an answer.

    Mistral's of version 0.3 writes it before the last question, and only while that is the last message.
    """
    asked = [{"role": "system", "content": "instruction"}, {"role": "user", "content": _QUESTION}]
    dialogues = asked, [*asked, {"role": "assistant", "content": _ANSWER}]
    return all("instruction" in _written(tokenizer, as_read(tokenizer, dialogue)) for dialogue in dialogues)


def _after_an_answer(tokenizer: PreTrainedTokenizerBase, *turns: dict[str, str]) -> str:
    """What the template writes after the answer of a short dialogue, which turns may follow; nothing where it refuses
    that."""
    if tokenizer.chat_template is None:
        return ""
    dialogue = [{"role": "user", "content": _QUESTION}, {"role": "assistant", "content": _ANSWER}, *turns]
    text = _written(tokenizer, as_read(tokenizer, dialogue))
    return text.rpartition(_ANSWER)[2] if _ANSWER in text else ""
