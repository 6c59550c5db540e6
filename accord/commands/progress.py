"""A progress bar for commands that count."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from accord.feedback.llm import AIJudge


@contextmanager
def counting(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on standard error while the context lasts; the function it gives is called with how many more are done."""
    console = Console(stderr=True)
    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"))
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(title, total=total)
        yield lambda more: progress.advance(task, more)


AnyJudge = TypeVar("AnyJudge")


def with_progress(judge: AnyJudge) -> AnyJudge:
    """The judge; one that takes its time, an AI judge, shows from now on how far it is."""
    if isinstance(judge, AIJudge):
        judge.counting = counting
    return judge
