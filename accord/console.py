"""The terminal: status lines and progress bars on standard error, tables on standard output, untrusted text escaped.

A terminal obeys control characters (an escape sequence can move the cursor, rename the window or color what follows),
and zero-width and direction-changing characters mislead readers. Text written by a model is untrusted: wherever it is
shown, visible signs replace these characters.
"""

from __future__ import annotations

import logging
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
"""A pattern for one such character: control (but no line end), zero-width, direction-changing, a lone surrogate or a
tag. Joiners inside words and emoji do not match."""

_HIDDEN = re.compile(HIDDEN)
_ON_ONE_LINE = re.compile(rf"{HIDDEN}|[^\S ]|\A +| +\Z")
_NAMED = {" ": "·", "\n": "↵\n", "\t": "⇥\t"}


def sign(character: str) -> str:
    """The visible sign for a character: its code point, or a symbol for a tab, a space or a line end."""
    return _NAMED.get(character, f"⟨U+{ord(character):04X}⟩")


def legible(text: str) -> str:
    """The text with a visible sign for every hidden or control character; spaces and line ends stay."""
    return _HIDDEN.sub(lambda match: sign(match.group()), text)


def without_halves(text: str) -> str:
    """The text with U+FFFD for each lone surrogate, which UTF-8 cannot encode; two that form a pair become their
    character."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def on_one_line(text: str) -> str:
    """A token's text on one line: signs for hidden characters, line ends, tabs, and leading or trailing spaces."""
    return _ON_ONE_LINE.sub(lambda match: "".join(sign(c)[0] if c in _NAMED else sign(c) for c in match.group()), text)


def without_secrets(text: str) -> str:
    """The text with URLs cut after their path: no user, no password, and no query, which may hold a key."""
    return re.sub(r"(\w://)(?:[^/\s]*@)?([^\s?#]*)(?:[?#][^\s,)]*)?", r"\1\2", text)


def error_text(error: BaseException) -> str:
    """The first line of an exception's message, without secrets; its class name where the message is empty.

    Where the first line ends in a colon, the next line is added.
    """
    first, *more = (str(error).strip() or type(error).__name__).splitlines()
    detail = next(filter(None, map(str.strip, more)), "") if first.rstrip().endswith(":") else ""
    return without_secrets(f"{first.rstrip()} {detail}".rstrip(" .:"))


def status(line: str) -> None:
    """Print one status line on standard error."""
    Console(stderr=True).print(legible(line), markup=False, highlight=False, soft_wrap=True)


@contextmanager
def quiet_log(library: str) -> Iterator[None]:
    """Within the context, a library logs only errors: bitsandbytes warns, as it is imported, of faster kernels."""
    log = logging.getLogger(library)
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


def show(*tables: RenderableType) -> None:
    """Print tables on standard output; their text is not read as markup."""
    for table in tables:
        Console(markup=False).print(_Legible(table))


@dataclass(frozen=True)
class _Legible:
    """A renderable whose text is made legible after rendering."""

    shown: RenderableType

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for part in console.render(self.shown, options):
            yield part if part.control else part._replace(text=legible(part.text))


class StepProgress:
    """The progress of a run by steps: a bar with the latest numbers, or without a terminal a line every tenth of it."""

    def __init__(self, console: Console, title: str, step: int) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        behind = (TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[numbers]}"))
        self.console, self.title, self.total = console, title, 0
        self.bar = Progress(*columns, *behind, console=console, disable=not console.is_terminal)
        self.task = self.bar.add_task(title, completed=step, numbers="")

    def expect(self, total: int) -> None:
        """Set the expected number of steps."""
        self.total = total
        self.bar.update(self.task, total=total)

    def show(self, step: int, numbers: str, seconds: float) -> None:
        """Show the numbers of a step (0 is before the first), which took this many seconds."""
        self.bar.update(self.task, completed=step, numbers=numbers)
        if not self.console.is_terminal and (step % max(1, self.total // 10) == 0 or step == self.total):
            left = f"  ~{seconds * (self.total - step):.0f} s left" if step else ""
            line = f"{self.title} {step}/{self.total}  {numbers}{left}"
            self.console.print(line, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def progress_bar(title: str, total: int, note: Callable[[], str] = str) -> Iterator[Callable[[int], None]]:
    """A progress bar on standard error; yields the function that advances it by a number of finished items.

    The bar ends with the speed (items a second) and `note()`.
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
