"""The chat template that a tokenizer has: another one, with a generation prompt, a place for system messages, values of
its variables and a date."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jinja2 import TemplateSyntaxError
from yaml import YAMLError

from accord.dates import STRFTIME_NOW, as_date, today, writes_date
from accord.engine.turns import ANSWER, QUESTION, as_read, rendered
from accord.errors import InputError, nearest
from accord.parsing import parse_json, parse_untyped, read_content

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ADD = "add_generation_prompt"
"""The variable with which chat templates are asked for the generation prompt."""

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
    question = as_read(tokenizer, [{"role": "user", "content": QUESTION}])
    plain = rendered(tokenizer, question)
    both = rendered(tokenizer, [*question, *as_read(tokenizer, [{"role": "assistant", "content": ANSWER}])])
    begun = both.removeprefix(plain).partition(ANSWER)[0].rstrip(" ") if plain and both.startswith(plain) else ""
    if not re.search(r"\w", begun) or ANSWER not in both:
        return ""
    tokenizer.chat_template = f"{template}{{% if {ADD} %}}{{{{ {begun!r} }}}}{{% endif %}}"
    if rendered(tokenizer, question) == plain and rendered(tokenizer, question, generation=True) == plain + begun:
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
        question = as_read(tokenizer, [{"role": "user", "content": QUESTION}])
        text = str(tokenizer.apply_chat_template(question, tokenize=False, add_generation_prompt=True))
    except Exception as error:  # a template is a program and may raise anything
        where = f", line {error.lineno}" if isinstance(error, TemplateSyntaxError) else ""
        raise InputError(f"the chat template {file} fails on a chat of one question ({error}{where}): fix it") from None
    if QUESTION not in text:
        raise InputError(f"{file} is not a chat template: its text of a chat lacks the user's question")


def _takes_system(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the template writes a system message, with and without an answer after it.

    Mistral's of version 0.3 writes it before the last question, and only while that is the last message.
    """
    question = [{"role": "system", "content": "instruction"}, {"role": "user", "content": QUESTION}]
    dialogues = question, [*question, {"role": "assistant", "content": ANSWER}]
    return all("instruction" in rendered(tokenizer, as_read(tokenizer, dialogue)) for dialogue in dialogues)
