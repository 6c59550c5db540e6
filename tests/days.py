"""What day it is, for accord and for the chat templates of transformers."""

from __future__ import annotations

import datetime

import pytest


def set_day(patch: pytest.MonkeyPatch, text: str) -> None:
    """Set the clock to the afternoon of a day (YYYY-MM-DD)."""
    now = datetime.datetime.fromisoformat(f"{text} 15:30")

    class Day(datetime.date):
        @classmethod
        def today(cls) -> Day:
            return cls(now.year, now.month, now.day)

    class Moment(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Moment:
            return cls(now.year, now.month, now.day, now.hour, now.minute)

    patch.setattr("accord.dates.date", Day)
    patch.setattr("transformers.utils.chat_template_utils.datetime", Moment)
