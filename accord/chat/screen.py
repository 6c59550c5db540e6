"""The terminal: input lines, typed or piped, streamed answers, and notes.

Characters in models' text that a terminal would interpret are shown as signs, and it is never parsed as rich markup.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from accord.console import legible, without_halves
from accord.interrupts import Interrupted

PROMPT = "> "


class Screen:
    """Display on a console; `is_live` where answers can be redrawn side by side."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)
        self.is_live = self.console.is_terminal

    def lines(self, read: Callable[[str], str] = input) -> Iterator[str]:
        """Lines until the end of the input; piped lines are echoed, so that the output reads as a conversation.

        Ctrl-C discards the line being typed.
        """
        is_typed = sys.stdin.isatty()
        if is_typed:
            with suppress(ImportError):
                import readline  # noqa: F401  (gives `input` a history and the arrow keys)
        while True:
            try:
                typed = read(PROMPT if is_typed else "")
            except EOFError:
                return
            except Interrupted:
                raise
            except KeyboardInterrupt:
                self.console.print()
                continue
            # U+FFFD for lone surrogates, and for bytes that are not UTF-8.
            line = without_halves(typed)
            if not is_typed and line.strip():
                self.console.out(f"\n{PROMPT}{legible(line)}", highlight=False)
            yield line

    def note(self, text: str) -> None:
        """Print a line that is not from a model."""
        self.console.print(Text(legible(text), "dim"), soft_wrap=True)

    def waiting(self, text: str) -> AbstractContextManager[object]:
        """A spinner while there is nothing to show."""
        return self.console.status(text) if self.is_live else nullcontext()

    def follow(self, names: Sequence[str], answers: Sequence[Iterable[str]]) -> None:
        """Show answers as they stream: two side by side on a terminal, else one after the other."""
        if len(answers) > 1 and self.is_live:
            self._side_by_side(names, answers)
            return
        for name, pieces in zip(names, answers, strict=True):
            if len(answers) > 1:
                self.console.print(Text(legible(name), "bold"), soft_wrap=True)
            try:
                for piece in pieces:
                    self.console.out(legible(piece), end="", highlight=False)
            finally:
                self.console.print()

    def _side_by_side(self, names: Sequence[str], answers: Sequence[Iterable[str]]) -> None:
        texts = [""] * len(answers)
        going = {index: iter(pieces) for index, pieces in enumerate(answers)}

        def columns() -> Table:
            grid = Table.grid(padding=(0, 2), expand=True)
            for _ in texts:
                grid.add_column(ratio=1)
            grid.add_row(*(Text(legible(name), "bold") for name in names))
            grid.add_row(*(Text(legible(text)) for text in texts))
            return grid

        with Live(columns(), console=self.console, auto_refresh=False) as live:
            while going:
                for index, pieces in list(going.items()):
                    piece = next(pieces, None)
                    if piece is None:
                        del going[index]
                    else:
                        texts[index] += piece
                live.update(columns(), refresh=True)
