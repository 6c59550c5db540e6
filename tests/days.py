"""What day it is, for accord and for the chat templates of transformers, and a template that writes it."""

from __future__ import annotations

import datetime

import pytest

DATED = (
    "<system>{{ {'29': 'hi', '30': 'bye'}[strftime_now('%d')] }}</s>"
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
"""A template of the small tokenizer that says something else on the 29th and the 30th of a month."""


def set_day(patch: pytest.MonkeyPatch, text: str) -> None:
    """Set the clock to the afternoon of a day (YYYY-MM-DD)."""
    now = datetime.datetime.fromisoformat(f"{text} 15:30")

    class Day(datetime.date):
        @classmethod
        def today(cls) -> datetime.date:  # type: ignore[override]
            return now.date()

    class Moment(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> datetime.datetime:  # type: ignore[override]
            return now

    patch.setattr("accord.dates.date", Day)
    patch.setattr("transformers.utils.chat_template_utils.datetime", Moment)
