"""The date that chat templates write by `strftime_now`: one for a whole run, so that a chat always has the same tokens.

Templates (Llama 3.2, Granite 3, SmolLM 3, gpt-oss ...) call it to write today's date into every prompt. A run fixes the
date when it begins, records it, and uses it again when it is resumed on another day.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import date, datetime
from functools import lru_cache

from accord.errors import InputError

STRFTIME_NOW = "strftime_now"
"""The function of templates that formats the current time, as transformers has it."""

_fixed: ContextVar[date | None] = ContextVar("fixed", default=None)


@contextmanager
def fixed(day: date | None = None) -> Iterator[None]:
    """Fix the date in the block, on `day`; by default on that of a block around it, or today."""
    token = _fixed.set(day or today())
    try:
        yield
    finally:
        _fixed.reset(token)


def today() -> date:
    """The date that templates write now: the fixed one, otherwise that of the clock."""
    return _fixed.get() or date.today()


def as_date(value: object, what: str) -> date:
    """The date in a text such as 2026-11-30. Raises InputError, which names the setting (`what`), where it is none."""
    try:
        return date.fromisoformat(str(value))
    except ValueError:
        raise InputError(f"{what} must be a date such as 2026-11-30, not {value!r}") from None


def writes_date(template: object) -> bool:
    """Whether a chat template, or one of a set of named ones, writes the current date."""
    return re.search(rf"\b{STRFTIME_NOW}\b", str(template)) is not None


@lru_cache
def dated(template: str, day: date) -> str:
    """A chat template whose `strftime_now` formats the beginning of a day, whatever the time is.

    transformers gives templates neither functions nor dates of the caller, so a macro with the day's text for every
    directive stands before the template, where it takes precedence over the function of that name.
    """
    midnight = datetime(day.year, day.month, day.day)
    directives = [flag + letter for flag in ("", *"-_0^#EO") for letter in string.ascii_letters]
    texts = {directive: midnight.strftime(f"%{directive}") for directive in directives}
    return _MACRO.replace("TEXTS", repr({name: text for name, text in texts.items() if "%" not in text})) + template


_MACRO = (
    f"{{% macro {STRFTIME_NOW}(format) %}}{{% set texts = TEXTS %}}{{% filter replace('\\0', '%') %}}"
    "{% for part in format.replace('%%', '\\0').split('%') %}{% if loop.first %}{{ part }}"  # \0 is a doubled %
    "{% elif part[:2] in texts %}{{ texts[part[:2]] + part[2:] }}"  # with a flag: %-d
    "{% elif part[:1] in texts %}{{ texts[part[:1]] + part[1:] }}"
    "{% else %}{{ '%' + part }}{% endif %}{% endfor %}{% endfilter %}{% endmacro %}"
)
