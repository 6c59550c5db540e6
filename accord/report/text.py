"""Words and numbers as the page prints them; what a model wrote is untrusted, and nothing of it may hide."""

from __future__ import annotations

import json
import math
import re
from typing import Any

from markupsafe import Markup, escape

from accord.console import HIDDEN, sign
from accord.records import Message, show

LONGEST = 4000
"""Characters of one text that the page shows."""

_HIDDEN = re.compile(rf"{HIDDEN}|[ \n]+\Z")


def visible(text: str) -> Markup:
    """The text as HTML in which every invisible character is drawn as a sign.

    Control, zero-width and direction-changing characters and lone surrogates become their code points; tabs, and the
    spaces and line ends that close the text, become arrows and dots. Joiners inside words and emoji stay as they are.
    Texts over `LONGEST` characters are cut, and the page says by how much.
    """
    kept, cut = text[:LONGEST], len(text) - LONGEST
    parts, position = [], 0
    for match in _HIDDEN.finditer(kept):
        parts.append(escape(kept[position : match.start()]))
        parts.append(Markup('<span class="sign">{}</span>').format("".join(map(sign, match.group()))))
        position = match.end()
    parts.append(escape(kept[position:]))
    if cut > 0:
        parts.append(Markup('<span class="sign"> … {} more characters</span>').format(f"{cut:,}"))
    return Markup("").join(parts)


def plain(text: Any) -> str:
    """A text from a row: a string as it is, a chat as `role: content` paragraphs, nothing as an empty string."""
    if text is None:
        return ""
    if isinstance(text, list) and all(isinstance(turn, dict) and {"role", "content"} <= turn.keys() for turn in text):
        return show(tuple(Message(turn["role"], plain(turn["content"])) for turn in text))
    return text if isinstance(text, str) else json.dumps(text, ensure_ascii=False)


def called(name: str) -> str:
    """What a path is called: a file by its name, a model by its run's folder; what is no path stays as it is."""
    parts = [part for part in name.split("/") if part not in ("", ".", "..")]
    if not parts or "//" in name or " " in name:
        return name
    kept = {"model": "", "best": " best"}.get(parts[-1]) if len(parts) > 1 else None
    return parts[-1] if kept is None else parts[-2] + kept


def number(value: float | None) -> str:
    """A number to three significant digits; a dash where there is none."""
    if value is None or not math.isfinite(value):
        return "–"
    size = abs(value)
    if size == 0:
        return "0"
    if size >= 100:
        shown = f"{value:,.0f}"
    elif size >= 0.001:
        shown = f"{value:.{2 - max(math.floor(math.log10(size)), -1)}f}"
    else:
        shown = f"{value:.1e}".replace("e-0", "e-")
    return shown.replace("-", "−")


def percent(value: float | None) -> str:
    """A share as a percentage with one decimal."""
    return "–" if value is None or not math.isfinite(value) else f"{100 * value:.1f}%"


def duration(seconds: float | None) -> str:
    """Seconds as people say them: `0.4 s`, `42 s`, `4 min 12 s`, `1 h 05 min`."""
    if seconds is None or not math.isfinite(seconds):
        return "–"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"


def setting(value: Any) -> str:
    """A setting's value on one line: text as it is, anything else as JSON."""
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
