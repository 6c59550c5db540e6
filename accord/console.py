"""The terminal: lines and bars on standard error, tables on standard output, and texts that nobody need trust.

A terminal obeys control characters (an escape sequence can move the cursor, rename the window or color what follows),
and readers are misled by zero-width and direction-changing ones. What a model wrote is untrusted: wherever it is shown,
signs stand in their place.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
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


def without_halves(text: str) -> str:
    """The text with U+FFFD for half of a surrogate pair, which no file of UTF-8 can hold; two halves side by side are
    the character that they make."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def on_one_line(text: str) -> str:
    """A token's text: signs for what hides or acts, for line ends and blanks, and for spaces that begin or end it."""
    return _ON_ONE_LINE.sub(lambda match: "".join(sign(c)[0] if c in _NAMED else sign(c) for c in match.group()), text)


def without_secrets(text: str) -> str:
    """The text with its URLs as far as their path: no user, no password, and no query, which may hold a key."""
    return re.sub(r"(\w://)(?:[^/\s]*@)?([^\s?#]*)(?:[?#][^\s,)]*)?", r"\1\2", text)


def said(error: BaseException) -> str:
    """What an exception says in its first line, with the next where that one introduces it, or else its name.

    Without secrets.
    """
    first, *more = (str(error).strip() or type(error).__name__).splitlines()
    told = next(filter(None, map(str.strip, more)), "") if first.rstrip().endswith(":") else ""
    return without_secrets(f"{first.rstrip()} {told}".rstrip(" .:"))


def status(line: str) -> None:
    """One line for the person watching, on standard error."""
    Console(stderr=True).print(legible(line), markup=False, highlight=False, soft_wrap=True)


def show(*tables: RenderableType) -> None:
    """Tables on standard output; a text in them is no markup."""
    for table in tables:
        Console(markup=False).print(_Legible(table))


@dataclass(frozen=True)
class _Legible:
    """What is printed, made legible once it is text."""

    shown: RenderableType

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for part in console.render(self.shown, options):
            yield part if part.control else part._replace(text=legible(part.text))


@contextmanager
def counting(title: str, total: int, note: Callable[[], str] = str) -> Iterator[Callable[[int], None]]:
    """A bar on standard error while the context lasts; the function it gives is called with how many more are done.

    Behind it stand how many are done a second, and a note.
    """
    console = Console(stderr=True)
    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"))
    behind = (TimeRemainingColumn(), TextColumn("{task.fields[note]}"))
    with Progress(*columns, *behind, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(title, total=total, note="")

        def done(more: int) -> None:
            speed = progress.tasks[0].speed
            progress.update(task, advance=more, note=f"{speed:.2g}/s {note()}" if speed else note())

        yield done
