"""Templates, and formatting of text and numbers for them; text from models is untrusted and must not hide anything."""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from accord.console import HIDDEN, sign, without_halves
from accord.errors import InputError
from accord.outputs import require_file
from accord.records import Message, show
from accord.results import Interval
from accord.results.base import called

Json = dict[str, Any]
"""An object from a JSON file."""

LONGEST = 4000
"""Maximum number of characters of a text on the page."""

BOUNDS = (0.1, 0.5, 1.0, 2.0, 4.0)
"""Thresholds of a token's shade, in nats; below the first it has none."""

_TEMPLATES = Path(__file__).parent / "templates"
_HIDDEN = re.compile(rf"{HIDDEN}|[ \n]+\Z")


def fill(template: str, **values: Any) -> str:
    """The page as HTML. All text is escaped; lone surrogates are replaced."""
    page = _environment().get_template(template).render(**values)
    return without_halves(page)


@cache
def _environment() -> jinja2.Environment:
    """The compiled templates."""
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    shown = (visible, shaded, plain, called, number, signed, percent, duration, setting, log_ratio)
    templates.filters.update({function.__name__: function for function in shown})
    templates.globals.update(along_bar=_along_bar, span=span, bounds=BOUNDS)
    return templates


def page_file(out: str | Path, name: str) -> Path:
    """The page's file: `out` if it ends in .html, else the file `name` in the folder `out`.

    Raises InputError where nothing can be written there.
    """
    path = Path(out)
    path = path if path.suffix == ".html" else path / name
    if path.is_dir():
        raise InputError(f"{path} is a folder; name the page's file, such as {path / name}.")
    return require_file(path)


def facts(values: Json) -> list[tuple[str, str]]:
    """Names and values to print; nested objects become one line, lists of words a command line."""

    def line(value: Any) -> str:
        if isinstance(value, dict):
            return ", ".join(f"{name} {setting(inner)}" for name, inner in value.items())
        if isinstance(value, list) and all(isinstance(word, str) for word in value):
            return shlex.join(value)
        return setting(value)

    return [(str(key), line(value)) for key, value in values.items()]


def shared(recorded: list[Json]) -> Json:
    """The entries on which all recorded environments agree."""
    known = [one for one in recorded if one] or [{}]
    return {key: value for key, value in known[0].items() if all(other.get(key) == value for other in known)}


def span(intervals: Iterable[Interval]) -> tuple[float, float]:
    """The range that covers all intervals, with a margin; bars in one column share it."""
    drawn = list(intervals)
    low, high = min(i.low for i in drawn), max(i.high for i in drawn)
    air = 0.05 * (high - low) or 1.0
    return low - air, high + air


def _along_bar(value: float, low: float, high: float) -> float:
    """The position of `value` on an interval bar of 120 units from `low` to `high`."""
    return round(5 + 110 * min(1.0, max(0.0, (value - low) / (high - low))), 1)


def visible(text: str) -> Markup:
    """The text as HTML with every invisible character drawn as a sign.

    Control, zero-width and direction-changing characters and lone surrogates become their code points; tabs, and
    trailing spaces and line ends, become arrows and dots. Joiners inside words and emoji are kept. Texts over `LONGEST`
    characters are cut, and the page says by how much.
    """
    html = _HIDDEN.sub(lambda run: f'<span class="sign">{"".join(map(sign, run[0]))}</span>', escape(text[:LONGEST]))
    return Markup(html + _cut(len(text)))


def _cut(length: int) -> str:
    """The note at the end of a text that is cut."""
    return f'<span class="sign"> … {length - LONGEST:,} more characters</span>' if length > LONGEST else ""


def shaded(tokens: Sequence[tuple[str, float]]) -> Markup:
    """The tokens as spans: class m1-m5 where the policy makes a token more likely than the reference, l1-l5 where less.

    Each has its log-ratio as title. Invisible characters are shown as in `visible`; spaces between tokens are neither
    shaded nor drawn as signs, trailing ones are both. Answers over `LONGEST` characters are cut, and the page says by
    how much.
    """
    html, length = Markup(""), 0
    for index, (token, value) in enumerate(tokens):
        is_last = index == len(tokens) - 1
        kept = token[: max(0, LONGEST - length)]
        length += len(token)
        if not kept:
            continue
        begun = kept.lstrip(" ")
        body = begun if is_last else begun.rstrip(" \n")
        level = strength(value)
        style = f' class="{"m" if value > 0 else "l"}{level}"' if level else ""
        drawn = Markup('<span title="{} nats"{}>{}</span>').format(signed(value), Markup(style), visible(body))
        html += kept[: len(kept) - len(begun)] + drawn + begun[len(body) :]
    return html + Markup(_cut(length))


def strength(value: float) -> int:
    """The number of thresholds that a log-ratio reaches, 0 to 5."""
    return sum(abs(value) >= bound for bound in BOUNDS)


def log_ratio(tokens: Sequence[tuple[str, float]] | None) -> float | None:
    """log pi - log ref of a whole answer, one sample of the divergence; None for the reference's answers."""
    return sum(value for _, value in tokens) if tokens and any(value for _, value in tokens) else None


def plain(text: Any) -> str:
    """A text from a row: a string unchanged, a chat as `role: content` paragraphs, None as an empty string."""
    if text is None:
        return ""
    if isinstance(text, list) and all(isinstance(turn, dict) and {"role", "content"} <= turn.keys() for turn in text):
        return show(tuple(Message(turn["role"], plain(turn["content"]), turn) for turn in text))
    return text if isinstance(text, str) else json.dumps(text, ensure_ascii=False)


def number(value: float | None) -> str:
    """A number with three significant digits; a dash for None."""
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


def signed(value: float) -> str:
    """A number with its sign."""
    return f"+{number(value)}" if value > 0 else number(value)


def percent(value: float | None) -> str:
    """A share as a percentage with one decimal."""
    return "–" if value is None or not math.isfinite(value) else f"{100 * value:.1f}%"


def duration(seconds: float | None) -> str:
    """Seconds in readable form: `0.4 s`, `42 s`, `4 min 12 s`, `1 h 05 min`."""
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
    """A setting's value on one line: text unchanged, anything else as JSON."""
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
