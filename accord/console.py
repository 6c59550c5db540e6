"""Signs for characters that nobody sees: what a model wrote is untrusted, and nothing of it may hide or act.

A terminal obeys control characters (an escape sequence can move the cursor, rename the window or color what follows),
and readers are misled by zero-width and direction-changing ones. Wherever a text is shown, signs stand in their place.

What paths are called, and a progress bar for commands that count.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

HIDDEN = (
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\u00ad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)
"""The pattern of one such character: control (but no line end), zero-width, direction-changing, a lone surrogate, a
tag. Joiners inside words and emoji are none."""

_HIDDEN = re.compile(HIDDEN)
_ON_ONE_LINE = re.compile(rf"{HIDDEN}|[^\S ]|\A +| +\Z")
_NAMED = {" ": "·", "\n": "↵\n", "\t": "⇥\t"}


def sign(character: str) -> str:
    """What stands for one such character: its code point, but for a tab, a space and a line end."""
    return _NAMED.get(character, f"⟨U+{ord(character):04X}⟩")


def legible(text: str) -> str:
    """The text with a sign for every character that hides or acts; spaces and line ends stay as they are."""
    return _HIDDEN.sub(lambda match: sign(match.group()), text)


def called(name: str) -> str:
    """What a path is called: a file by its name, a model by its run's folder; what is no path stays as it is."""
    parts = [part for part in name.split("/") if part not in ("", ".", "..")]
    if not parts or "//" in name or " " in name:
        return name
    kept = {"model": "", "best": " best"}.get(parts[-1]) if len(parts) > 1 else None
    return parts[-1] if kept is None else parts[-2] + kept


def on_one_line(text: str) -> str:
    """A token's text: signs for what hides or acts, for line ends and blanks, and for spaces that begin or end it."""
    return _ON_ONE_LINE.sub(lambda match: "".join(sign(c)[0] if c in _NAMED else sign(c) for c in match.group()), text)


@contextmanager
def counting(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on standard error while the context lasts; the function it gives is called with how many more are done."""
    console = Console(stderr=True)
    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"))
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(title, total=total)
        yield lambda more: progress.advance(task, more)
